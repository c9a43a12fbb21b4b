from django.apps import AppConfig

from monitor import checks  # noqa: F401  (registers them)


class MonitorConfig(AppConfig):
    name = "monitor"
