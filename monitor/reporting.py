"""Taking reports: one id is told once, the same again is a repeat, other content under it is a conflict."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import msgspec

from monitor import budgets, ingest, ingestkeys, masking
from monitor.budgets import Verdict
from monitor.ids import uuid7
from monitor.ingestkeys import Place
from monitor.masking import Rule
from monitor.models import LedgerEntry
from monitor.models import Span as StoredSpan
from monitor.prices import booked_usd
from monitor.records import Span
from monitor.reports import BadReport, Call, Report


class IdTaken(BadReport):
    """The id belongs to a report with other content."""

    def __init__(self) -> None:
        super().__init__("id", "was used before, with other content")


class Taken(NamedTuple):
    """How many reports were new, how many repeated, and by their place among the given the refused and all ids."""

    accepted: int
    duplicates: int
    refused: dict[int, BadReport]
    verdict: Verdict
    places: dict[int, Place]
    ids: list[UUID]


def take(
    project_id: int, reports: Sequence[Report], *, now: datetime, department: str = "", rule: Rule | None = None
) -> Taken:
    """Take the reports into the project; `department` is the key's own, for those that name none.

    What is stored is masked by the rule; what tells a repeat from another report is what was sent.

    Each has an id of its own, made here unless it brings one; only those that are brought can be told again.
    """
    ids = [report.id or uuid7() for report in reports]
    refused: dict[int, BadReport] = {}
    spans: dict[int, Span] = {}
    wanted: dict[UUID, Place] = {}
    first: dict[UUID, int] = {}
    again: list[int] = []
    repeats = 0
    for n, report in enumerate(reports):
        try:
            span = msgspec.structs.replace(report, id=ids[n]).span(now=now)
        except BadReport as error:
            refused[n] = error
            continue
        if rule is not None:
            # Before the first lock is taken.
            span = masking.span(span, rule)
        if report.id is not None:
            place = Place(span.started_at, UUID(bytes=span.trace_id), span.span_id, report.digest())
            if report.id in wanted:
                if wanted[report.id].digest == place.digest:
                    again.append(n)
                else:
                    refused[n] = IdTaken()
                continue
            wanted[report.id], first[report.id] = place, n
        spans[n] = span
    places = {n: Place(span.started_at, UUID(bytes=span.trace_id), span.span_id, b"") for n, span in spans.items()}
    for key, place in ingestkeys.take(project_id, wanted).items():
        n = first[key]
        del spans[n]
        if bytes(place.digest) == wanted[key].digest:
            repeats += 1
            places[n] = place
        else:
            refused[n] = IdTaken()
    kept = list(spans)
    done = ingest.accept(project_id, list(spans.values()), now=now, department=department)
    for one in done.rejected:
        refused[kept[one.index]] = BadReport("occurred_at", one.reason)
    if unused := [brought for one in done.rejected if (brought := reports[kept[one.index]].id) is not None]:
        # It may come again when it fits, and is not known then.
        ingestkeys.give_back(project_id, unused)
    for n in again:
        if (why := refused.get(first[ids[n]])) is None:
            repeats += 1
        else:
            refused[n] = why
    return Taken(done.accepted, done.duplicates + repeats, refused, done.verdict, places, ids)


class Booked(NamedTuple):
    """What stands of a recorded call: whose it is, and the amounts, None where unknown."""

    run_id: str
    agent: str
    department: str
    reported_usd: Decimal | None
    computed_usd: Decimal | None


class CallAnswer(msgspec.Struct):
    """What recording a call answers; amounts in US dollars, null when unknown."""

    id: UUID
    allowed: bool
    reason: str
    cost_usd: Decimal
    computed_cost_usd: Decimal | None
    reported_cost_usd: Decimal | None
    priced: bool
    current_cost: dict[str, Decimal]
    remaining: Decimal | None


def record_call(
    project_id: int, call: Call, *, now: datetime, department: str = "", rule: Rule | None = None
) -> tuple[CallAnswer, bool]:
    """Record a call and say whether the next may be made; False when it was recorded before.

    Recorded also when the budgets say no. One that was recorded before is answered from what is left of it.
    Raises BadReport, IdTaken.
    """
    done = take(project_id, [call], now=now, department=department, rule=rule)
    if done.refused:
        raise done.refused[0]
    place = done.places[0]
    stored = _booked(project_id, place) or _said(call, done.ids[0], place, department)
    verdict = done.verdict
    if verdict == budgets.UNASKED:
        verdict = budgets.standing(
            project_id, run_id=stored.run_id, agent=stored.agent, department=stored.department, now=now
        )
    cost = booked_usd(stored.computed_usd, stored.reported_usd)
    return (
        CallAnswer(
            id=done.ids[0],
            allowed=verdict.allowed,
            reason=verdict.reason,
            cost_usd=cost or Decimal(0),
            computed_cost_usd=stored.computed_usd,
            reported_cost_usd=stored.reported_usd,
            priced=cost is not None,
            current_cost=verdict.current_cost,
            remaining=verdict.remaining,
        ),
        bool(done.accepted),
    )


def _booked(project_id: int, place: Place) -> Booked | None:
    """The call as its span tells, or where that has left its booking; None when neither is there any more."""
    span = {"project_id": project_id, "trace_id": place.trace_id, "span_id": place.span_id}
    found = StoredSpan.objects.filter(**span, started_at=place.at).values_list(*Booked._fields).first()
    if found is None:
        entries = LedgerEntry.objects.filter(**span, occurred_at=place.at, calls__gt=0).order_by("-sequence")
        found = entries.values_list(*Booked._fields).first()
    return None if found is None else Booked(*found)


def _said(call: Call, call_id: UUID, place: Place, department: str) -> Booked:
    """The call as it is told once more; what it was priced at has left."""
    # As of then: it was taken once, however long it lasted.
    span = msgspec.structs.replace(call, id=call_id).span(now=call.occurred_at or place.at)
    return Booked(span.run_id, span.agent, span.department or department, span.reported_usd, None)
