"""The agents' HTTP door: each area lists its own paths."""

from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/v1/", include("monitor.api.people")),
]
