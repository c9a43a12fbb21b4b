"""The form of an agent: its values in the words of the fields, and what a sent form says of it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from monitor.agents import Edit
from monitor.api.bodies import fault
from monitor.models import Agent

TEXTS = ("description", "type", "default_model", "cost_tier", "mode")
LISTS = ("capabilities", "supported_models")
NUMBERS = ("timeout_s", "heartbeat_s", "max_retries", "stall_s")
UNITS = {"min": 60, "h": 3600, "d": 86_400, "s": 1}
MODES = {
    "": "not said",
    "explore": "explore: looks, changes nothing",
    "execute": "execute: acts by itself",
    "escalate": "escalate: asks before it acts",
}
# What is wrong with a field, as a person is told.
WRONG = {
    "description": "A description has at most 2,000 characters.",
    "type": "A type has at most 100 characters.",
    "capabilities": "At most 50 lines, each of at most 100 characters.",
    "supported_models": "At most 50 lines, each of at most 200 characters.",
    "default_model": "A model’s name has at most 200 characters.",
    "cost_tier": "A tier has at most 20 characters.",
    "timeout_s": "Whole seconds, 1 to 2,592,000 (30 days), or nothing.",
    "heartbeat_s": "Whole seconds, 1 to 86,400 (a day), or nothing.",
    "max_retries": "A whole number, 0 to 100, or nothing.",
    "stall_s": "Whole seconds, 0 (no such clock) to 2,592,000 (30 days), or nothing.",
    "expected_every_s": "A whole number, together 1 minute to 90 days, or nothing.",
}


class BadForm(ValueError):
    """A field of the form can't be so; `field` names it, `str()` says why."""

    def __init__(self, field: str) -> None:
        super().__init__(WRONG.get(field, "This can’t be so."))
        self.field = field


def shown(agent: Agent) -> dict[str, Any]:
    """The values as they stand in the fields."""
    every_s = agent.expected_every_s
    unit = next((unit for unit in ("d", "h", "min") if every_s and every_s % UNITS[unit] == 0), "s" if every_s else "h")
    return (
        {name: getattr(agent, name) for name in TEXTS}
        | {name: "\n".join(getattr(agent, name)) for name in LISTS}
        | {name: "" if (value := getattr(agent, name)) is None else str(value) for name in NUMBERS}
        | {
            "expected": str(every_s // UNITS[unit]) if every_s else "",
            "expected_unit": unit,
            "version": str(agent.version),
        }
    )


def read(form: Mapping[str, str]) -> Edit:
    """What a sent form says. Raises BadForm."""
    said: dict[str, Any] = {name: form.get(name, "").strip().replace("\r\n", "\n") for name in TEXTS}
    said |= {name: [one for each in form.get(name, "").splitlines() if (one := each.strip())] for name in LISTS}
    said |= {name: _whole(name, form.get(name, "")) for name in NUMBERS}
    expected = _whole("expected_every_s", form.get("expected", ""))
    said["expected_every_s"] = expected and expected * UNITS.get(form.get("expected_unit", ""), 1)
    said["version"] = _whole("version", form.get("version", "")) or 1
    try:
        return msgspec.convert(said, Edit)
    except msgspec.ValidationError as error:
        raise BadForm(fault(error)[0].partition("[")[0]) from error


def _whole(field: str, text: str) -> int | None:
    plain = text.strip().replace(",", "")
    if not plain:
        return None
    if not (plain.isascii() and plain.isdigit() and len(plain) < 10):
        raise BadForm(field)
    return int(plain)
