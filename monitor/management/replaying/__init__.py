"""Recorded runs of real agents, fed through the public API by `manage.py replay`."""
