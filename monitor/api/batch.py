"""Many events in one request: the good part is kept, each bad event is named by its place."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import msgspec
from django.urls import path

from monitor import reporting
from monitor.api import bodies, execution_events
from monitor.api.caller import Caller, Request
from monitor.api.door import Door, endpoint
from monitor.api.messages import MessageEvent, message_from_event
from monitor.api.problems import Problem, bad_field
from monitor.deadlocks import unhindered
from monitor.reports import REPORTS, Report

MOST_EVENTS = 10_000


class BatchBody(msgspec.Struct):
    """Up to 10,000 events; each has a `type` and the body of the single call."""

    events: list[msgspec.Raw]


class FieldError(msgspec.Struct):
    field: str
    message: str


class RejectedEvent(msgspec.Struct):
    index: int
    errors: list[FieldError]


class BatchAnswer(msgspec.Struct):
    """How many events told something new, how many repeated what was known, and which were refused."""

    accepted: int
    duplicates: int
    rejected: list[RejectedEvent]


class Typed(msgspec.Struct):
    type: str


class Telling(NamedTuple):
    """How an area takes an event: its body, and the verb, which says whether it was new."""

    body: type[msgspec.Struct]
    tell: Callable[[Caller, Any, datetime], bool]


def _message(caller: Caller, event: MessageEvent, now: datetime) -> bool:
    return not message_from_event(caller, event, now=now).again


def _execution(name: str, caller: Caller, event: Any, now: datetime) -> bool:
    return execution_events.from_event(
        caller.project_id, name, event, now=now, actor=caller.actor, department=caller.department
    )


# Events beside reports, each told in a transaction of its own.
TELLINGS: Mapping[str, Telling] = {
    "message": Telling(MessageEvent, _message),
    **{name: Telling(body, partial(_execution, name)) for name, body in execution_events.EVENTS.items()},
}
BODIES: Mapping[str, type[msgspec.Struct]] = {
    **REPORTS,
    **{name: telling.body for name, telling in TELLINGS.items()},
}


class Batch(Door):
    @endpoint(scope="ingest", rate="ingest", body=BatchBody, answer=BatchAnswer, bound=False)
    def post(self, request: Request, body: BatchBody) -> BatchAnswer:
        if len(body.events) > MOST_EVENTS:
            raise bad_field("events", f"may hold {MOST_EVENTS:,} events; these are {len(body.events):,}")
        caller, now = request.caller, request.now
        answer = BatchAnswer(0, 0, [])
        reports: dict[int, Report] = {}
        for index, raw in enumerate(body.events):
            try:
                name, event = _event(bytes(raw))
                if isinstance(event, Report):
                    reports[index] = event
                    continue
                is_new = unhindered(caller.project_id, partial(TELLINGS[name].tell, caller, event, now))
            except Problem as problem:
                answer.rejected.append(RejectedEvent(index, _errors(problem)))
                continue
            answer.accepted += is_new
            answer.duplicates += not is_new
        _take(answer, caller, reports, now=now)
        answer.rejected.sort(key=lambda one: one.index)
        return answer


def _event(raw: bytes) -> tuple[str, msgspec.Struct]:
    """The event by its type. Raises Problem."""
    try:
        name = msgspec.json.decode(raw, type=Typed).type
        kind = BODIES.get(name)
        if kind is None:
            raise bad_field("type", f"is {name[:50]!r}; there are {', '.join(sorted(BODIES))}")
        return name, msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise bodies.of(error) from error
    except RecursionError as error:
        raise bodies.too_deep() from error


def _take(answer: BatchAnswer, caller: Caller, reports: dict[int, Report], *, now: datetime) -> None:
    """Take all reports in one transaction and add them to the answer."""
    if not reports:
        return
    places = list(reports)
    done = unhindered(
        caller.project_id,
        lambda: reporting.take(caller.project_id, list(reports.values()), now=now, department=caller.department),
    )
    answer.accepted += done.accepted
    answer.duplicates += done.duplicates
    for n, error in done.refused.items():
        answer.rejected.append(RejectedEvent(places[n], [FieldError(error.field, error.message)]))


def _errors(problem: Problem) -> list[FieldError]:
    if problem.errors:
        return [FieldError(error["field"], error["message"]) for error in problem.errors]
    return [FieldError("event", problem.detail or problem.title)]


urlpatterns = [path("batch", Batch.as_view())]
