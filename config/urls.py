"""Every address of the product, by app."""

from django.urls import URLPattern, URLResolver, include, path

from config import metrics, operations
from dashboard.live import Events

urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("alerts.api")),
    path("", include("alerts.metrics_api")),
    path("", include("monitor.api.urls")),
    path("events/", Events.as_view()),
    path("health", operations.health),
    path("health/watch", operations.watch),
    path("ready", operations.ready),
    path("metrics", metrics.page),
    path("", include("dashboard.urls")),
]

handler400 = "monitor.api.problems.bad_request"
handler403 = "monitor.api.problems.permission_denied"
handler404 = "monitor.api.problems.page_not_found"
handler500 = "monitor.api.problems.server_error"
