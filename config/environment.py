"""The environment's values: empty is unset, and what can't be meant ends the start by name (handrail.E011)."""

from collections.abc import Callable
from typing import Any

import environ
from django.core.exceptions import ImproperlyConfigured

TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
# What a value is to be, in words.
MEANT: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}


class Environment(environ.Env):
    """`env.int("NAME", default=1)` and the like."""

    def get_value(self, var: str, cast: Any = None, default: Any = environ.Env.NOTSET, **options: Any) -> Any:
        """The value as the wanted kind. Raises ImproperlyConfigured for one that is none."""
        text = self.ENVIRON.get(var, "").strip()
        if not text and default is not environ.Env.NOTSET and cast in MEANT:
            return default
        if cast not in MEANT:
            return super().get_value(var, cast=cast, default=default, **options)
        read: Callable[[str], Any] = _truth if cast is bool else cast
        try:
            return read(text)
        except (KeyError, ValueError):
            raise refusal(var, text, MEANT[cast]) from None

    def whole(self, name: str, *, default: int, least: int, most: int) -> int:
        """A whole number within these bounds. Raises ImproperlyConfigured for anything else."""
        number: int = self.int(name, default=default)
        if not least <= number <= most:
            raise refusal(name, str(number), f"a whole number from {least} to {most}")
        return number


def refusal(name: str, text: str, meant: str) -> ImproperlyConfigured:
    """What ends the start because of one setting."""
    return ImproperlyConfigured(f"handrail.E011: {name} is {text!r}. Give {meant}, or unset it.")


def _truth(text: str) -> bool:
    return TRUTHS[text.lower()]
