"""Every address of the product, by app."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("monitor.api.urls")),
    path("", include("alerts.api")),
]

handler400 = "monitor.api.problems.bad_request"
handler403 = "monitor.api.problems.permission_denied"
handler404 = "monitor.api.problems.page_not_found"
handler500 = "monitor.api.problems.server_error"
