"""What a supervised command makes of each answer, and how it acknowledges what it did."""

from collections.abc import Callable, Iterator

import pytest

from tests.launcher.instance import until
from tests.sdk.run.stand_in import StandIn
from tests.sdk.run.supervised import Supervised

Supervise = Callable[..., Supervised]
QUICK = ("--heartbeat", "1", "--grace", "1")


@pytest.fixture
def server() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.end()


def test_every_order_is_acknowledged_once_with_what_was_done(supervise: Supervise, server: StandIn) -> None:
    one = supervise("sleep", "300", url=server.url, key="k", options=QUICK)
    until(lambda: bool(server.told("heartbeat")), "it beats")
    server.order = {"command": "pause", "status": "paused", "attempt": 1, "command_seq": 7, "reason": "lunch"}
    until(lambda: len(server.told("acknowledge")) == 1, "the pause")
    beats = len(server.told("heartbeat"))
    until(lambda: len(server.told("heartbeat")) > beats + 2, "it beats on")
    server.order = {"command": "continue", "status": "running", "attempt": 1, "command_seq": 8}
    until(lambda: len(server.told("acknowledge")) == 2, "the resume")
    server.order = {"command": "cancel", "status": "cancelled", "attempt": 1, "command_seq": 9, "reason": "enough"}
    code, _, err = one.ends(10)
    assert code == 143
    assert b"handrail: paused: lunch.\nhandrail: going on.\nhandrail: cancelled: enough.\n" in err
    assert server.told("acknowledge") == [
        {"seq": 7, "effect": "stopped all processes where they are", "attempt": 1},
        {"seq": 8, "effect": "went on", "attempt": 1},
        {"seq": 9, "effect": "ended all processes; the command was ended by SIGTERM", "attempt": 1},
    ]


def test_a_server_that_knows_no_acknowledgements_changes_nothing(supervise: Supervise, server: StandIn) -> None:
    server.answers["acknowledge"] = [(404, {"title": "Not found"})]
    server.order = {"command": "cancel", "status": "cancelled", "attempt": 1, "command_seq": 9}
    code, _, err = supervise("sleep", "300", url=server.url, key="k", options=QUICK).ends(10)
    assert code == 143
    assert b"404" not in err


def test_a_hang_is_told_before_it_is_ended(supervise: Supervise, server: StandIn) -> None:
    options = (*QUICK, "--hang-after", "2", "--retries", "0", "--no-wait")
    server.answers["fail"] = [(200, {"status": "hitl_paused", "attempt": 1})]
    one = supervise("bash", "-c", "echo ready; exec sleep 300", url=server.url, key="k", options=options)
    assert one.ends(15)[0] == 124
    words = [name if name != "heartbeat" else body.get("progressing") for name, body in server.heard]
    told = [word for n, word in enumerate(words) if n == 0 or word != words[n - 1]]
    assert told == ["executions", True, False, "fail"]


def test_a_hang_is_not_told_where_that_would_end_it_early(supervise: Supervise, server: StandIn) -> None:
    options = (*QUICK, "--hang-after", "2", "--retries", "0", "--no-wait")
    server.answers["executions"] = [(201, {"status": "running", "attempt": 1, "on_stall": "retry"})]
    server.answers["fail"] = [(200, {"status": "hitl_paused", "attempt": 1})]
    one = supervise("bash", "-c", "echo ready; exec sleep 300", url=server.url, key="k", options=options)
    assert one.ends(15)[0] == 124
    assert {body.get("progressing") for body in server.told("heartbeat")} == {True}
    assert server.told("fail")[0]["error"].startswith("hung: no output")


def test_a_server_that_has_no_time_now_is_there(supervise: Supervise, server: StandIn) -> None:
    server.order = {"command": "continue", "status": "running", "attempt": 2}
    server.answers["heartbeat"] = [(429, {})]
    server.answers["fail"] = [(429, {}), (200, {"status": "retrying", "attempt": 2})]
    options = (*QUICK, "--retries", "1", "--no-wait")
    one = supervise("bash", "-c", "[ $HANDRAIL_ATTEMPT = 2 ]", url=server.url, key="k", options=options)
    code, _, err = one.ends(15)
    assert (code, len(server.told("fail")), b"back" in err) == (0, 2, False)


def test_a_key_that_no_header_can_carry_stops_nobody(supervise: Supervise, server: StandIn) -> None:
    code, out, err = supervise("echo", "done", url=server.url, key="schlüssel", options=QUICK).ends(15)
    assert (code, out, server.heard, b"Traceback" in err) == (0, b"done\n", [], False)


def test_work_that_was_given_up_while_it_ended_is_done_all_the_same(supervise: Supervise, server: StandIn) -> None:
    server.answers["complete"] = [(409, {"detail": "stale", "state": "retrying", "attempt": 2})]
    assert supervise("true", url=server.url, key="k", options=QUICK).ends(10)[0] == 0
    assert [body["attempt"] for body in server.told("complete")] == [1, 2]


def test_work_done_after_its_last_attempt_was_given_up_waits_for_a_person(
    supervise: Supervise, server: StandIn
) -> None:
    server.answers["complete"] = [(409, {"detail": "it waits", "state": "hitl_paused", "attempt": 1})]
    server.order = {"command": "pause", "status": "hitl_paused", "attempt": 1, "reason": "out of time"}
    one = supervise("bash", "-c", "echo once", url=server.url, key="k", options=(*QUICK, "--on-pause", "leave"))
    until(lambda: bool(server.told("complete")), "it is done")
    beats = len(server.told("heartbeat"))
    until(lambda: len(server.told("heartbeat")) > beats + 1, "it waits")
    server.order = {"command": "continue", "status": "running", "attempt": 1}
    assert one.ends(10)[:2] == (0, b"once\n")
    assert [body["output"] for body in server.told("complete")] == [{"exit_code": 0, "output": "once"}] * 2


def test_an_order_of_the_server_holds_until_its_time(supervise: Supervise, server: StandIn) -> None:
    """A stale attempt learns of the present one, and of a person's turn, from one answer."""
    one = supervise("bash", "-c", "echo $HANDRAIL_ATTEMPT; exec sleep 300", url=server.url, key="k", options=QUICK)
    assert one.process.stdout is not None
    assert one.process.stdout.readline() == b"1\n"
    server.order = {"command": "retry", "status": "hitl_paused", "attempt": 4, "reason": "silent"}
    until(lambda: any(body["attempt"] == 4 for body in server.told("heartbeat")), "it speaks for the present attempt")
    server.order = {"command": "continue", "status": "running", "attempt": 4}
    assert one.process.stdout.readline() == b"4\n"


def test_nonsense_from_the_way_there_harms_nothing(supervise: Supervise, server: StandIn) -> None:
    server.order = {"hello": "I am a proxy"}
    script = "for n in 1 2 3 4 5 6 7 8; do echo $n; sleep 0.2; done"
    code, out, err = supervise("bash", "-c", script, url=server.url, key="k", options=QUICK).ends(15)
    assert (code, out.split()) == (0, [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"])
    assert err.count(b"the server takes no heartbeats") == 1
