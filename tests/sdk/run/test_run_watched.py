"""A supervised command and a running Handrail: what each tells the other, and what people make of it."""

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.flows.running import make_key
from tests.launcher.instance import Instance, until
from tests.sdk.run.supervised import Supervised

Watched = Callable[..., Supervised]
COUNTS = "n=0; while :; do n=$((n+1)); echo $n > $FOLDER/count; echo count $n; sleep 0.1; done"


def waiting(people: httpx.Client) -> list[str]:
    """The subjects that wait for a person."""
    return [item["subject_id"] for item in people.get("/api/v1/queue").json()["results"]]


def count(one: Supervised) -> int:
    return int(one.file("count") or 0)


def test_a_command_that_ends_well_completes_its_execution(watched: Watched, people: httpx.Client) -> None:
    options = ("--task", "Count", "--run-id", "r-1", "--department", "books", "--timeout", "2m", "--retries", "5")
    one = watched("bash", "-c", "echo one; echo two; echo three >&2", options=options)
    assert one.ends()[0] == 0
    done = one.execution(people)
    told = {name: done[name] for name in ("task", "run_id", "department", "timeout_s", "heartbeat_s", "max_retries")}
    assert told == {
        "task": "Count",
        "run_id": "r-1",
        "department": "books",
        "timeout_s": 120,
        "heartbeat_s": 1,
        "max_retries": 5,
    }
    assert (done["status"], done["attempt"], done["output"]["exit_code"]) == ("completed", 1, 0)
    assert sorted(done["output"]["output"].split("\n")) == ["one", "three", "two"]
    assert one.journal(people) == [("", "running", "registered"), ("running", "completed", "completed")]


def test_the_last_lines_are_the_message_of_the_heartbeat(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "echo one; echo two; echo three; printf '\\033[1mfour'; sleep 60")
    until(lambda: one.execution(people).get("message") == "two\nthree\nfour", "the message")
    silent = watched("bash", "-c", "echo secret; sleep 60", options=("--no-output",))
    until(lambda: bool(silent.execution(people).get("last_heartbeat_at")), "it beats")
    assert silent.execution(people)["message"] == ""


def test_no_output_keeps_it_from_the_end_too(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "echo secret; exit 4", options=("--no-output", "--retries", "0", "--no-wait"))
    assert one.ends()[:2] == (4, b"secret\n")
    assert one.execution(people)["error"] == "ended with exit code 4"


def test_a_failed_command_is_started_again_by_the_servers_clock(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "env > $FOLDER/env$HANDRAIL_ATTEMPT; echo said; [ $HANDRAIL_ATTEMPT = 2 ] || exit 3")
    assert one.ends()[:2] == (0, b"said\nsaid\n")
    done = one.execution(people)
    assert (done["status"], done["attempt"]) == ("completed", 2)
    assert one.journal(people) == [
        ("", "running", "registered"),
        ("running", "retrying", "error"),
        ("retrying", "running", "picked_up"),
        ("running", "completed", "completed"),
    ]
    known = dict(line.split("=", 1) for line in one.file("env2").splitlines() if line.startswith("HANDRAIL_"))
    assert known.pop("HANDRAIL_API_KEY").startswith("hr_")
    assert known.pop("HANDRAIL_URL").startswith("http://127.0.0.1:")
    assert known == {
        "HANDRAIL_EXECUTION_ID": done["id"],
        "HANDRAIL_RUN_ID": done["id"],
        "HANDRAIL_ATTEMPT": "2",
    }


def test_a_person_resumes_a_command_whose_retries_are_spent(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "echo $HANDRAIL_ATTEMPT; cat $FOLDER/site", options=("--retries", "0"))
    waits = one.until_status(people, "hitl_paused")
    headline, *tail = waits["error"].split("\n")
    # What comes by two pipes has no order.
    assert (headline, "1" in tail) == ("ended with exit code 1", True)
    beats_at = waits["last_heartbeat_at"]
    until(lambda: one.execution(people)["last_heartbeat_at"] > beats_at, "it goes on beating")
    (one.folder / "site").write_text("there again")
    one.command(people, "resume")
    code, out, err = one.ends(10)
    assert (code, out) == (0, b"1\n1\nthere again")
    assert b"waiting for a person: ended with exit code 1.\n" in err
    assert one.execution(people)["status"] == "completed"


def test_a_person_orders_one_more_attempt(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "[ $HANDRAIL_ATTEMPT = 2 ]", options=("--retries", "0"))
    one.until_status(people, "hitl_paused")
    one.command(people, "retry")
    assert one.ends(10)[0] == 0
    assert (one.execution(people)["status"], one.execution(people)["attempt"]) == ("completed", 2)


def test_a_person_aborts_what_waits(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "exit 6", options=("--retries", "0"))
    one.until_status(people, "hitl_paused")
    one.command(people, "cancel")
    assert one.ends(10)[0] == 6
    assert one.execution(people)["status"] == "failed"


def test_nobody_is_waited_for_when_told_so(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "exit 6", options=("--retries", "0", "--no-wait"))
    assert one.ends()[0] == 6
    done = one.execution(people)
    assert (done["status"], done["error"]) == ("failed", "ended with exit code 6")
    assert done["id"] not in waiting(people)


def test_who_is_given_up_and_waits_for_nobody_leaves_nothing_in_the_queue(
    watched: Watched, people: httpx.Client
) -> None:
    """The server gives it up by its own clock; the supervisor beats too seldom to hear of it in time."""
    options = ("--heartbeat", "1", "--retries", "0", "--no-wait")
    one = watched("bash", "-c", "echo ready; exec sleep 300", options=options)
    one.until_status(people, "running")
    os.kill(one.process.pid, signal.SIGSTOP)
    one.until_status(people, "hitl_paused")
    os.kill(one.process.pid, signal.SIGCONT)
    assert one.ends(15)[0] == 124
    until(lambda: one.execution(people)["status"] == "failed", "it has ended on the server")
    assert one.execution(people)["id"] not in waiting(people)


def test_cancel_reaches_the_whole_family_within_a_heartbeat(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", f"(setsid sleep 300 &); sleep 301 & {COUNTS}", options=("--heartbeat", "12"))
    one.until_written("count", "1")
    one.until_status(people, "running")
    one.command(people, "cancel")
    until(lambda: one.process.poll() is not None, "it has ended", within_s=12)
    assert one.ends()[0] == 143
    assert one.left() == {}
    done = people.get(f"/api/v1/executions/{one.execution(people)['id']}").json()
    assert done["status"] == "cancelled"
    effects = [(command["command"], command["effect"]) for command in done["commands"]]
    assert effects == [("cancel", "ended all processes; the command was ended by SIGTERM")]


def test_a_pause_stops_its_processes_where_they_are(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", COUNTS, options=("--hang-after", "3"))
    one.until_written("count", "2")
    one.command(people, "pause")
    until(lambda: standing(one), "it stands still")
    at = count(one)
    beat_at = one.execution(people)["last_heartbeat_at"]
    until(
        lambda: seconds_between(beat_at, one.execution(people)["last_heartbeat_at"]) > 4, "it beats on and is no hang"
    )
    assert count(one) == at
    one.command(people, "resume")
    until(lambda: count(one) > at, "it goes on", within_s=3)
    assert one.execution(people)["attempt"] == 1
    one.command(people, "cancel")
    assert one.ends()[0] == 143


def test_a_pause_can_kill_and_start_anew(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", f"echo begun; {COUNTS}", options=("--on-pause", "kill"))
    one.until_written("count", "2")
    one.command(people, "pause")
    until(lambda: len(one.left()) == 1, "the supervisor alone is left")
    one.command(people, "resume")
    until(lambda: len(one.left()) > 2, "it runs again")
    one.until_status(people, "running")
    one.command(people, "cancel")
    assert one.ends()[1].count(b"begun\n") == 2
    assert one.execution(people)["attempt"] == 1


def test_a_pause_can_leave_it_be(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "while [ ! -e $FOLDER/go ]; do sleep 0.1; done", options=("--on-pause", "leave"))
    one.until_status(people, "running")
    one.command(people, "pause")
    assert one.process.stderr is not None
    assert one.process.stderr.readline().startswith(b"handrail: paused: ")
    (one.folder / "go").touch()
    assert one.ends(10)[0] == 0
    assert one.execution(people)["status"] == "completed"


def test_retry_gives_up_the_attempt_and_starts_the_next(watched: Watched, people: httpx.Client) -> None:
    one = watched(
        "bash",
        "-c",
        "trap 'echo ended; exit' TERM; echo $HANDRAIL_ATTEMPT | tee $FOLDER/now; while :; do sleep 0.1; done",
    )
    one.until_written("now", "1")
    one.until_status(people, "running")
    one.command(people, "retry")
    one.until_written("now", "2")
    one.until_status(people, "running")
    one.command(people, "cancel")
    assert one.ends()[1] == b"1\nended\n2\nended\n"


def test_the_server_ends_what_outlives_its_timeout(watched: Watched, people: httpx.Client) -> None:
    one = watched(
        "bash", "-c", "echo $HANDRAIL_ATTEMPT; [ $HANDRAIL_ATTEMPT = 2 ] || sleep 300", options=("--timeout", "2")
    )
    assert one.ends(40)[:2] == (0, b"1\n2\n")
    assert ("running", "retrying", "timed_out") in one.journal(people)


def test_what_hangs_is_ended_and_tried_again(watched: Watched, people: httpx.Client) -> None:
    one = watched("bash", "-c", "[ $HANDRAIL_ATTEMPT = 2 ] || sleep 300", options=("--hang-after", "3"))
    code, _, err = one.ends(40)
    assert code == 0
    assert b"attempt 1 hung: no output and no processor time for 3 s; it was ended by SIGTERM.\n" in err
    details = people.get(f"/api/v1/executions/{one.execution(people)['id']}").json()
    (given_up,) = [step for step in details["transitions"] if step["to_state"] == "retrying"]
    assert (given_up["cause"], given_up["note"]) == (
        "error",
        "hung: no output and no processor time for 3 s; it was ended by SIGTERM",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_supervisor_cancels_the_execution(watched: Watched, people: httpx.Client, number: int) -> None:
    one = watched("bash", "-c", COUNTS)
    one.until_status(people, "running")
    one.until_written("count", "1")
    one.process.send_signal(number)
    assert one.ends(10)[0] == 128 + number
    assert one.execution(people)["status"] == "cancelled"


def test_a_signal_while_a_person_is_waited_for_aborts(watched: Watched, people: httpx.Client) -> None:
    one = watched("false", options=("--retries", "0"))
    one.until_status(people, "hitl_paused")
    one.process.send_signal(signal.SIGINT)
    assert one.ends(10)[0] == 130
    assert one.execution(people)["status"] == "failed"


def test_a_key_for_agents_alone_tells_of_the_signal_as_a_failure(
    watched: Watched, people: httpx.Client, handrail: Instance
) -> None:
    one = watched("bash", "-c", COUNTS, key=make_key(handrail, "run", scopes="ingest"))
    one.until_status(people, "running")
    one.until_written("count", "1")
    one.process.send_signal(signal.SIGINT)
    assert one.ends(10)[0] == 130
    done = one.execution(people)
    assert (done["status"], done["error"]) == ("failed", "ended by SIGINT where it runs")


def test_what_runs_inside_is_a_child(watched: Watched, people: httpx.Client) -> None:
    inner = ["-m", "handrail", "run", "--agent", "inner", "--heartbeat", "1", "--", "env"]
    one = watched(sys.executable, *inner)
    code, out, err = one.ends()
    assert code == 0, err
    known = dict(line.split("=", 1) for line in out.decode().splitlines() if "=" in line)
    child = people.get(f"/api/v1/executions/{known['HANDRAIL_EXECUTION_ID']}").json()
    parent = one.execution(people)
    assert (child["parent_id"], child["run_id"], child["agent"]) == (parent["id"], parent["run_id"], "inner")


def test_a_command_goes_on_when_the_server_refuses_the_key(watched: Watched) -> None:
    code, out, err = watched("echo", "hello", key="hr_000000000000_wrong").ends()
    assert (code, out) == (0, b"hello\n")
    assert b"the server does not take it: " in err


def standing(one: Supervised) -> bool:
    """Whether every process of the command is stopped; the leash and the supervisor are not."""
    states: list[Any] = []
    for pid, line in one.left().items():
        if "handrail" not in line:
            try:
                with open(f"/proc/{pid}/stat") as file:
                    states.append(file.read().rpartition(")")[2].split()[0])
            except FileNotFoundError:
                return False  # It has ended since, so that not all of them stood.
    return bool(states) and set(states) == {"T"}


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
