"""The life of an execution, rule by rule, with every time passed in."""

from decimal import Decimal
from itertools import product
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError, transaction

from monitor import registration
from monitor.models import Agent, DirtyHour, Execution, MinuteRollup, QueueEvent, QueueItem, StateChange
from monitor.models.executions import MOVES, OPEN, WATCHED, Status
from monitor.registration import BadTimes, IdTaken, NewExecution
from monitor.tenancy import crossing, tenant
from monitor.transitions import IllegalMove, StaleAttempt
from tests.monitor.fleets import NOW, a_project, act, after, an_execution, at_once, beat, journal, look, tick


def register(project_id: int, body: NewExecution) -> tuple[Execution, bool]:
    with tenant(project_id):
        return registration.register(project_id, body, now=NOW, actor="key:agents")


def commands(project_id: int) -> list[tuple[str, int]]:
    with tenant(project_id):
        return [
            (e.data["command"], e.data["attempt"]) for e in QueueEvent.objects.filter(kind="command").order_by("seq")
        ]


def test_a_registered_execution_runs_at_once_and_is_due_in_one_and_a_half_intervals(db: None) -> None:
    project = a_project()
    seen = look(project, an_execution(project, run_id="r-1", task="Plan the trip"))
    assert (seen.status, seen.attempt, seen.started_at, seen.attempt_started_at) == ("running", 1, NOW, NOW)
    assert (seen.timeout_s, seen.heartbeat_s, seen.max_retries) == (60, 30, 3)
    assert seen.deadline_at == after(45)
    assert journal(project, seen.id) == [("", "running", "registered")]


def test_the_clocks_come_from_the_client_then_the_agent_then_the_project(db: None) -> None:
    project = a_project(timeout_s=600, heartbeat_s=20, max_retries=2)
    with tenant(project):
        Agent.objects.create(
            project_id=project, name="planner", timeout_s=300, max_retries=0, first_seen_at=NOW, last_seen_at=NOW
        )
    seen = look(project, an_execution(project, heartbeat_s=10))
    assert (seen.timeout_s, seen.heartbeat_s, seen.max_retries, seen.deadline_at) == (300, 10, 0, after(15))
    other = look(project, an_execution(project, agent="coder"))
    assert (other.timeout_s, other.heartbeat_s, other.max_retries) == (600, 20, 2)


def test_registering_puts_the_agent_into_the_registry_and_says_when_it_was_seen(db: None) -> None:
    project = a_project()
    an_execution(project)
    an_execution(project, now=after(5))
    an_execution(project, now=after(30))
    with tenant(project):
        agent = Agent.objects.get()
    assert (agent.name, agent.first_seen_at, agent.last_seen_at) == ("planner", NOW, after(30))


def test_registering_the_same_twice_is_one_execution_and_other_content_is_refused(db: None) -> None:
    project, taken = a_project(), uuid4()
    first, made = register(project, NewExecution(agent="planner", id=taken, inputs={"b": 1, "a": 2}))
    again, made_again = register(project, NewExecution(agent="planner", id=taken, inputs={"a": 2, "b": 1}))
    assert (made, made_again, again.id, first.id) == (True, False, taken, taken)
    with pytest.raises(IdTaken, match="another execution of planner has this id; it is running"):
        register(project, NewExecution(agent="planner", id=taken, inputs={"a": 3}))
    assert journal(project, taken) == [("", "running", "registered")]


def test_an_id_of_another_project_can_be_neither_seen_nor_taken(db: None) -> None:
    north, south, shared = a_project("north"), a_project("south"), uuid4()
    an_execution(north, id=shared)
    with pytest.raises(Execution.DoesNotExist):
        look(south, shared)
    an_execution(south, id=shared, agent="coder")
    assert (look(north, shared).agent, look(south, shared).agent) == ("planner", "coder")


def test_a_heartbeat_puts_the_deadline_off_and_writes_no_journal(db: None) -> None:
    project = a_project()
    one = an_execution(project, timeout_s=600)
    told = beat(project, one, now=after(20), progress=40, message="halfway")
    assert (told.command, told.reason, told.status, told.attempt) == ("continue", "", "running", 1)
    assert (told.deadline_at, told.retry_at) == (after(65), None)
    beat(project, one, now=after(40), progress=40)
    seen = look(project, one)
    assert (seen.progress, seen.message) == (40, "halfway")
    assert (seen.last_heartbeat_at, seen.last_progress_at) == (after(40), after(20))
    assert journal(project, one) == [("", "running", "registered")]


def test_no_heartbeat_puts_the_timeout_off(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    assert beat(project, one, now=after(30)).deadline_at == after(60)
    assert beat(project, one, now=after(59)).deadline_at == after(60)
    assert (tick(now=after(59.9)), tick(now=after(60))) == (0, 1)
    assert look(project, one).verdict == "timed_out"


def test_a_pending_execution_has_no_clock_until_its_first_heartbeat(db: None) -> None:
    project = a_project()
    one = an_execution(project, status="pending")
    assert look(project, one).deadline_at is None
    assert tick(now=after(3600)) == 0
    assert beat(project, one, now=after(3600)).command == "continue"
    seen = look(project, one)
    assert (seen.started_at, seen.deadline_at) == (after(3600), after(3645))
    assert journal(project, one)[1:] == [("pending", "running", "started")]


def test_completing_ends_it_and_saying_so_twice_is_once(db: None) -> None:
    project = a_project()
    one = an_execution(project, department="sales")
    done = act("complete", project, one, now=after(12.5), output={"answer": 42})
    assert (done.status, done.ended_at, done.duration_ms, done.deadline_at) == ("completed", after(12.5), 12_500, None)
    act("complete", project, one, now=after(20), output={"answer": 42})
    with pytest.raises(IllegalMove, match="the execution is completed; it can't become completed"):
        act("complete", project, one, now=after(20), output={"answer": 43})
    with pytest.raises(IllegalMove, match="the execution is completed; it can't become failed"):
        act("fail", project, one, now=after(20), error="late")
    assert (look(project, one).output, look(project, one).ended_at) == ({"answer": 42}, after(12.5))
    told = beat(project, one, now=after(21))
    assert (told.command, told.reason, told.status) == ("cancel", "the execution is completed", "completed")
    with tenant(project):
        minute = MinuteRollup.objects.get()
        assert (minute.kind, minute.agent, minute.department) == ("execution", "planner", "sales")
        assert (minute.count, minute.failed, minute.duration_ms) == (1, 0, 12_500)
        assert minute.minute == after(12.5).replace(second=0, microsecond=0)
        assert DirtyHour.objects.count() == 1


def test_a_retryable_error_starts_the_next_attempt_after_a_backoff(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    failed = act("fail", project, one, now=after(10), error="503 from the model", attempt=1, jitter=0)
    assert (failed.status, failed.attempt, failed.verdict) == ("retrying", 2, "error")
    assert (failed.error, failed.retry_at, failed.deadline_at) == ("503 from the model", after(12), after(57))
    assert beat(project, one, now=after(12), attempt=2).deadline_at == after(57)
    seen = look(project, one)
    assert (seen.status, seen.attempt_started_at, seen.retry_at) == ("running", after(12), None)
    assert journal(project, one)[1:] == [("running", "retrying", "error"), ("retrying", "running", "picked_up")]
    assert commands(project) == [("retry", 2)]


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 4), (5, 32), (6, 60), (60, 60)])
def test_the_backoff_doubles_up_to_a_minute(db: None, attempt: int, seconds: int) -> None:
    project = a_project()
    one = an_execution(project, max_retries=100)
    with tenant(project):
        Execution.objects.filter(id=one).update(attempt=attempt)
    assert act("fail", project, one, now=NOW, error="x", jitter=0).retry_at == after(seconds)


def test_jitter_takes_up_to_half_of_the_backoff(db: None) -> None:
    project = a_project()
    assert act("fail", project, an_execution(project), now=NOW, error="x", jitter=1).retry_at == after(1)
    free = act("fail", project, an_execution(project), now=NOW, error="x").retry_at
    assert free is not None
    assert after(1) <= free <= after(2)


def test_the_same_error_told_twice_spends_one_attempt(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    first = act("fail", project, one, now=after(3), error="503")
    again = act("fail", project, one, now=after(4), error="503")
    assert (again.status, again.attempt, again.retry_at) == ("retrying", 2, first.retry_at)
    assert journal(project, one)[1:] == [("running", "retrying", "error")]
    # Another error is news, and so is the same one of an attempt that was picked up.
    assert act("fail", project, one, now=after(5), error="504").attempt == 3
    beat(project, one, now=after(30), attempt=3)
    assert act("fail", project, one, now=after(31), error="504").attempt == 4
    assert act("fail", project, one, now=after(32), error="504", retryable=False).status == "failed"


def test_an_error_that_is_not_retryable_ends_it(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    failed = act("fail", project, one, now=after(3), error="no such tool", retryable=False)
    assert (failed.status, failed.error, failed.ended_at) == ("failed", "no such tool", after(3))
    with tenant(project):
        assert list(MinuteRollup.objects.values_list("count", "failed")) == [(1, 1)]


def test_spent_retries_ask_a_person_once(db: None) -> None:
    project = a_project()
    one = an_execution(project, max_retries=0, task="Book a room", run_id="r-7")
    paused = act("fail", project, one, now=after(20), error="no rooms")
    assert (paused.status, paused.attempt, paused.deadline_at) == ("hitl_paused", 1, None)
    assert paused.timeout_left_ms == 40_000
    with pytest.raises(IllegalMove, match="the execution is hitl_paused; it can't become failed"):
        act("fail", project, one, now=after(21), error="no rooms")
    with tenant(project):
        item = QueueItem.objects.get()
        change = StateChange.objects.get(subject="execution", cause="error")
    assert (item.kind, item.subject_id, item.trigger) == ("paused_execution", str(one), "error")
    assert item.title == "planner keeps failing: Book a room"
    assert item.evidence == {
        "reason": "no rooms", "run_id": "r-7", "attempt": 1, "max_retries": 0, "silent_ms": 20_000
    }  # fmt: skip
    assert change.judged_at is None
    assert change.data["next"] == "hitl_paused"
    assert beat(project, one, now=after(30)).command == "pause"


def test_an_error_that_comes_after_the_timeout_is_a_timeout(db: None) -> None:
    project = a_project()
    one, other = an_execution(project), an_execution(project)
    in_time = act("fail", project, one, now=after(59), error="slow")
    late = act("fail", project, other, now=after(60), error="ended: it ran longer than 60 s")
    assert (in_time.verdict, late.verdict) == ("error", "timed_out")
    assert (late.status, late.error) == ("retrying", "ended: it ran longer than 60 s")


@pytest.mark.parametrize("spend", ["error", "silence"])
def test_what_waits_for_a_person_ends_when_its_program_says_that_nobody_is_left(db: None, spend: str) -> None:
    project = a_project()
    one = an_execution(project, max_retries=0)
    if spend == "error":
        act("fail", project, one, now=after(5), error="broken")
    else:
        tick(now=after(45))
    gone = act("fail", project, one, now=after(50), error="given up", retryable=False, attempt=1)
    assert (gone.status, gone.error, gone.ended_at) == ("failed", "given up", after(50))
    with tenant(project):
        assert list(QueueItem.objects.values_list("status", flat=True)) == ["cancelled"]
        minute = MinuteRollup.objects.get()
        assert (minute.failed, minute.cancelled) == (1, 0)


def test_a_stale_heartbeat_is_told_to_retry_and_changes_nothing_of_the_work(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    beat(project, one, now=after(10), progress=10, attempt=1)
    assert tick(now=after(55)) == 1
    before = look(project, one)
    told = beat(project, one, now=after(10 + 720), progress=90, attempt=1)
    assert (told.command, told.status, told.attempt) == ("retry", "retrying", 2)
    assert (told.reason, told.retry_at) == ("no heartbeat for 45 s", after(57))
    beat(project, one, now=after(740), attempt=1)
    assert vars(look(project, one)) | {"_state": None} == vars(before) | {"_state": None, "command_told": True}
    with tenant(project):
        late = StateChange.objects.get(cause="came_back")
    assert (late.note, late.attempt, late.data["progress"]) == ("came back after 12 min", 1, 90)


@pytest.mark.parametrize("max_retries", [0, 3])
def test_beats_that_come_back_together_are_told_once(committed_db: None, max_retries: int) -> None:
    project = a_project()
    one = an_execution(project, max_retries=max_retries)
    assert tick(now=after(45)) == 1
    at_once([lambda: beat(project, one, now=after(60), attempt=1)] * 8)
    assert [cause for _, _, cause in journal(project, one)] == ["registered", "zombie", "came_back"]


def test_a_heartbeat_that_names_no_attempt_does_not_pick_up_the_next(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    tick(now=after(45))
    assert beat(project, one, now=after(50)).command == "retry"
    assert look(project, one).status == "retrying"
    assert beat(project, one, now=after(51), attempt=2).command == "continue"
    assert beat(project, one, now=after(52)).command == "continue"


@pytest.mark.parametrize("verb", ["complete", "fail"])
def test_a_stale_report_is_refused_with_the_present_state(db: None, verb: str) -> None:
    project = a_project()
    one = an_execution(project)
    tick(now=after(45))
    said = {"error": "late"} if verb == "fail" else {"output": "late"}
    with pytest.raises(StaleAttempt, match="attempt 1 is stale: the execution is retrying at attempt 2"):
        act(verb, project, one, now=after(50), attempt=1, **said)
    assert (look(project, one).status, look(project, one).output) == ("retrying", None)


def test_the_new_attempt_may_complete_without_a_heartbeat(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    tick(now=after(45))
    done = act("complete", project, one, now=after(50), output="fine", attempt=2)
    assert (done.status, done.error, done.retry_at) == ("completed", "", None)


def test_clocks_stand_still_while_paused(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    paused = act("pause", project, one, now=after(20), note="look at it first")
    assert (paused.status, paused.deadline_at, paused.timeout_left_ms) == ("paused", None, 40_000)
    assert tick(now=after(3600)) == 0
    told = beat(project, one, now=after(3600))
    assert (told.command, told.reason, told.deadline_at) == ("pause", "look at it first", None)
    going = act("resume", project, one, now=after(7200))
    assert (going.status, going.attempt, going.deadline_at) == ("running", 1, after(7240))
    assert beat(project, one, now=after(7210)).command == "continue"
    assert (tick(now=after(7239.9)), tick(now=after(7240))) == (0, 1)
    assert look(project, one).verdict == "timed_out"
    assert commands(project)[:2] == [("pause", 1), ("continue", 1)]


def test_what_was_paused_before_its_attempt_was_picked_up_waits_for_that_again(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    tick(now=after(45))
    act("pause", project, one, now=after(46))
    back = act("resume", project, one, now=after(1000))
    assert (back.status, back.attempt, back.retry_at, back.deadline_at) == ("retrying", 2, after(1000), after(1045))
    assert beat(project, one, now=after(1001), attempt=2).command == "continue"


def test_retry_starts_the_next_attempt_also_beyond_the_last(db: None) -> None:
    project = a_project()
    one = an_execution(project, max_retries=0)
    tick(now=after(45))
    again = act("retry", project, one, now=after(100), note="the network is back")
    assert (again.status, again.attempt, again.retry_at, again.deadline_at) == ("retrying", 2, after(100), after(145))
    assert beat(project, one, now=after(101), attempt=1).command == "retry"
    assert tick(now=after(145)) == 1
    seen = look(project, one)
    assert (seen.status, seen.attempt, seen.verdict, seen.timeout_left_ms) == (
        "hitl_paused",
        2,
        "not_picked_up",
        60_000,
    )
    with tenant(project):
        assert list(QueueItem.objects.order_by("requested_at").values_list("status", flat=True)) == [
            "resolved",
            "pending",
        ]


def test_a_person_may_retry_what_still_runs(db: None) -> None:
    project = a_project()
    one = an_execution(project)
    act("retry", project, one, now=after(10))
    assert beat(project, one, now=after(11), attempt=1).command == "retry"
    with pytest.raises(IllegalMove, match="the execution is retrying; it can't become retrying"):
        act("retry", project, one, now=after(12))


@pytest.mark.parametrize(("spend", "ended"), [("error", "failed"), ("silence", "timeout"), ("nothing", "cancelled")])
def test_an_abort_ends_as_what_led_to_it(db: None, spend: str, ended: str) -> None:
    project = a_project()
    one = an_execution(project, max_retries=0)
    if spend == "error":
        act("fail", project, one, now=after(5), error="broken")
    elif spend == "silence":
        tick(now=after(45))
    stopped = act("cancel", project, one, now=after(90), note="not worth it")
    assert (stopped.status, stopped.ended_at, stopped.command_reason) == (ended, after(90), "not worth it")
    told = beat(project, one, now=after(91))
    assert (told.command, told.reason) == ("cancel", "not worth it")
    with tenant(project):
        assert set(QueueItem.objects.values_list("status", flat=True)) <= {"cancelled"}
        minute = MinuteRollup.objects.get()
        assert (minute.failed, minute.cancelled) == ((0, 1) if ended == "cancelled" else (1, 0))


def test_cancelling_cancels_all_open_work_below_and_nothing_beside(db: None) -> None:
    project = a_project()
    top = an_execution(project)
    child = an_execution(project, parent_id=top)
    done = an_execution(project, parent_id=top, agent="coder")
    act("complete", project, done, now=after(1))
    grandchild = an_execution(project, parent_id=done)
    beside = an_execution(project)
    act("cancel", project, top, now=after(5))
    assert [look(project, one).status for one in (top, child, done, grandchild, beside)] == [
        "cancelled", "cancelled", "completed", "cancelled", "running"
    ]  # fmt: skip
    assert journal(project, grandchild)[-1] == ("running", "cancelled", "parent_cancelled")
    assert commands(project) == [("cancel", 1)] * 3


def test_a_circle_of_parents_is_cancelled_too(db: None) -> None:
    project = a_project()
    a, b = uuid4(), uuid4()
    an_execution(project, id=a, parent_id=b)
    an_execution(project, id=b, parent_id=a)
    act("cancel", project, a, now=after(1))
    assert (look(project, a).status, look(project, b).status) == ("cancelled", "cancelled")


def test_work_already_done_is_tracked_in_one_call(db: None) -> None:
    project = a_project()
    body = NewExecution(
        agent="planner",
        status="failed",
        duration_ms=2500,
        error="quota",
        model="m-1",
        input_tokens=10,
        cost_usd=Decimal("0.0123450"),
        api_calls=3,
        cpu_ms=40,
        memory_delta_bytes=-5,
    )
    done, made = register(project, body)
    assert (made, done.status, done.started_at, done.ended_at) == (True, "failed", after(-2.5), NOW)
    assert (done.duration_ms, done.deadline_at) == (2500, None)
    with tenant(project):
        assert list(MinuteRollup.objects.values_list("count", "failed", "model")) == [(1, 1, "m-1")]
    assert journal(project, done.id) == [("", "failed", "tracked")]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"duration_ms": 5}, "status"),
        ({"ended_at": NOW}, "status"),
        ({"started_at": NOW}, "started_at"),
        ({"status": "completed", "started_at": after(10), "ended_at": NOW}, "ended_at"),
        ({"status": "completed", "ended_at": after(301)}, "ended_at"),
        ({"status": "completed", "ended_at": after(-7 * 86_400 - 1)}, "ended_at"),
        ({"status": "completed", "started_at": after(-11 * 365 * 86_400)}, "started_at"),
    ],
)
def test_times_that_do_not_fit_are_refused(db: None, body: dict, field: str) -> None:
    project = a_project()
    with pytest.raises(BadTimes) as refusal:
        register(project, NewExecution(agent="planner", **body))
    assert refusal.value.field == field
    with tenant(project):
        assert Execution.objects.count() == 0


def allowed(project_id: int, one: UUID, old: str, new: str) -> bool:
    """Whether the database lets a row move from one status to another."""
    with tenant(project_id):
        row = Execution.objects.filter(id=one)
        row.delete()
        for status in (old, new):
            fields = {
                "status": status,
                "ended_at": None if status in OPEN else NOW,
                "deadline_at": NOW if status in WATCHED else None,
            }
            if status == old and not row.exists():
                Execution.objects.create(project_id=project_id, id=one, agent="planner", digest=b"", **fields)
                continue
            try:
                with transaction.atomic():
                    row.update(**fields)
            except IntegrityError:
                return False
        return True


def test_the_database_allows_exactly_the_moves_that_are_listed(db: None) -> None:
    project, one = a_project(), uuid4()
    pairs = [(old, new) for old, new in product(Status.values, Status.values) if old != new]
    found = {(old, new) for old, new in pairs if allowed(project, one, old, new)}
    assert found == {(old, new) for new, olds in MOVES.items() for old in olds}


def test_eight_threads_register_one_execution(committed_db: None) -> None:
    project, one = a_project(), uuid4()
    made = at_once([lambda: register(project, NewExecution(agent="planner", id=one))[1] for _ in range(8)])
    assert sorted(made) == [False] * 7 + [True]
    assert journal(project, one) == [("", "running", "registered")]


def test_completing_and_the_verdict_race_and_one_of_them_wins(committed_db: None) -> None:
    project = a_project()
    endings = set()
    for _ in range(15):
        one = an_execution(project)
        done, judged = at_once(
            [lambda one=one: act("complete", project, one, now=after(45), attempt=1), lambda: tick(now=after(45))]
        )
        seen = look(project, one)
        if seen.status == "completed":
            assert (judged, journal(project, one)[1:]) == (0, [("running", "completed", "completed")])
        else:
            assert isinstance(done, StaleAttempt)
            assert (seen.status, judged, journal(project, one)[1:]) == (
                "retrying", 1, [("running", "retrying", "zombie")]
            )  # fmt: skip
            act("cancel", project, one, now=after(46))
        endings.add(seen.status)
    assert endings <= {"completed", "retrying"}


def test_cancelling_and_completing_race_and_one_of_them_wins(committed_db: None) -> None:
    project = a_project()
    for _ in range(15):
        one = an_execution(project)
        results = at_once(
            [
                lambda one=one: act("complete", project, one, now=after(5)),
                lambda one=one: act("cancel", project, one, now=after(5)),
            ]
        )
        assert sum(isinstance(result, IllegalMove) for result in results) == 1
        assert len(journal(project, one)) == 2
    with crossing():
        assert sum(MinuteRollup.objects.values_list("count", flat=True)) == 15


def test_two_cancels_of_one_family_do_not_lock_each_other_out(committed_db: None) -> None:
    project = a_project()
    for _ in range(5):
        top = an_execution(project)
        middle = an_execution(project, parent_id=top)
        leaves = [an_execution(project, parent_id=middle) for _ in range(4)]
        at_once([lambda top=top: act("cancel", project, top, now=after(5)),
                 lambda middle=middle: act("cancel", project, middle, now=after(5))])  # fmt: skip
        assert {look(project, one).status for one in (top, middle, *leaves)} == {"cancelled"}
        assert all(len(journal(project, one)) == 2 for one in (top, middle, *leaves))
