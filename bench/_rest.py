"""The view of bench/_calls.py and nothing else, without middleware. `uvicorn bench._rest:app`."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
settings.ROOT_URLCONF = "bench._calls"
settings.MIDDLEWARE = []
app = get_asgi_application()
