"""The pages' addresses."""

from django.urls import path

from dashboard.views import about, alerts, execution, executions, first_run, kit, overview, search, session, system

urlpatterns = [
    path("", overview.overview, name="overview"),
    path("alerts", alerts.alerts, name="alerts"),
    path("alerts/<uuid:alert_id>", alerts.alert, name="alert"),
    path("alerts/<uuid:alert_id>/acknowledge", alerts.acknowledge, name="alert-acknowledge"),
    path("alerts/<uuid:alert_id>/resolve", alerts.resolve, name="alert-resolve"),
    path("alerts/<uuid:alert_id>/escalate", alerts.escalate, name="alert-escalate"),
    path("alerts/<uuid:alert_id>/snooze", alerts.snooze, name="alert-snooze"),
    path("alerts/<uuid:alert_id>/reopen", alerts.reopen, name="alert-reopen"),
    path("alerts/<uuid:alert_id>/note", alerts.note, name="alert-note"),
    path("system", system.system, name="system"),
    path("about", about.about, name="about"),
    path("first-run/key", first_run.make_key, name="first-key"),
    path("first-run/arrival", first_run.arrival, name="first-arrival"),
    path("sign-in", session.SignIn.as_view(), name="sign-in"),
    path("sign-out", session.SignOut.as_view(), name="sign-out"),
    path("project/<int:project_id>", session.switch_project, name="switch-project"),
    path("presence", session.presence, name="presence"),
    path("executions", executions.executions, name="executions"),
    path("executions/act", executions.act, name="executions-act"),
    path("executions/<uuid:execution_id>", execution.execution, name="execution"),
    path("executions/<uuid:execution_id>/spans/<str:key>", execution.span, name="execution-span"),
    path("executions/<uuid:execution_id>/<slug:name>", execution.command, name="execution-command"),
    path("search", search.search, name="search"),
    path("kit", kit.sheet, name="kit"),
    path("kit/frame", kit.framed, name="kit-frame"),
    path("kit/parts", kit.parts, name="kit-parts"),
]
