"""Growth: how large everything is and when the disk is full; Keeping: how long it stays, and who may say so."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse

from dashboard import growth as telling
from monitor import growth, keeping, room
from monitor.growth import Forecast, Growth, Held, Size, forecast
from monitor.models import Conversation, GrowthSample, Keeping, Person, Project, StateChange, Subject
from monitor.room import Room
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in
from tests.monitor.spending import a_span, accept

GB = 10**9
DAY = timedelta(days=1)
NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every story needs the database."""


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Path) -> Callable[[float], None]:
    """A disk of 100 GB, filled up to a share."""
    disk = SimpleNamespace(f_blocks=100_000, f_bfree=60_000, f_bavail=60_000, f_frsize=10**6)
    settings.DISK_PATH = tmp_path
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    monkeypatch.setattr(room, "gate", room.Gate())

    def to(share: float) -> None:
        disk.f_bfree = disk.f_bavail = round(100_000 * (1 - share))
        room.gate = room.Gate()

    return to


def words_of(answer: HttpResponse, status: int = 200) -> str:
    assert answer.status_code == status
    return answer.content.decode().replace("\xa0", " ").replace("&#x27;", "'")


def sampled(*gb: float, total_gb: int = 100, until: datetime = NOW) -> None:
    """Samples of the last days, one a day; the last is of now."""
    with crossing():
        for ago, used in zip(range(len(gb) - 1, -1, -1), gb, strict=True):
            at = until - ago * DAY
            values = {"on": at.date(), "at": at, "rows": total_gb * GB, "bytes": round(used * GB)}
            GrowthSample.objects.create(name=growth.ROOM, **values)


def test_a_sample_is_one_a_day_and_the_last_of_it(fill: Callable[[float], None]) -> None:
    fill(0.4)
    midday = NOW.replace(hour=12)
    for hours in (0, 1, 2):
        assert growth.sample(now=midday + timedelta(hours=hours)) == len(keeping.KINDS) + 2
    fill(0.5)
    growth.sample(now=midday + DAY)
    with crossing():
        samples = GrowthSample.objects.filter(name=growth.ROOM).order_by("on")
        assert [(one.at, one.bytes, one.rows) for one in samples] == [
            (midday + timedelta(hours=2), 40 * GB, 100 * GB),
            (midday + DAY, 50 * GB, 100 * GB),
        ]
    growth.sample(now=midday + 900 * DAY)
    with crossing():
        assert GrowthSample.objects.filter(name=growth.ROOM).count() == 1


def test_sizes_are_those_of_all_tables_and_no_row_is_counted_twice() -> None:
    found = growth.sizes()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        total = int(cursor.fetchone()[0])
    assert sum(one.bytes for one in found.values()) == total
    assert set(found) == {*keeping.KINDS, growth.OTHER}
    assert all(one.bytes > 0 for one in found.values())


def test_the_oldest_is_found_and_what_comes_a_day_is_told() -> None:
    visitor = signed_in()
    with crossing():
        project = Project.objects.get(pk=visitor.project_id)
    old = NOW - 3 * DAY
    accept(project, [a_span(1, 1, started_at=old)], now=NOW)
    with crossing():
        for kind in ("spans", "hours"):
            GrowthSample.objects.create(on=(NOW - 5 * DAY).date(), at=NOW - 5 * DAY, name=kind, rows=0, bytes=0)
    found = {one.kind: one for one in growth.look(now=NOW).kinds}
    assert found["spans"].oldest_at == old.replace(hour=0, minute=0, second=0, microsecond=0)
    assert found["minutes"].oldest_at == old.replace(second=0, microsecond=0)
    assert found["loops"].oldest_at is None
    assert found["executions"].oldest_at is None
    spans = found["spans"]
    assert spans.bytes_a_day == pytest.approx(spans.size.bytes / 5)
    assert found["ledger"].bytes_a_day is None
    assert (spans.days, found[growth.OTHER].days) == (90, None)


def test_an_age_is_told_by_what_a_kind_is_named_after() -> None:
    visitor = signed_in()
    ended, moved = NOW - 2 * DAY, NOW - 4 * DAY
    an_execution(visitor.project_id, status="completed", started_at=ended - DAY, ended_at=ended)
    with tenant(visitor.project_id):
        Conversation.objects.create(project_id=visitor.project_id, conversation_id="old", agent="clerk")
        Conversation.objects.update(updated_at=moved)
    found = {one.kind: one.oldest_at for one in growth.look(now=NOW).kinds}
    # No command was given and nothing has stood in the queue.
    assert (found["executions"], found["conversations"]) == (ended, moved)


def a_room(used: float) -> Room:
    return Room(round(used * GB), 100 * GB, is_disk=True)


def used(*gb: float) -> list[tuple[datetime, int]]:
    return [(NOW + n * DAY, round(one * GB)) for n, one in enumerate(gb)]


def test_a_steady_pace_has_one_end() -> None:
    found = forecast(used(10, 12, 14, 16, 18), a_room(18))
    assert found == Forecast(2 * GB, 0.0, 4, 41.0, 41.0, 41.0)


def test_an_uneven_pace_is_told_with_its_doubt() -> None:
    found = forecast(used(10, 14, 14, 18, 18, 22), a_room(22))
    assert found is not None
    # A mean of 2.4 GB with a standard error of 0.98.
    ends = [found.soonest_in_days, found.full_in_days, found.latest_in_days]
    assert ends == pytest.approx([21.35, 32.5, 68.07], abs=0.01)
    assert found.full_in_days == pytest.approx(78 / 2.4)


def test_what_shrinks_is_never_full_and_too_few_days_say_nothing() -> None:
    shrinks = forecast(used(20, 18, 16, 14), a_room(14))
    assert shrinks is not None
    assert (shrinks.full_in_days, shrinks.soonest_in_days) == (None, None)
    assert forecast(used(10, 12, 14), a_room(14)) is None
    # Parts of a day say more about the hour.
    hours = [(NOW + n * timedelta(hours=2), n * GB) for n in range(9)]
    assert forecast(hours, a_room(9)) is None


@pytest.mark.parametrize(
    ("gb", "pace", "jumps", "full_in_days"),
    [
        ((80, 82, 84, 86, 26, 28, 30, 32), 2, (-60,), 34),
        ((10, 12, 14.5, 16.5, 56.5, 58.5, 60.5, 62.5), 12.5 / 6, (40,), 18),
        ((10, 10, 10, 50), 40 / 3, (), 3.75),
        ((10, 50, 50, 50, 50, 50, 50, 50), 0, (40,), None),
        ((10, 90, 60, 62, 64.2, 66, 68, 70), 2, (80, -30), 15),
        # What comes twice may come again.
        ((10, 10, 10, 10, 10, 10, 14, 18), 8 / 7, (), 71.75),
    ],
)
def test_a_day_out_of_all_proportion_says_nothing_of_those_to_come(
    gb: tuple[float, ...], pace: float, jumps: tuple[float, ...], full_in_days: float | None
) -> None:
    found = forecast(used(*gb), a_room(gb[-1]))
    assert found is not None
    assert found.bytes_a_day == pytest.approx(pace * GB)
    assert found.jumps == pytest.approx(tuple(one * GB for one in jumps))
    assert found.days == len(gb) - 1 - len(jumps)
    assert found.full_in_days == (None if full_in_days is None else pytest.approx(full_in_days))


def test_what_is_over_its_limit_is_full_now_and_not_before() -> None:
    found = forecast(used(5, 7, 9, 11), Room(11 * GB, 10 * GB, is_disk=False))
    assert found is not None
    assert (found.full_in_days, found.soonest_in_days, found.latest_in_days) == (0, 0, 0)


def test_days_without_a_sample_count_by_their_length() -> None:
    gap = [(NOW, 10 * GB), (NOW + 4 * DAY, 18 * GB), (NOW + 5 * DAY, 20 * GB), (NOW + 6 * DAY, 22 * GB)]
    found = forecast(gap, a_room(22))
    assert found is not None
    assert found.bytes_a_day == 2 * GB


@pytest.mark.parametrize(
    ("count", "said"), [(0.2, "less than a day"), (1, "1 day"), (26.4, "26 days"), (70, "2 months"), (1000, "3 years")]
)
def test_days_are_said_no_more_exactly_than_they_are_known(count: float, said: str) -> None:
    assert telling.days(count).replace("\xa0", " ") == said


def test_what_lies_between_is_said_in_one_unit_where_it_can_be() -> None:
    assert telling.between(31, 55).replace("\xa0", " ") == "31 to 55 days"
    assert telling.between(40, 90).replace("\xa0", " ") == "40 days to 3 months"
    assert telling.between(31, 31.2).replace("\xa0", " ") == "31 days"


@pytest.mark.parametrize(("kept_days", "said"), [(40, "4 December"), (400, "29 November 2027")])
def test_the_day_on_which_the_oldest_leaves_has_its_year_where_it_is_another(kept_days: int, said: str) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    oldest_at = datetime(2026, 10, 25, tzinfo=UTC)
    hours = Held("hours", Size(9, 9), None, None, oldest_at, kept_days, kept_days)
    told = telling.tell(Growth([hours], [], a_room(20), [], None), now=now)
    assert f"Hour sums begin to leave on {said}, and grow more slowly" in told.why


def test_the_page_says_when_the_disk_is_full(fill: Callable[[float], None]) -> None:
    visitor = signed_in(role="viewer")
    fill(0.5)
    sampled(38, 40.5, 42, 44.5, 46, 48, 50)
    page = words_of(visitor.client.get("/system/growth"))
    assert "The disk is 50 % full. At this pace nothing is left in 25 days." in page
    assert "Over the last 6 days it grew by 2.0 GB a day, give or take" in page
    assert "four times of five that means 2" in page
    assert "people are warned" in page
    assert "Edit how long" not in page
    assert "<html" not in words_of(visitor.client.get("/system/growth?part=growth"))
    assert visitor.client.get("/system/growth?part=x").status_code == 404


def test_a_day_that_is_left_out_is_named(fill: Callable[[float], None]) -> None:
    visitor = signed_in(role="viewer")
    fill(0.5)
    sampled(98, 40, 42, 44, 46, 48, 50)
    page = words_of(visitor.client.get("/system/growth"))
    assert "The disk is 50 % full. At this pace nothing is left in 25 days." in page
    assert "Over 5 of the last 6 days it grew by 2.0 GB a day" in page
    assert "A day on which it shrank by 58.0 GB is left out." in page


@pytest.mark.parametrize(("a_day", "is_known"), [(1.004, True), (1.02, False)])
def test_a_room_whose_size_moves_a_little_is_the_same(
    fill: Callable[[float], None], a_day: float, is_known: bool
) -> None:
    fill(0.5)
    sampled(38, 40, 42, 44, 46, 48, 50)
    with crossing():
        for ago, one in enumerate(GrowthSample.objects.filter(name=growth.ROOM).order_by("-on")):
            GrowthSample.objects.filter(name=growth.ROOM, on=one.on).update(rows=round(100 * GB * a_day ** (ago + 1)))
    found = growth.look(now=NOW)
    assert len(found.used) == (7 if is_known else 0)
    assert (found.forecast is not None) == is_known


def test_the_page_of_a_new_instance_says_what_comes(fill: Callable[[float], None]) -> None:
    visitor = signed_in(role="viewer")
    fill(0.4)
    page = words_of(visitor.client.get("/system/growth"))
    assert "The disk is 40 % full." in page
    assert "A forecast takes 3 days of samples" in page
    assert "There are no two days to compare yet." in page
    assert "known after a day" in page


def test_where_the_disk_is_not_seen_the_page_says_what_to_set(settings: Any) -> None:
    settings.DISK_PATH, settings.DB_MAX_BYTES = None, 0
    page = words_of(signed_in(role="viewer").client.get("/system/growth"))
    assert "The database holds" in page
    assert "HANDRAIL_DB_MAX_BYTES" in page


def test_every_page_says_that_agents_are_refused(fill: Callable[[float], None]) -> None:
    visitor = signed_in(role="viewer")
    fill(0.96)
    assert "and agents’ new work is refused." in words_of(visitor.client.get("/system/growth"))
    assert "The disk of the database is nearly full." in words_of(visitor.client.get("/agents"))
    assert "new work is refused; heartbeats" in words_of(visitor.client.get("/system"))
    fill(0.5)
    assert "nearly full" not in words_of(visitor.client.get("/agents"))


def test_pages_and_api_say_what_the_doors_do_until_they_open(fill: Callable[[float], None]) -> None:
    visitor = signed_in(role="viewer")
    fill(0.96)
    room.look(now=NOW)
    fill(0.93)
    assert "The disk is 93 % full, and agents’ new work is refused." in words_of(visitor.client.get("/system/growth"))
    assert "The disk of the database is nearly full." in words_of(visitor.client.get("/agents"))
    assert "new work is refused; heartbeats" in words_of(visitor.client.get("/system"))
    assert visitor.client.get("/api/v1/monitoring/growth").json()["room"]["level"] == "stopped"
    fill(0.91)
    room.look(now=NOW)
    assert "full, and agents’ new work is refused." not in words_of(visitor.client.get("/system/growth"))
    assert "When it is full the database stops" in words_of(visitor.client.get("/system"))
    assert visitor.client.get("/api/v1/monitoring/growth").json()["room"]["level"] == "warned"


# Keeping


@pytest.fixture
def admin() -> SignedIn:
    return signed_in(role="admin")


def form(**days: str) -> dict[str, str]:
    return {"of": "project"} | days


def own(project_id: int) -> dict[str, int]:
    with tenant(project_id):
        return {one.kind: one.own for one in keeping.of_project(project_id).values() if one.own is not None}


def test_an_admin_keeps_things_for_longer_at_once(admin: SignedIn) -> None:
    page = words_of(admin.client.get("/system/keeping"))
    assert "All projects that say nothing themselves" not in page
    answer = admin.client.post("/system/keeping", form(spans="120", minutes="400", ledger="500"))
    assert (answer.status_code, own(admin.project_id)) == (302, {"spans": 120, "minutes": 400, "ledger": 500})
    page = words_of(admin.client.get("/system/keeping"))
    assert "Spans: 120 days, Ledger: 500 days, Minute sums: 400 days, from now on." in page
    assert "120 days instead of 90" in page
    assert "admin@north.example" in page
    # What is left empty holds as for all.
    admin.client.post("/system/keeping", form(spans="120", minutes="400", confirmed="ledger:500:400"))
    assert own(admin.project_id) == {"spans": 120, "minutes": 400}


def test_what_deletes_is_told_and_asked_before(admin: SignedIn) -> None:
    with crossing():
        project = Project.objects.get(pk=admin.project_id)
    accept(project, [a_span(ago, ago, started_at=NOW - ago * DAY) for ago in (1, 20, 21, 22)], now=NOW)
    page = words_of(admin.client.post("/system/keeping", form(spans="10", messages="200")))
    assert "This deletes what is older, in this project." in page
    # Three spans with their traces.
    assert '<td class="num">6</td>' in page
    assert own(admin.project_id) == {}
    # The agreement is to this and to nothing else.
    page = words_of(admin.client.post("/system/keeping", form(spans="5", confirmed="spans:90:10")))
    assert "This deletes" in page
    assert own(admin.project_id) == {}
    answer = admin.client.post("/system/keeping", form(spans="10", messages="200", confirmed="spans:90:10"))
    assert (answer.status_code, own(admin.project_id)) == (302, {"spans": 10, "messages": 200})
    with tenant(admin.project_id):
        told = StateChange.objects.filter(subject=Subject.KEEPING).order_by("id")
        assert [(one.subject_id, one.actor) for one in told] == [
            ("spans", "admin@north.example"),
            ("messages", "admin@north.example"),
        ]


@pytest.mark.parametrize("text", ["2", "401", "ten", "-5", "1e2", "٣٠", "9" * 30])
def test_days_that_cannot_be_meant_change_nothing(admin: SignedIn, text: str) -> None:
    page = words_of(admin.client.post("/system/keeping", form(spans=text, ledger="500")), 400)
    assert "3 to 400" in page
    assert f'value="{text}"' in page
    assert own(admin.project_id) == {}


def test_days_that_do_not_fit_together_are_told_beside_the_field(admin: SignedIn) -> None:
    page = words_of(admin.client.post("/system/keeping", form(spans="120")), 400)
    assert "Spans can be kept for 90 days at most, with minute sums kept for 92." in page
    page = words_of(admin.client.post("/system/keeping", form(executions="89", confirmed="executions:180:89")), 400)
    assert "Executions must be kept for 90 days at least, with spans kept for 90." in page
    assert own(admin.project_id) == {}


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_who_is_no_admin_sees_no_form_and_sets_nothing(role: str) -> None:
    visitor = signed_in(role=role)
    assert visitor.client.get("/system/keeping").status_code == 404
    assert visitor.client.post("/system/keeping", form(spans="120")).status_code == 404
    assert own(visitor.project_id) == {}


def test_what_holds_for_all_belongs_to_the_admins_of_the_instance(admin: SignedIn) -> None:
    other = signed_in("south")
    everywhere = {"of": "instance", "spans": "150", "minutes": "152"}
    assert admin.client.post("/system/keeping", everywhere).status_code == 404
    with crossing():
        assert not Keeping.objects.exists()
        Person.objects.filter(pk=admin.person.pk).update(is_instance_admin=True)
    assert "All projects that say nothing themselves" in words_of(admin.client.get("/system/keeping"))
    assert admin.client.post("/system/keeping", everywhere).status_code == 302
    with tenant(other.project_id):
        assert keeping.of_project(other.project_id)["spans"].days == 150
    page = words_of(admin.client.post("/system/keeping", everywhere | {"spans": "20"}))
    assert "in every project that says nothing itself" in page
