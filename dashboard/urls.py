"""The pages' addresses."""

from django.urls import path

from dashboard.views import kit, session

urlpatterns = [
    path("sign-in", session.SignIn.as_view(), name="sign-in"),
    path("sign-out", session.SignOut.as_view(), name="sign-out"),
    path("project/<int:project_id>", session.switch_project, name="switch-project"),
    path("presence", session.presence, name="presence"),
    path("kit", kit.sheet, name="kit"),
    path("kit/frame", kit.framed, name="kit-frame"),
    path("kit/parts", kit.parts, name="kit-parts"),
]
