"""The agents' HTTP door: each area lists its own paths."""

from django.urls import URLPattern, URLResolver, path

from monitor.api import docs, openapi

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/schema/", openapi.schema),
    path("api/docs/", docs.page),
]
