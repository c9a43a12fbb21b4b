"""The embedded servers and the supervisor behind `make run`; no Django, no product words."""
