"""Runs and what they cost: the list page by page, and one run by model."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Q, Sum

from dashboard import written
from dashboard.frame import Range
from monitor.models import LedgerEntry, Run

PAGE_ROWS = 50
ORDERS = {"newest": "last_at", "cost": "cost_usd"}


@dataclass(frozen=True)
class After:
    """The last row of a page: the value it is ordered by, and its run."""

    value: datetime | Decimal
    run_id: str

    def __str__(self) -> str:
        value = self.value.isoformat() if isinstance(self.value, datetime) else f"{self.value:f}"
        return f"{value}~{self.run_id}"

    @classmethod
    def read(cls, text: str, order: str) -> "After | None":
        """The cursor of an address; None when somebody has written it by hand, wrongly."""
        value, parted, run_id = text.partition("~")
        read = written.amount(value) if order == "cost" else written.moment(value)
        return cls(read, run_id) if parted and read is not None else None


@dataclass(frozen=True)
class RunPage:
    rows: list[Run]
    following: After | None


def page(project_id: int, span: Range, *, q: str, order: str, after: After | None) -> RunPage:
    """Runs that were active in the range, the newest or the dearest first; a whole run id is found at any time."""
    within = Q(last_at__gte=span.since, first_at__lte=span.until)
    found = Run.objects.filter(project_id=project_id)
    found = found.filter(Q(run_id=q) | (within & Q(run_id__icontains=q))) if q else found.filter(within)
    column = ORDERS[order]
    if after is not None:
        # The plain bound is for the planner: it makes the first column an index range.
        behind = Q(**{f"{column}__lt": after.value}) | Q(**{column: after.value, "run_id__lt": after.run_id})
        found = found.filter(behind, **{f"{column}__lte": after.value})
    rows = list(found.order_by(f"-{column}", "-run_id")[: PAGE_ROWS + 1])
    if len(rows) <= PAGE_ROWS:
        return RunPage(rows, None)
    last = rows[PAGE_ROWS - 1]
    return RunPage(rows[:PAGE_ROWS], After(getattr(last, column), last.run_id))


@dataclass(frozen=True)
class Bookings:
    """What a run booked for one model, or for one tool that costs."""

    name: str
    is_tool: bool
    calls: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    reported_usd: Decimal | None
    computed_usd: Decimal | None
    cost_usd: Decimal


def by_model(run: Run) -> list[Bookings]:
    """The run's bookings by model, the dearest first; input counts what came from or went to a cache."""
    cached = Sum("cache_read_tokens") + Sum("cache_write_tokens")
    booked = (
        LedgerEntry.objects.filter(
            project_id=run.project_id,
            run_id=run.run_id,
            occurred_at__gte=run.first_at,
            occurred_at__lte=run.last_at,
        )
        .values("model", "tool")
        .annotate(
            made=Sum("calls"),
            without_price=Sum("unpriced"),
            taken=Sum("input_tokens") + cached + Sum("audio_input_tokens") + Sum("image_input_tokens"),
            given=Sum("output_tokens") + Sum("reasoning_tokens") + Sum("audio_output_tokens"),
            reported=Sum("reported_usd"),
            computed=Sum("computed_usd"),
            cost=Sum("cost_usd"),
        )
    )
    rows = [
        Bookings(
            name=one["model"] or one["tool"],
            is_tool=not one["model"],
            calls=one["made"],
            unpriced=one["without_price"],
            input_tokens=one["taken"],
            output_tokens=one["given"],
            reported_usd=one["reported"],
            computed_usd=one["computed"],
            cost_usd=one["cost"],
        )
        for one in booked
        if one["made"] or one["cost"]
    ]
    return sorted(rows, key=lambda row: (-row.cost_usd, row.name))
