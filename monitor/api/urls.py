"""The agents' HTTP door: each area lists its own paths."""

from django.urls import URLPattern, URLResolver, include, path

from monitor.api import docs, openapi

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/schema/", openapi.schema),
    path("api/docs/", docs.page),
    path("api/v1/", include("monitor.api.executions")),
    path("api/v1/", include("monitor.api.execution_verbs")),
    path("api/v1/", include("monitor.api.loops")),
    path("api/v1/", include("monitor.api.operations")),
    path("api/v1/", include("monitor.api.orders")),
    path("", include("monitor.api.otlp")),
    path("", include("monitor.api.langfuse")),
    path("api/v1/", include("monitor.api.batch")),
    path("api/v1/", include("monitor.api.costs")),
    path("api/v1/", include("monitor.api.people")),
    path("api/v1/", include("monitor.api.keys")),
    path("api/v1/", include("monitor.api.agents")),
    path("api/v1/", include("monitor.api.views")),
    path("api/v1/", include("monitor.api.monitoring")),
    path("api/v1/", include("monitor.api.keeping")),
]
