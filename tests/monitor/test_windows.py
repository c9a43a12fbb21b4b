"""Windows follow the calendar of their time zone."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.windows import EPOCH, ends_at, starts_at

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Kiritimati"]


@pytest.mark.parametrize(
    ("period", "zone", "now", "began", "ends"),
    [
        ("hour", "Asia/Kolkata", "2026-11-20T12:10", "2026-11-20T11:30", "2026-11-20T12:30"),
        ("day", "Europe/Berlin", "2026-11-20T23:30", "2026-11-20T23:00", "2026-11-21T23:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("week", "UTC", "2026-11-22T10:00", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("month", "America/New_York", "2026-11-01T03:00", "2026-10-01T04:00", "2026-11-01T04:00"),
        ("month", "UTC", "2026-02-28T23:59", "2026-02-01T00:00", "2026-03-01T00:00"),
    ],
)
def test_a_window_begins_and_ends_by_the_local_clock(period: str, zone: str, now: str, began: str, ends: str) -> None:
    moment, first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (now, began, ends))
    assert starts_at(period, zone, now=moment) == first
    assert ends_at(period, zone, now=moment) == last


def test_a_run_has_one_window_for_ever() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert (starts_at("run", "Europe/Berlin", now=now), ends_at("run", "Europe/Berlin", now=now)) == (EPOCH, None)


@given(
    now=st.integers(1_700_000_000, 1_900_000_000).map(lambda at: datetime.fromtimestamp(at, UTC)),
    period=st.sampled_from(["hour", "day", "week", "month"]),
    zone=st.sampled_from(ZONES),
)
def test_windows_leave_no_gap_and_never_overlap(now: datetime, period: str, zone: str) -> None:
    began, ends = starts_at(period, zone, now=now), ends_at(period, zone, now=now)
    assert ends is not None
    assert began <= now < ends
    assert starts_at(period, zone, now=began) == began
    assert starts_at(period, zone, now=ends) == ends
