"""The pages' addresses."""

from django.urls import path

from dashboard.views import kit

urlpatterns = [
    path("kit", kit.sheet, name="kit"),
    path("kit/frame", kit.framed, name="kit-frame"),
    path("kit/parts", kit.parts, name="kit-parts"),
]
