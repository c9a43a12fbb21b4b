"""What is told adds up: minutes, hours and days hold what plain loops over the spans make of them, and nothing else.

The loops know nothing of how Handrail books: they look at all that was told, whatever came of it, count and sort.
"""

import random
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import pytest
from django.db.models import Sum
from msgspec.structs import replace

from monitor import closing, retention, rollups
from monitor.models import DirtyHour, HourRollup, LedgerEntry, MinuteRollup, Project, Run, Span
from monitor.records import Span as Record
from monitor.records import sealed
from monitor.tenancy import tenant
from tests.monitor.spending import (
    MODEL,
    NOW,
    a_family,
    a_project,
    a_trace,
    accept,
    assert_books_balance,
    pending,
    usage,
)

HOUR, DAY, MS = timedelta(hours=1), timedelta(days=1), timedelta(milliseconds=1)
# What was told began within these hours.
FIRST, HOURS = (NOW - 40 * HOUR), 39
# Of a token of MODEL in US dollars; of every other model nobody knows it.
IN_USD, OUT_USD = Decimal("0.0000025"), Decimal("0.00001")


class Sums(NamedTuple):
    """What the calls, or the tools, of a time come to; 95 of 100 took no longer than `p95_ms`."""

    count: int
    failed: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    duration_ms: int
    p95_ms: float


class Counted(NamedTuple):
    """A span that counts, as a call ("llm") or as a tool; what it bears is paid where nobody else tells of it."""

    kind: str
    span: Record
    is_paid: bool


def tokens_of(one: Record) -> int:
    return one.tokens.input + one.tokens.output


def bears(one: Record) -> bool:
    return tokens_of(one) > 0 or bool(one.reported_usd)


def counted(told: list[Record]) -> list[Counted]:
    """What counts of all that was told; of a span what was told last."""
    spans = {(one.trace_id, one.span_id): one for one in told}.values()
    children: dict[tuple[bytes, int | None], list[Record]] = defaultdict(list)
    for one in spans:
        children[one.trace_id, one.parent_span_id].append(one)

    def below(one: Record) -> list[Record]:
        found = list(children[one.trace_id, one.span_id])
        for child in found:
            found += children[one.trace_id, child.span_id]
        return found

    def is_repeated(one: Record) -> bool:
        """Whether spans below tell of the same, or another of the same response tells more."""
        if any(bears(child) for child in below(one)):
            return True
        return any(
            (twin.trace_id, twin.response_id) == (one.trace_id, one.response_id)
            and tokens_of(twin) > tokens_of(one)
            and not any(bears(child) for child in below(twin))
            for twin in spans
            if one.response_id
        )

    found = []
    for one in spans:
        if one.kind == "tool":
            found.append(Counted("tool", one, bears(one) and not is_repeated(one)))
        elif bears(one) and not is_repeated(one):
            found.append(Counted("llm", one, True))
        elif one.kind == "llm" and not bears(one) and not any(bears(it) or it.kind == "llm" for it in below(one)):
            found.append(Counted("llm", one, False))
    return found


def worth(one: Counted) -> Decimal | None:
    """What its tokens cost or what it says, whichever is more; None when nobody knows."""
    span, known = one.span, []
    if one.is_paid and span.reported_usd:
        known.append(span.reported_usd)
    if one.is_paid and span.model == MODEL and tokens_of(span):
        known.append(span.tokens.input * IN_USD + span.tokens.output * OUT_USD)
    return max(known, default=None)


def lasted_ms(one: Counted) -> int:
    assert one.span.ended_at is not None
    return (one.span.ended_at - one.span.started_at) // MS


def plainly(lines: list[Counted], begin: datetime, end: datetime) -> dict[str, Sums]:
    """By kind, what the lines come to that began in that time."""
    found = {}
    for kind in ("llm", "tool"):
        its = [one for one in lines if one.kind == kind and begin <= one.span.started_at < end]
        if not its:
            continue
        lasted = sorted(lasted_ms(one) for one in its)
        # Of the others one says that it failed, and a failure costs nothing.
        unknown = [one for one in its if worth(one) is None and (one.is_paid or one.span.status != "error")]
        found[kind] = Sums(
            count=len(its),
            failed=sum(one.span.status == "error" for one in its),
            unpriced=len(unknown) if kind == "llm" else 0,
            input_tokens=sum(one.span.tokens.input for one in its if one.is_paid),
            output_tokens=sum(one.span.tokens.output for one in its if one.is_paid),
            cost_usd=sum((worth(one) or Decimal(0) for one in its), Decimal(0)),
            duration_ms=sum(lasted),
            p95_ms=lasted[-(-95 * len(lasted) // 100) - 1],
        )
    return found


def shown(project: Project, begin: datetime, end: datetime) -> dict[str, Sums]:
    """The same as charts read it."""
    found = rollups.totals(
        project.pk, since=begin, until=end, kinds=("llm", "tool"), group_by="kind", with_latency=True
    )
    return {
        one.group: Sums(
            one.count,
            one.failed,
            one.unpriced,
            one.input_tokens,
            one.output_tokens,
            one.cost_usd,
            one.duration_ms,
            one.p95_ms or 0,
        )
        for one in found
    }


def assert_adds_up(project: Project, told: list[Record]) -> None:
    """All of it, every day and every hour, p95 within 2 %."""
    lines = counted(told)
    midnight = FIRST.replace(hour=0)
    times = [(FIRST, NOW), *((midnight + n * DAY, midnight + (n + 1) * DAY) for n in range(3))]
    times += [(FIRST + n * HOUR, FIRST + (n + 1) * HOUR) for n in range(HOURS)]
    with tenant(project.pk):
        for begin, end in times:
            expected, found = plainly(lines, begin, end), shown(project, begin, end)
            for kind, sums in found.items():
                assert sums.p95_ms == pytest.approx(expected[kind].p95_ms, rel=0.02), (kind, begin, end)
                found[kind] = sums._replace(p95_ms=expected[kind].p95_ms)
            assert found == expected, (begin, end)


def assert_booked(project: Project, told: list[Record]) -> None:
    """The ledger and the runs hold the same money."""
    usd = sum((worth(one) or Decimal(0) for one in counted(told)), Decimal(0))
    with tenant(project.pk):
        for model in (LedgerEntry, Run):
            assert model.objects.aggregate(usd=Sum("cost_usd"))["usd"] == usd


def scattered(spans: list[Record], rng: random.Random) -> list[Record]:
    """The same in a few hours, from a millisecond to ten minutes long."""
    hours = [rng.randrange(HOURS) for _ in range(5)]
    made = []
    for one in spans:
        began = FIRST + rng.choice(hours) * HOUR + rng.randrange(3_600_000) * MS
        lasted = round(10 ** rng.uniform(0, 5.77)) * MS
        made.append(sealed(replace(one, started_at=began, ended_at=began + lasted)))
    return made


def changed(one: Record, rng: random.Random) -> Record:
    """A newer version: it lasted longer, came to more, and may have failed."""
    assert one.ended_at is not None
    tokens = usage(rng.randrange(1, 9000), rng.randrange(1, 900)) if tokens_of(one) else one.tokens
    later = one.ended_at + rng.randrange(1, 60_000) * MS
    status, error = rng.choice([("ok", None), ("error", "overloaded")])
    return sealed(replace(one, ended_at=later, tokens=tokens, status=status, error=error))


@pytest.mark.parametrize("made", [a_trace, a_family])
@pytest.mark.parametrize("seed", range(4))
def test_minutes_hours_and_days_are_what_loops_over_the_spans_say(
    db: None, made: Callable[[int, random.Random], list[Record]], seed: int
) -> None:
    project, rng = a_project(), random.Random(seed)
    told: list[Record] = []

    def tell(spans: list[Record]) -> None:
        told.extend(spans)
        for n in range(0, len(spans), 7):
            accept(project, spans[n : n + 7])

    spans = [one for trace in range(1, 9) for one in scattered(made(trace, rng), rng)]
    rng.shuffle(spans)
    some, late = spans[: len(spans) // 2], spans[len(spans) // 2 :]
    # Each first as it was while it went on.
    tell([pending(one) for one in some])
    tell(some)
    assert_adds_up(project, told)
    close(project)
    assert_adds_up(project, told)

    tell(late)
    assert_adds_up(project, told)
    close(project)
    assert_adds_up(project, told)

    rng.shuffle(spans)
    tell(spans)
    with tenant(project.pk):
        assert not DirtyHour.objects.exists(), "what is repeated changes nothing"

    tell([changed(one, rng) for one in rng.sample(spans, len(spans) // 3)])
    assert_adds_up(project, told)
    close(project)
    assert_adds_up(project, told)
    assert_booked(project, told)
    assert_books_balance(project)

    # The spans leave, then the minutes: sums of longer times stay as they were.
    for days in (92, 96):
        retention.drop_partitions(now=NOW + days * DAY)
        retention.prune(now=NOW + days * DAY)
        assert_adds_up(project, told)
    with tenant(project.pk):
        assert not Span.objects.exists()
        assert not MinuteRollup.objects.exists()
        assert HourRollup.objects.exists()


def close(project: Project) -> None:
    closing.close(now=NOW + 2 * DAY)
    with tenant(project.pk):
        assert not DirtyHour.objects.exists()
