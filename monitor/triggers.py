"""When a message calls for a person: each trigger is a function and a line in TRIGGERS."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from monitor.models import Conversation, Message, Project
from monitor.models.conversations import MessageRole

ARTICLES = {"a", "an", "the"}
WORDS = re.compile(r"[\w'’-]+")


class Pulled(NamedTuple):
    """A trigger that fired: its name, the reason in words and what it saw."""

    trigger: str
    reason: str
    evidence: Mapping[str, Any]


def failed(role: str, data: Mapping[str, Any]) -> bool:
    """Does a message of the agent's side report an error? Its data say so by `error` or by `success` false."""
    return role != MessageRole.USER and bool(data.get("error") or data.get("success") is False)


def ends_errors(role: str, content: str, data: Mapping[str, Any]) -> bool:
    """A tool that worked or an answer to the customer ends a row of errors; an answer that calls tools does not."""
    if failed(role, data):
        return False
    return role == MessageRole.TOOL or (role == MessageRole.ASSISTANT and bool(content) and not data.get("tool_calls"))


def confidence(data: Mapping[str, Any]) -> float | None:
    """How sure the agent says it is, 0 to 1; None where it says nothing or nonsense."""
    said = data.get("confidence")
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said <= 1:
        return None
    return float(said)


def plain(text: str) -> str:
    """Words in lower case without articles, so that "speak to a human" holds "speak to human"."""
    words = (word for word in WORDS.findall(text.casefold()) if word not in ARTICLES)
    return f" {' '.join(words)} "


def phrase(project: Project, conversation: Conversation, message: Message) -> Pulled | None:
    """The customer asks for a person."""
    if message.role != MessageRole.USER:
        return None
    text = plain(message.content)
    for wanted in project.handover_phrases:
        if plain(wanted).strip() and plain(wanted) in text:
            return Pulled("phrase", f"The customer said “{wanted}”.", {"phrase": wanted})
    return None


def low_confidence(project: Project, conversation: Conversation, message: Message) -> Pulled | None:
    """The agent is less sure of this answer than the project wants."""
    sure, least = confidence(message.data), project.handover_confidence_below
    if message.role != MessageRole.ASSISTANT or sure is None or least is None or sure >= least:
        return None
    return Pulled(
        "low_confidence",
        f"The agent's confidence is {sure:.2f}, below {least:.2f}.",
        {"confidence": sure, "below": least},
    )


def errors_in_a_row(project: Project, conversation: Conversation, message: Message) -> Pulled | None:
    """The agent fails again and again."""
    limit, count = project.handover_errors_in_a_row, conversation.errors_in_a_row
    if not limit or count < limit or not failed(message.role, message.data):
        return None
    last = str(message.data.get("error") or message.content)[:500]
    return Pulled("errors", f"{count} errors in a row; the last was: {last}", {"errors": count, "last": last})


TRIGGERS: tuple[Callable[[Project, Conversation, Message], Pulled | None], ...] = (
    phrase,
    errors_in_a_row,
    low_confidence,
)


def pulled(project: Project, conversation: Conversation, message: Message) -> Pulled | None:
    """The first trigger that this message pulls; what was said before the baseline pulls none."""
    if message.seq <= conversation.trigger_baseline_seq:
        return None
    return next(filter(None, (trigger(project, conversation, message) for trigger in TRIGGERS)), None)
