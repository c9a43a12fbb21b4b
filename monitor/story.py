"""What the events of a span tell beside its attributes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from monitor import semconv
from monitor.values import as_reason, as_text


class Event(NamedTuple):
    """A span's event; `at_ns` counts nanoseconds since 1970."""

    name: str
    at_ns: int
    attributes: dict[str, Any]


class Story(NamedTuple):
    """The fields that events fill; `others` are the events that fill none."""

    exception: str | None = None
    waits_for_human: bool = False
    first_token_ns: int | None = None
    input: str | None = None
    output: str | None = None
    finish: str | None = None
    others: list[dict[str, Any]] | None = None


SILENCE = Story()


def told(events: Sequence[Event]) -> Story:
    """Read the events of one span."""
    exception: str | None = None
    finish: str | None = None
    waits = False
    first_token_ns: int | None = None
    heard: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    given: dict[str, Any] = {}
    others: list[dict[str, Any]] = []
    for name, at_ns, attributes in events:
        if name == semconv.EXCEPTION_EVENT:
            kind = str(attributes.get("exception.type") or "")
            message = str(attributes.get("exception.message") or "")
            waits = waits or kind.rpartition(".")[2] in semconv.INTERRUPTS
            exception = exception or ": ".join(part for part in (kind, message) if part)
        elif name in semconv.INPUT_EVENTS:
            heard.append({"role": name.split(".")[1], **attributes})
        elif name in semconv.OUTPUT_EVENTS:
            said.append(attributes)
            finish = finish or as_reason(attributes.get("finish_reason"))
        elif name == semconv.DETAILS_EVENT:
            given = attributes
        elif name in semconv.FIRST_TOKEN_EVENTS:
            first_token_ns = min(at_ns, first_token_ns or at_ns)
        elif name not in semconv.NOISE_EVENTS:
            others.append({"name": name, "at_ns": at_ns, **attributes})
    return Story(
        exception,
        waits,
        first_token_ns,
        _messages(given.get("gen_ai.input.messages"), heard),
        _messages(given.get("gen_ai.output.messages"), said),
        finish,
        others or None,
    )


def _messages(given: Any, events: list[dict[str, Any]]) -> str | None:
    if given:
        return as_text(given)
    if len(events) == 1:
        lone = events[0].get("content") or events[0].get("message")
        if lone:
            return as_text(lone)
    return as_text(events) if events else None
