"""A conversation as people read it: messages by number, between them the tools that ran and who had the turn."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils.html import format_html

from dashboard import words
from dashboard.moves import Move, who
from monitor import triggers
from monitor.models import Conversation, Message, Span
from monitor.models.conversations import MessageRole, State, Visibility
from monitor.models.spans import Kind

MESSAGES_SHOWN = 200
ARTICLES_BETWEEN = r"[^\w]+(?:(?:an?|the)[^\w]+)*"
FENCED = "The AI can no longer send messages or start tools here."
# A tool's message and its span tell of one call when they are this near.
SAME_CALL = timedelta(seconds=10)


@dataclass(frozen=True)
class Entry:
    """One row: `kind` is customer, ai, you, person, system, note, held, tool, fence or line."""

    key: str
    kind: str
    at: datetime
    who: str = ""
    text: str = ""
    strong: str = ""
    glyph: str = ""
    took_s: float | None = None
    failed: bool = False


def entries(
    conversation: Conversation,
    messages: Sequence[Message],
    spans: Iterable[Span],
    moves: Sequence[Move],
    *,
    customer: str,
    names: Mapping[str, str],
    me: str,
    evidence: Mapping[str, Any],
    now: datetime,
) -> list[Entry]:
    """Messages in the order of their numbers; tools and moves stand where their time falls between them."""
    tools = [span for span in spans if span.kind == Kind.TOOL]
    between = [_of_span(span) for span in tools] + [line for move in moves if (line := _of_move(move, now=now))]
    between.sort(key=lambda entry: entry.at)
    shown: list[Entry] = []
    place = 0
    # What came before the first message that is shown belongs to those that are not.
    if len(messages) == MESSAGES_SHOWN:
        place = sum(entry.at < messages[0].created_at for entry in between)
    for message in messages:
        while place < len(between) and between[place].at < message.created_at:
            shown.append(between[place])
            place += 1
        if message.role == MessageRole.TOOL and any(_same_call(message, span) for span in tools):
            continue
        entry = _of_message(conversation, message, moves, customer, names, me, evidence, now=now)
        if entry is not None:
            shown.append(entry)
    return shown + between[place:]


def marked(text: str, phrase: str) -> str:
    """The text with the phrase marked as the trigger found it: in any case, with articles in between."""
    parts = [re.escape(word) for word in triggers.plain(phrase).split()]
    pattern = rf"\b{ARTICLES_BETWEEN.join(parts)}\b"
    found = re.search(pattern, text, re.IGNORECASE) if parts else None
    if found is None:
        return text
    return format_html("{}<mark>{}</mark>{}", text[: found.start()], found.group(), text[found.end() :])


def _of_message(
    conversation: Conversation,
    message: Message,
    moves: Sequence[Move],
    customer: str,
    names: Mapping[str, str],
    me: str,
    evidence: Mapping[str, Any],
    *,
    now: datetime,
) -> Entry | None:
    key, at, text = f"m{message.seq}", message.created_at, message.content
    agent = conversation.agent or "The AI"
    if message.visibility == Visibility.SUPPRESSED:
        return Entry(key, "held", at, who=_after(agent, message, moves), text=text, glyph="ban")
    if message.data.get("type") == "handed_back":
        strong = f"{who(message.author, names, me)} gave it back to the AI at {words.clock(at, now=now)}."
        wanted = message.data.get("instruction")
        said = f"Instruction: {wanted}" if wanted else "Without an instruction."
        return Entry(key, "line", at, strong=strong, text=said, glyph="arrow-back-up")
    if message.visibility == Visibility.INTERNAL:
        return Entry(key, "note", at, who=who(message.author, names, me), text=text, glyph="lock")
    if message.role == MessageRole.TOOL:
        called = str(message.data.get("tool") or message.data.get("name") or message.author or "tool")
        return Entry(key, "tool", at, who=called, text=text[:200], failed=triggers.failed(message.role, message.data))
    if not text.strip():
        return None  # An answer that only calls tools; those stand for themselves.
    if message.role == MessageRole.USER:
        phrase = str(evidence.get("phrase") or "")
        said = marked(text, phrase) if phrase and evidence.get("message_seq") == message.seq else text
        return Entry(key, "customer", at, who=customer, text=said)
    if message.role == MessageRole.HUMAN:
        author = who(message.author, names, me)
        return Entry(key, "you" if author == "You" else "person", at, who=author, text=text)
    kind = "system" if message.role == MessageRole.SYSTEM else "ai"
    return Entry(key, kind, at, who=agent if kind == "ai" else "System", text=text, glyph="robot")


def _of_span(span: Span) -> Entry:
    return Entry(
        f"s{span.span_id}",
        "tool",
        span.started_at,
        who=span.tool or span.name,
        text=getattr(span, "arguments", None) or "",
        took_s=took_s(span),
        failed=span.failed,
    )


def took_s(span: Span) -> float | None:
    """How long a span lasted, in seconds; None while it runs."""
    return (span.ended_at - span.started_at).total_seconds() if span.ended_at else None


def _of_move(move: Move, *, now: datetime) -> Entry | None:
    at = words.clock(move.at, now=now)
    lines = {
        "claimed": (f"{move.who} took over at {at}.", FENCED, "hand-grab"),
        "transferred": (f"{move.who} transferred it at {at}.", move.note, "transfer"),
        "handed_over": (f"Handed over to people at {at}.", move.note, "user-share"),
        "released": (f"{move.who} put it back into the queue at {at}.", move.note, "inbox"),
        "returned": (
            f"It went back into the queue at {at}.",
            "Whoever had it was gone or did not answer.",
            "inbox",
        ),
        "resolved": (f"{move.who} resolved it at {at}.", move.note, "check"),
        "reopened": (f"The customer wrote again at {at}.", "", "message-circle"),
    }
    if move.kind not in lines:
        return None
    strong, text, glyph = lines[move.kind]
    kind = "fence" if move.kind in ("claimed", "transferred") else "line"
    return Entry(f"c{move.key}", kind, move.at, strong=strong, text=text, glyph=glyph)


def _after(agent: str, message: Message, moves: Sequence[Move]) -> str:
    """`airline-support answered 2.4 s after you took over`."""
    before = [move for move in moves if move.at <= message.created_at and move.to_state in FENCES]
    if not before:
        return f"{agent} spoke on a turn that was not its own"
    last = before[-1]
    taken = (
        f"{last.who[:1].lower() + last.who[1:] if last.who == 'You' else last.who} took over"
        if last.kind == "claimed"
        else "the handover"
    )
    late_s = (message.created_at - last.at).total_seconds()
    late = words.seconds(late_s) if late_s < 60 else words.took(late_s)
    return f"{agent} answered {late} after {taken}"


FENCES = {State.HUMAN_ACTIVE, State.PENDING_HUMAN, State.RESOLVED}


def _same_call(message: Message, span: Span) -> bool:
    call = message.data.get("tool_call_id")
    if call and span.tool_call_id:
        return bool(call == span.tool_call_id)
    name = message.data.get("tool") or message.data.get("name") or message.author
    return name in (span.tool, span.name) and abs(message.created_at - span.started_at) <= SAME_CALL
