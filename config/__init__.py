"""The Django project: settings, urls, the schedule of periodic jobs; no business words."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
