"""An agent that hangs four times: three retries, a person, and the end of the work."""

from monitor.models import MinuteRollup, QueueEvent, QueueItem
from monitor.tenancy import tenant
from tests.monitor.fleets import a_project, act, after, an_execution, beat, journal, look, tick


def test_an_agent_hangs_four_times_a_person_resumes_it_and_it_completes(db: None) -> None:
    project = a_project()
    one = an_execution(project, task="Book a room")
    clock = 0.0
    for attempt, backoff in ((1, 2), (2, 4), (3, 8)):
        clock += 45
        assert tick(now=after(clock - 0.1)) == 0
        assert tick(now=after(clock)) == 1
        told = beat(project, one, now=after(clock + 1), attempt=attempt)
        assert (told.command, told.attempt, told.retry_at) == ("retry", attempt + 1, after(clock + backoff))
        clock += backoff
        assert beat(project, one, now=after(clock), attempt=attempt + 1).command == "continue"

    clock += 45
    assert tick(now=after(clock)) == 1
    paused = look(project, one)
    assert (paused.status, paused.attempt, paused.verdict, paused.deadline_at) == ("hitl_paused", 4, "zombie", None)
    with tenant(project):
        item = QueueItem.objects.get()
    assert (item.title, item.status, item.trigger) == ("planner went silent: Book a room", "pending", "zombie")
    assert beat(project, one, now=after(clock + 500), attempt=4).command == "pause"

    clock += 3600
    assert tick(now=after(clock)) == 0
    resumed = act("resume", project, one, now=after(clock), note="The booking site is back.")
    # 45 of the 60 seconds were used before the clocks stopped.
    assert (resumed.status, resumed.attempt, resumed.deadline_at) == ("running", 4, after(clock + 15))
    with tenant(project):
        item.refresh_from_db()
    assert (item.status, item.outcome, item.note) == ("resolved", "resumed", "The booking site is back.")
    assert beat(project, one, now=after(clock + 10), attempt=4).command == "continue"
    act("complete", project, one, now=after(clock + 14), output="room 7", attempt=4, actor="key:agents")

    assert journal(project, one) == [
        ("", "running", "registered"),
        ("running", "retrying", "zombie"),
        ("retrying", "retrying", "came_back"),
        ("retrying", "running", "picked_up"),
        ("running", "retrying", "zombie"),
        ("retrying", "retrying", "came_back"),
        ("retrying", "running", "picked_up"),
        ("running", "retrying", "zombie"),
        ("retrying", "retrying", "came_back"),
        ("retrying", "running", "picked_up"),
        ("running", "hitl_paused", "zombie"),
        ("hitl_paused", "hitl_paused", "came_back"),
        ("hitl_paused", "running", "resumed"),
        ("running", "running", "goes_on"),
        ("running", "completed", "completed"),
    ]
    with tenant(project):
        told = QueueEvent.objects.filter(kind="command").order_by("seq").values_list("data__command", flat=True)
        assert list(told) == ["retry", "retry", "retry", "pause", "continue"]
        assert list(MinuteRollup.objects.values_list("count", "failed")) == [(1, 0)]
