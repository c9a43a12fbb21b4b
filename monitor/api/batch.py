"""Many events in one request: the good part is kept, each bad event is named by its place."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache, partial, reduce
from http import HTTPStatus
from itertools import islice
from operator import or_
from time import monotonic
from typing import Any, ClassVar, NamedTuple

import msgspec
from django.db import DatabaseError, InterfaceError
from django.urls import path

from monitor import masking, reporting, room
from monitor.api import bodies, execution_events, problems, salvage
from monitor.api.caller import Caller, Request
from monitor.api.door import Door, endpoint
from monitor.api.messages import MessageEvent, message_from_event
from monitor.api.problems import Problem, bad_field
from monitor.deadlocks import unhindered
from monitor.masking import Rule
from monitor.reports import REPORTS, Report

MOST_EVENTS = 10_000
# Events beside reports cost a transaction each: after so long the others are left to the next request, for this one
# holds a thread that somebody else may need.
TELLINGS_WITHIN_S = 3.0
_LINE = re.compile(rb"\S[^\n]*")


class BatchBody(msgspec.Struct):
    """Up to 10,000 events; each has a `type` and the body of the single call."""

    # Each event is checked by itself, so that a bad one costs no other.
    checks_parts: ClassVar[bool] = True

    events: list[msgspec.Raw]

    @classmethod
    def of_document(cls, raw: bytes) -> "BatchBody":
        """The body of a batch in one object, with no more events than may come and one. Raises Problem."""
        if raw.count(b",") < MOST_EVENTS:
            return bodies.decode(raw, cls)
        few: Any = bodies.decode(raw, _few())
        return cls([event for event in msgspec.structs.astuple(few.events) if event is not None])

    @classmethod
    def of_lines(cls, raw: bytes) -> "BatchBody":
        """The body of a batch with an event a line, as `of_document` has it; empty lines are none."""
        return cls([msgspec.Raw(line[0]) for line in islice(_LINE.finditer(raw), MOST_EVENTS + 1)])


@cache
def _few() -> type[msgspec.Struct]:
    """A body whose list of events has so many places: what comes behind them is passed over, and takes no room."""
    places = [(f"event_{n}", msgspec.Raw, None) for n in range(MOST_EVENTS + 1)]
    events = msgspec.defstruct("Events", places, array_like=True)
    return msgspec.defstruct("FewEvents", [("events", events)], namespace={"checks_parts": True})


class FieldError(msgspec.Struct):
    field: str
    message: str


class RejectedEvent(msgspec.Struct):
    """An event that was not kept, by its place. `retryable`: nothing is wrong with it, send it again."""

    index: int
    errors: list[FieldError]
    retryable: bool = False


class BatchAnswer(msgspec.Struct):
    """How many events told something new, how many repeated what was known, and which were refused."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


class Typed(msgspec.Struct):
    type: str


class Telling(NamedTuple):
    """How an area takes an event: its body, and the verb, which says whether it was new, or what is wrong."""

    body: type[msgspec.Struct]
    tell: Callable[[Caller, Any, datetime], bool | Problem]


def _message(caller: Caller, event: MessageEvent, now: datetime) -> bool:
    return not message_from_event(caller, event, now=now).again


def _execution(name: str, caller: Caller, event: Any, now: datetime) -> bool | Problem:
    return execution_events.from_event(
        caller.project_id, name, event, now=now, actor=caller.actor, department=caller.department
    )


# Taken while the disk is nearly full as well: they end what is stored, keep it from being taken for dead, or may call
# for a person.
ALWAYS_TAKEN = {"execution.heartbeat", "execution.completed", "execution.failed", "message"}
NO_ROOM = "was not stored: the disk of the database is nearly full"
NO_TIME = "was not stored: those before it took too long"
# Events beside reports, each told in a transaction of its own.
TELLINGS: Mapping[str, Telling] = {
    "message": Telling(MessageEvent, _message),
    **{name: Telling(body, partial(_execution, name)) for name, body in execution_events.EVENTS.items()},
}
# What customers and people say to each other has to arrive as it was said; the spans that reports become are masked.
VERBATIM = frozenset({"message", *REPORTS})
BODIES: Mapping[str, type[msgspec.Struct]] = {
    **REPORTS,
    **{name: telling.body for name, telling in TELLINGS.items()},
}
# Reports make most of a batch: what is fit of them is read in one go. Other events cost a transaction each.
_TAGGED: dict[Any, str] = {
    msgspec.defstruct(f"{kind.__name__}Event", [], bases=(kind,), tag_field="type", tag=name): name
    for name, kind in REPORTS.items()
}
_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(reduce(or_, _TAGGED))


class Batch(Door):
    @endpoint(
        scope="ingest",
        rate="ingest",
        body=BatchBody,
        answer=BatchAnswer,
        content_types=(*bodies.JSON, *bodies.LINES),
        bound=False,
    )
    def post(self, request: Request, body: BatchBody) -> BatchAnswer:
        """Up to 10,000 events, in one object or one a line; each is told by itself, the bad ones by their place."""
        if len(body.events) > MOST_EVENTS:
            raise bad_field("events", f"may hold {MOST_EVENTS:,} events; these are more")
        caller, now = request.caller, request.now
        is_shut = room.gate.is_shut(now=now)
        answer = BatchAnswer(0, 0, [])
        reports: dict[int, Report] = {}
        tellings: dict[int, tuple[str, msgspec.Struct]] = {}
        for index, (name, event) in enumerate(read(body.events, caller.rule)):
            if isinstance(event, Problem):
                answer.rejected.append(_rejected(index, event))
            elif is_shut and name not in ALWAYS_TAKEN:
                answer.rejected.append(RejectedEvent(index, [FieldError("event", NO_ROOM)], True))
            elif isinstance(event, Report):
                reports[index] = event
            else:
                tellings[index] = name, event
        left = {*tellings, *reports}
        if is_shut and not left:
            raise problems.no_room()
        until_s = monotonic() + TELLINGS_WITHIN_S
        try:
            for n, (index, (name, event)) in enumerate(tellings.items()):
                # One at least, or it would never come to its end.
                if n and monotonic() > until_s:
                    untold = left - reports.keys()
                    answer.rejected += [RejectedEvent(one, [FieldError("event", NO_TIME)], True) for one in untold]
                    left -= untold
                    break
                _tell(answer, caller, index, name, event, now=now)
                left.discard(index)
            _take(answer, caller, reports, left, now=now)
        except (DatabaseError, InterfaceError) as error:
            refusal = problems.of(error)
            # What is kept already is not taken back, so its sender has to hear of it.
            if refusal is None or not answer.accepted:
                raise
            answer.rejected += [_rejected(index, refusal) for index in left]
        answer.rejected.sort(key=lambda one: one.index)
        return answer


def read(events: Sequence[msgspec.Raw], rule: Rule | None) -> Iterator[tuple[str, msgspec.Struct | Problem]]:
    """Each event by its type, masked by the rule unless it is a report, or what is wrong with it."""
    reports = [_fit(raw) for raw in events]
    are_fit = bodies.are_fit([raw for raw, report in zip(events, reports, strict=True) if report is not None])
    for raw, report in zip(events, reports, strict=True):
        if report is not None and are_fit:
            yield _TAGGED[type(report)], report
            continue
        try:
            yield _event(bytes(raw), rule)
        except Problem as problem:
            yield "", problem


def _fit(raw: msgspec.Raw) -> Report | None:
    """The report, None for all else and for one that is not fit: `_event` says what it is."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _event(raw: bytes, rule: Rule | None) -> tuple[str, msgspec.Struct]:
    """The event by its type, masked by the rule. Raises Problem."""
    try:
        name = msgspec.json.decode(raw, type=Typed).type
        kind = BODIES.get(name)
        if kind is None:
            raise bad_field("type", f"is {name[:50]!r}; there are {', '.join(sorted(BODIES))}")
        event = msgspec.json.decode(raw, type=kind)
        bodies.check(raw)
    except msgspec.ValidationError as error:
        raise bodies.of(error) from error
    except RecursionError as error:
        raise bodies.too_deep() from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        mended = bodies.mended(raw)
        if mended is None:
            raise bodies.unreadable(error) from error
        return _event(mended, rule)
    if rule is not None and name not in VERBATIM:
        event = masking.body(event, rule)
    return name, event


def _tell(answer: BatchAnswer, caller: Caller, index: int, name: str, event: msgspec.Struct, *, now: datetime) -> None:
    """Tell one event in a transaction of its own and add it to the answer.

    Several in one would be hardly faster, and hold the hour of the rollups and the counter of events all the while.
    """
    try:
        is_new = unhindered(caller.project_id, partial(TELLINGS[name].tell, caller, event, now))
    except (Problem, DatabaseError) as error:
        refusal = problems.of(error) if isinstance(error, Problem) or problems.refuses(error) else None
        if refusal is None:
            raise
        answer.rejected.append(_rejected(index, refusal))
        return
    if isinstance(is_new, Problem):
        answer.rejected.append(_rejected(index, is_new))
        return
    answer.accepted += is_new
    answer.duplicates += not is_new


def _take(answer: BatchAnswer, caller: Caller, reports: dict[int, Report], left: set[int], *, now: datetime) -> None:
    """Take the reports and add them to the answer: in one transaction, unless the database refuses one of them.

    What became of a report is known once its place is not `left` any more.
    """
    if not reports:
        return
    places = list(reports)
    told = list(reports.values())

    def take(begin: int, end: int) -> None:
        done = unhindered(
            caller.project_id,
            lambda: reporting.take(
                caller.project_id, told[begin:end], now=now, department=caller.department, rule=caller.rule
            ),
        )
        answer.accepted += done.accepted
        answer.duplicates += done.duplicates
        left.difference_update(places[begin:end])
        for n, error in done.refused.items():
            answer.rejected.append(RejectedEvent(places[begin + n], [FieldError(error.field, error.message)]))

    try:
        refused = salvage.halved(take, len(places))
    except salvage.Unstored as problem:
        refused = problem.refused
        left.difference_update(places[one.index] for one in refused)
        untold = FieldError("event", f"was not stored: {problem.detail}")
        answer.rejected += [RejectedEvent(index, [untold], True) for index in left]
    answer.rejected += [RejectedEvent(places[one.index], [FieldError("event", one.reason)]) for one in refused]


def _rejected(index: int, problem: Problem) -> RejectedEvent:
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return RejectedEvent(index, [FieldError("event", "was not stored: the database did not answer")], True)
    if problem.errors:
        return RejectedEvent(index, [FieldError(error["field"], error["message"]) for error in problem.errors])
    return RejectedEvent(index, [FieldError("event", problem.detail or problem.title)])


urlpatterns = [path("batch", Batch.as_view())]
