"""Every alert that Handrail raises by itself ends by itself, or is known to wait for a person."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db import connection, transaction

from alerts import delivery
from alerts.endings import ENDINGS, settle_over
from alerts.judge import judge
from alerts.judgements import Raise
from alerts.models import Channel
from alerts.rules import RULES, judgement
from monitor import agents, cadence, claims, clocks, jobs, limits, loopwatch, renewals, room, silence, trips
from monitor.api.executions import register
from monitor.models import HumanAgent, Person, Price, Project, StateChange, Trip
from monitor.registration import NewExecution
from monitor.tenancy import crossing, tenant
from tests.alerts.builders import a_channel, an_alert, deliveries
from tests.alerts.mailserver import mail_server
from tests.alerts.test_rules import RAISED
from tests.alerts.troubles import DAY, NOON, a_budget, a_project, after, alerts, budgets_of, set_limit, spend, turn
from tests.dashboard.queue_builders import a_chat
from tests.monitor import fleets
from tests.monitor.spending import a_bare_span, accept, pending
from tests.monitor.test_loopwatch import a_call

Story = Callable[[int], Iterator[datetime]]
FOR_A_PERSON = {"judgement_failed"}


def beats_again(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON)
    fleets.tick(now=after(60))
    yield after(60)
    fleets.beat(project_id, work, now=after(70), attempt=2)
    yield after(70)


def ends(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON)
    fleets.act("fail", project_id, work, now=after(5), error="HTTP 500")
    yield after(5)
    fleets.act("cancel", project_id, work, now=after(10))
    yield after(10)


def a_person_resumes(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON, max_retries=0)
    fleets.tick(now=after(60))
    yield after(60)
    fleets.act("resume", project_id, work, now=after(90))
    yield after(90)


def comes_back_too_late(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON, timeout_s=30)
    fleets.tick(now=after(60))
    fleets.beat(project_id, work, now=after(61), attempt=1)
    yield after(61)
    fleets.act("cancel", project_id, work, now=after(90))
    yield after(90)


def nobody_picks_it_up(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON)
    fleets.tick(now=after(60))
    judge(now=after(60))
    fleets.tick(now=after(200))
    yield after(200)
    fleets.act("cancel", project_id, work, now=after(410))
    yield after(410)


def moves_again(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON, stall_s=30, timeout_s=600)
    fleets.beat(project_id, work, now=after(40), message="waits for a lock")
    fleets.beat(project_id, work, now=after(70))
    fleets.tick(now=after(71))
    yield after(71)
    fleets.beat(project_id, work, now=after(90), progress=10)
    yield after(90)


def stalls_and_is_cancelled(project_id: int) -> Iterator[datetime]:
    work = fleets.an_execution(project_id, now=NOON, stall_s=30, on_stall="retry")
    fleets.tick(now=after(31))
    yield after(31)
    fleets.act("cancel", project_id, work, now=after(40))
    yield after(40)


def trip_is_reset(project_id: int) -> Iterator[datetime]:
    a_budget(project_id)
    spend(project_id, "12", now=NOON)
    yield NOON
    with tenant(project_id):
        trip = Trip.objects.get()
        trips.reset(trip, note="", top_up_usd=None, actor="ann@example.org", project_id=project_id, now=after(60))
    yield after(60)


def trip_is_over(project_id: int) -> Iterator[datetime]:
    a_budget(project_id)
    spend(project_id, "12", now=NOON)
    yield NOON
    renewals.close_over(now=NOON + DAY)
    yield NOON + DAY


def budget_renews(usd: str, action: str) -> Story:
    def story(project_id: int) -> Iterator[datetime]:
        a_budget(project_id, action=action)
        spend(project_id, usd, now=NOON)
        yield NOON
        yield NOON + DAY

    return story


def budget_gets_room(usd: str) -> Story:
    def story(project_id: int) -> Iterator[datetime]:
        a_budget(project_id, action="alert")
        spend(project_id, usd, now=NOON)
        yield NOON
        set_limit(project_id, "100")
        yield after(60)

    return story


def limit_is_passed(project_id: int) -> Iterator[datetime]:
    a_budget(project_id, action="alert")
    spend(project_id, "9", now=NOON)
    yield NOON
    spend(project_id, "3", now=after(60))
    yield after(60)


def budget_is_taken_away(project_id: int) -> Iterator[datetime]:
    a_budget(project_id)
    spend(project_id, "9", now=NOON)
    yield NOON
    with tenant(project_id):
        [budget] = budgets_of(project_id)
        limits.remove(project_id, budget, is_global=False, actor="ann@example.org", now=after(60))
    yield after(60)


def budget_is_told_to_stop(project_id: int) -> Iterator[datetime]:
    a_budget(project_id, action="alert")
    spend(project_id, "12", now=NOON)
    yield NOON
    with tenant(project_id):
        [budget] = budgets_of(project_id)
        limits.change(project_id, budget, is_global=False, action="stop", actor="ann@example.org", now=after(60))
    settle_over(now=after(60))
    spend(project_id, "1", now=after(61))
    with tenant(project_id):
        assert Trip.objects.filter(reset_at=None).count() == 1
    yield after(61)


def run_is_done(project_id: int) -> Iterator[datetime]:
    a_budget(project_id, scope="run")
    spend(project_id, "9", now=NOON, run_id="night")
    yield NOON
    settle_over(now=after(14 * 60))
    assert [one.status for one in alerts("budget_warning")] == ["firing"]
    yield after(16 * 60)


def price_is_added(project_id: int) -> Iterator[datetime]:
    spend(project_id, "0", now=NOON, model="acme-9", input_tokens=1000, output_tokens=100)
    yield NOON
    with crossing():
        rates = {"input": "2.5", "output": "10"}
        Price.objects.create(project_id=project_id, model="acme-9", starts_at=NOON, rates=rates)
    spend(project_id, "0", now=after(600), model="acme-9", input_tokens=1000, output_tokens=100)
    settle_over(now=after(600))
    assert [one.status for one in alerts("model_unpriced")] == ["firing"]
    yield after(17 * 60)


def model_is_left(project_id: int) -> Iterator[datetime]:
    spend(project_id, "0", now=NOON, model="acme-9", input_tokens=1000, output_tokens=100)
    yield NOON
    settle_over(now=NOON + DAY - timedelta(minutes=5))
    assert [one.status for one in alerts("model_unpriced")] == ["firing"]
    yield NOON + DAY + timedelta(minutes=2)


def somebody_claims_it(project_id: int) -> Iterator[datetime]:
    item = a_chat(project_id, at=NOON)
    with crossing():
        person = Person.objects.create_user("ann@north.example", "correct horse")
        ann = HumanAgent.objects.create(project_id=project_id, person=person, status="online")
    clocks.breaches(now=after(600))
    yield after(600)
    with tenant(project_id):
        claims.claim(project_id, item.pk, ann, now=after(700))
    yield after(700)


def an_expected_agent(project_id: int) -> None:
    with tenant(project_id):
        agents.enter(project_id, "planner", agents.Edit(expected_every_s=3600), actor="ann@example.org", now=NOON)
    cadence.judge(now=after(3600))


def agent_is_heard(project_id: int) -> Iterator[datetime]:
    an_expected_agent(project_id)
    yield after(3600)
    fleets.an_execution(project_id, now=after(4000))
    cadence.judge(now=after(4005))
    yield after(4005)


def nobody_expects_the_agent(project_id: int) -> Iterator[datetime]:
    an_expected_agent(project_id)
    yield after(3600)
    with tenant(project_id):
        edit = agents.Edit(expected_every_s=None)
        agents.change(project_id, "planner", edit, actor="ann@example.org", now=after(4000))
    yield after(4000)


def fleet_beats_again(project_id: int) -> Iterator[datetime]:
    fleet = [fleets.an_execution(project_id, now=NOON, timeout_s=3600) for _ in range(10)]
    fleets.tick(now=after(60))
    yield after(60)
    fleets.tick(now=after(200))
    settle_over(now=after(200))
    for n, one in enumerate(fleet, start=1):
        fleets.beat(project_id, one, now=after(205), attempt=2)
        settle_over(now=after(205))
        # All are open; as long as more than 30 % of them are silent, the fleet is.
        assert [one.status for one in alerts("fleet_silent")] == ["resolved" if n >= 6 else "firing"], n
    yield after(206)


def fleet_is_called_off(project_id: int) -> Iterator[datetime]:
    fleet = [fleets.an_execution(project_id, now=NOON, timeout_s=3600, max_retries=0) for _ in range(10)]
    fleets.tick(now=after(60))
    yield after(60)
    fleets.tick(now=after(200))
    settle_over(now=after(200))
    # They wait for people, and were not heard of.
    assert [one.status for one in alerts("fleet_silent")] == ["firing"]
    for one in fleet:
        fleets.act("cancel", project_id, one, now=after(300))
    yield after(300)


def a_silent_job() -> None:
    jobs.expect({"watch.overdue": 5})
    with jobs.ran("watch.overdue", 5, now=NOON):
        pass
    jobs.turning(now=NOON)
    jobs.report_silence(now=after(60))


def job_runs_again(project_id: int) -> Iterator[datetime]:
    a_silent_job()
    yield after(60)
    with jobs.ran("watch.overdue", 5, now=after(65)):
        pass
    jobs.report_silence(now=after(66))
    yield after(66)


def job_ends_on_purpose(project_id: int) -> Iterator[datetime]:
    a_silent_job()
    yield after(60)
    jobs.gone("watch.overdue", now=after(75))
    yield after(75)


def the_project(project_id: int) -> Project:
    with crossing():
        return Project.objects.get(pk=project_id)


def loops_and_stops(project_id: int) -> Iterator[datetime]:
    calls = [a_call(n, started_at=after(n), ended_at=after(n)) for n in range(3)]
    accept(the_project(project_id), calls, now=after(5))
    loopwatch.look(now=after(10))
    yield after(10)
    loopwatch.look(now=after(700))
    yield after(700)


def an_open_trace(project_id: int) -> Project:
    project = the_project(project_id)
    agent = {"kind": "agent", "agent": "planner", "agent_stated": True}
    accept(project, [pending(a_bare_span(1, 1, started_at=NOON, ended_at=after(1), **agent))], now=NOON)
    silence.look(now=after(601))
    return project


def trace_is_heard_of(project_id: int) -> Iterator[datetime]:
    project = an_open_trace(project_id)
    yield after(601)
    accept(project, [a_bare_span(1, 2, 1, started_at=after(610))], now=after(610))
    silence.look(now=after(700))
    yield after(700)


def trace_turns_out_to_be_registered(project_id: int) -> Iterator[datetime]:
    an_open_trace(project_id)
    yield after(601)
    with tenant(project_id):
        body = NewExecution(agent="planner", trace_id=UUID(int=1).hex)
        register(project_id, body, now=after(650), actor="key:agents")
    yield after(700)


def there_is_room_again(project_id: int) -> Iterator[datetime]:
    with a_disk() as fill:
        fill(0.81)
        room.look(now=NOON)
        yield NOON
        fill(0.5)
        room.look(now=after(60))
        yield after(60)


def doors_open_again(project_id: int) -> Iterator[datetime]:
    with a_disk() as fill:
        fill(0.97)
        room.look(now=NOON)
        yield NOON
        fill(0.85)
        room.look(now=after(60))
        yield after(60)
        # The warning stays for as long as little is left.
        assert [alert.status for alert in alerts("room_tight")] == ["firing"]
        fill(0.5)
        room.look(now=after(90))
        yield after(90)


@contextmanager
def a_disk() -> Iterator[Callable[[float], None]]:
    """A limit of the database that is as nearly used up as the story wants."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size = cursor.fetchone()[0]

    def fill(share: float) -> None:
        settings.DB_MAX_BYTES = round(size / share)

    before = settings.DB_MAX_BYTES
    try:
        yield fill
    finally:
        settings.DB_MAX_BYTES = before


STORIES: list[tuple[str, Story]] = [
    ("tool_loop", loops_and_stops),
    ("trace_silent", trace_is_heard_of),
    ("trace_silent", trace_turns_out_to_be_registered),
    ("execution_zombie", beats_again),
    ("execution_error", ends),
    ("execution_timed_out", comes_back_too_late),
    ("execution_not_picked_up", nobody_picks_it_up),
    ("execution_paused", a_person_resumes),
    ("execution_stalled", moves_again),
    ("execution_stalled", stalls_and_is_cancelled),
    ("budget_tripped", trip_is_reset),
    ("budget_tripped", trip_is_over),
    ("budget_warning", budget_renews("9", "stop")),
    ("budget_warning", budget_gets_room("9")),
    ("budget_warning", budget_is_taken_away),
    ("budget_warning", limit_is_passed),
    ("budget_warning", run_is_done),
    ("budget_exceeded", budget_renews("12", "alert")),
    ("budget_exceeded", budget_gets_room("12")),
    ("budget_exceeded", budget_is_told_to_stop),
    ("model_unpriced", price_is_added),
    ("model_unpriced", model_is_left),
    ("handover_unclaimed", somebody_claims_it),
    ("agent_silent", agent_is_heard),
    ("agent_silent", nobody_expects_the_agent),
    ("fleet_silent", fleet_beats_again),
    ("fleet_silent", fleet_is_called_off),
    ("job_silent", job_runs_again),
    ("job_silent", job_ends_on_purpose),
    ("room_tight", there_is_room_again),
    ("room_out", doors_open_again),
]


@pytest.mark.parametrize(("kind", "story"), STORIES, ids=[f"{kind} {story.__name__}" for kind, story in STORIES])
def test_what_opens_an_alert_has_an_end_that_resolves_it(db: None, kind: str, story: Story) -> None:
    happens = story(a_project())
    began = next(happens)
    turn(now=began)
    [alert] = alerts(kind)
    assert (alert.status, len(deliveries(alert.pk))) == ("firing", 1)
    turn(now=next(happens))
    [alert] = alerts(kind)
    assert alert.status == "resolved", ENDINGS[kind].words


def test_every_line_of_the_rules_is_reached_and_every_ending_is_driven(db: None) -> None:
    reached = set()
    for _, story in STORIES:
        with transaction.atomic():
            for now in story(a_project()):
                turn(now=now)
            with crossing():
                changes = list(StateChange.objects.all())
            reached |= {_line_of(change) for change in changes}
            transaction.set_rollback(True)
    assert [rule for n, rule in enumerate(RULES) if n not in reached] == []

    raised = {
        conclusion.type for change, about, *_ in RAISED if isinstance(conclusion := judgement(change, about), Raise)
    }
    driven = {kind for kind, _ in STORIES} | {"channel_failing"}
    assert raised <= set(ENDINGS) - FOR_A_PERSON
    assert driven == set(ENDINGS)


def _line_of(change: StateChange) -> int | None:
    return next((n for n, rule in enumerate(RULES) if rule.fits(change)), None)


def test_a_channel_that_fails_is_over_when_a_message_arrives_by_it(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    with crossing():
        Channel.objects.all().delete()
    a_channel(project_id, "email", target="ops@example.org", levels=("critical",))
    an_alert(project_id, level="critical", now=NOON)
    with mail_server(settings) as mailbox:
        mailbox.answer = "550 no such person"
        delivery.deliver(now=NOON)
        settle_over(now=NOON)
        assert [one.status for one in alerts("channel_failing")] == ["firing"]
        mailbox.answer = "250 OK"
        an_alert(project_id, fingerprint="fire", level="critical", now=after(60))
        delivery.deliver(now=after(60))
        settle_over(now=after(61))
    assert [one.status for one in alerts("channel_failing")] == ["resolved"]


def test_a_channel_that_fails_is_over_when_a_test_arrives(committed_db: None, settings: Any) -> None:
    project_id = a_project()
    channel = a_channel(project_id, "email", target="ops@example.org", levels=("critical",))
    an_alert(project_id, level="critical", now=NOON)
    with mail_server(settings) as mailbox:
        mailbox.answer = "550 no such person"
        delivery.deliver(now=NOON)
        with pytest.raises(delivery.channels.Permanent):
            delivery.test_message(channel, actor="ann@example.org", test_id="1", now=after(5))
        assert [one.status for one in alerts("channel_failing")] == ["firing"]
        mailbox.answer = "250 OK"
        delivery.test_message(channel, actor="ann@example.org", test_id="2", now=after(9))
    [alert] = alerts("channel_failing")
    assert (alert.status, alert.resolved_by) == ("resolved", "ann@example.org")
