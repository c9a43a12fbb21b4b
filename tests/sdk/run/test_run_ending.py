"""How a supervised command ends, without a server: its exit code, and nothing of it stays."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from handrail._run.leash import family

from tests.launcher.instance import until
from tests.sdk.run.supervised import Supervised

Supervise = Callable[..., Supervised]
# A family: a child in the group, one in a session of its own, an orphan; none of them heeds SIGTERM.
FAMILY = """
trap '' TERM
sleep 300 &
setsid sleep 301 &
(setsid bash -c 'trap "" TERM; sleep 302; sleep 303' &)
touch $FOLDER/ready
while :; do sleep 0.2; done
"""


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill $$", 143)])
def test_the_exit_code_is_passed_on(supervise: Supervise, script: str, code: int) -> None:
    assert supervise("bash", "-c", script, options=("--retries", "0")).ends()[0] == code


def test_what_cannot_be_started_is_told_apart_and_not_tried_again(supervise: Supervise, tmp_path: Path) -> None:
    code, _, err = supervise("no-such-command").ends()
    assert code == 127
    assert err.splitlines() == [
        b"handrail: HANDRAIL_URL and HANDRAIL_API_KEY are not both set; no server hears of this.",
        b"handrail: no-such-command could not be started: No such file or directory.",
    ]
    plain = tmp_path / "plain"
    plain.write_text("text")
    assert supervise(str(plain)).ends()[0] == 126


def test_options_that_make_no_sense_are_refused_before_anything_runs(supervise: Supervise) -> None:
    for options in (("--timeout", "0"), ("--timeout", "soon"), ("--retries", "-1"), ("--on-pause", "dance")):
        code, out, err = supervise("echo", "hello", options=options).ends()
        assert (code, out) == (2, b"")
        assert options[0].encode() in err
    assert supervise().ends()[0] == 2


def test_a_failed_command_is_started_again_and_knows_its_attempt(supervise: Supervise) -> None:
    one = supervise("bash", "-c", "echo $HANDRAIL_ATTEMPT; [ $HANDRAIL_ATTEMPT = 2 ]", options=("--retries", "3"))
    code, out, _ = one.ends()
    assert (code, out) == (0, b"1\n2\n")


def test_without_a_server_nobody_is_waited_for(supervise: Supervise) -> None:
    code, out, err = supervise("bash", "-c", "echo once; exit 5", options=("--retries", "1")).ends()
    assert (code, out) == (5, b"once\nonce\n")
    assert b"retries are spent" in err


def test_the_whole_family_is_ended_with_the_timeout(supervise: Supervise) -> None:
    one = supervise("bash", "-c", FAMILY, options=("--timeout", "2", "--grace", "1", "--retries", "0"))
    until(lambda: len([line for line in one.left().values() if line.startswith("sleep 30")]) == 3, "all have begun")
    code, _, err = one.ends()
    assert code == 124
    assert b"timeout of 2 s" in err
    assert one.left() == {}


def test_a_command_that_ends_leaves_nothing_behind(supervise: Supervise) -> None:
    one = supervise("bash", "-c", "sleep 300 & (setsid sleep 301 &) ; echo done", options=("--grace", "30"))
    code, out, _ = one.ends(10)
    assert (code, out) == (0, b"done\n")
    assert one.left() == {}


def test_a_silent_sleeper_hangs(supervise: Supervise) -> None:
    one = supervise("sleep", "300", options=("--hang-after", "1", "--retries", "0"))
    code, _, err = one.ends(15)
    assert code == 124
    assert b"no output and no processor time for 1 s" in err


def test_a_stopped_command_hangs_and_is_ended_all_the_same(supervise: Supervise) -> None:
    script = "trap 'echo told' TERM; echo ready; kill -STOP $$"
    one = supervise("bash", "-c", script, options=("--hang-after", "1", "--retries", "0"))
    code, out, _ = one.ends(15)
    # It was woken to hear of its end.
    assert (code, out) == (124, b"ready\ntold\n")
    assert one.left() == {}


def test_a_busy_silent_grandchild_does_not_hang(supervise: Supervise) -> None:
    busy = "import time; until = time.monotonic() + 4\nwhile time.monotonic() < until: pass"
    one = supervise("bash", "-c", f"setsid {sys.executable} -c '{busy}' & wait", options=("--hang-after", "1"))
    code, _, err = one.ends(30)
    assert (code, err.count(b"handrail: ")) == (0, 1)


def test_a_thread_that_only_says_it_lives_does_not_hide_a_hang(supervise: Supervise) -> None:
    beats = (
        "import time\nwhile True:\n until = time.process_time() + 0.003\n"
        " while time.process_time() < until: pass\n time.sleep(0.3)"
    )
    assert supervise(sys.executable, "-c", beats, options=("--hang-after", "2", "--retries", "0")).ends(20)[0] == 124


def test_ctrl_c_is_handed_on_once_and_waited_for(supervise: Supervise) -> None:
    script = "trap 'echo int; sleep 1.5; echo tidy; exit 9' INT; touch $FOLDER/ready; while :; do sleep 0.1; done"
    one = supervise("bash", "-c", script, options=("--grace", "0.1"))
    until(lambda: (one.folder / "ready").exists(), "it works")
    one.process.send_signal(signal.SIGINT)
    code, out, err = one.ends()
    assert (code, out) == (9, b"int\ntidy\n")
    assert err.endswith(b"handrail: waiting for the command to end; once more kills it.\n")


def test_the_second_ctrl_c_kills(supervise: Supervise) -> None:
    script = "trap 'echo int' INT; touch $FOLDER/ready; while :; do sleep 0.1; done"
    one = supervise("bash", "-c", script, options=("--grace", "60"))
    until(lambda: (one.folder / "ready").exists(), "it works")
    one.process.send_signal(signal.SIGINT)
    assert one.process.stdout is not None
    assert one.process.stdout.readline() == b"int\n"
    one.process.send_signal(signal.SIGINT)
    assert one.ends(10)[0] == 137
    assert one.left() == {}


def test_sigterm_ends_the_family_within_the_grace(supervise: Supervise) -> None:
    one = supervise("bash", "-c", FAMILY, options=("--grace", "1"))
    until(lambda: (one.folder / "ready").exists(), "it works")
    one.process.send_signal(signal.SIGTERM)
    assert one.ends(10)[0] == 137
    assert one.left() == {}


@pytest.mark.parametrize("victim", ["supervisor", "leash", "both"])
def test_a_kill_of_the_supervisor_leaves_nothing_behind(supervise: Supervise, victim: str) -> None:
    # Where both are killed at once only the kernel is left: it knows the command itself, not its children.
    script = "touch $FOLDER/ready; exec sleep 300" if victim == "both" else FAMILY
    one = supervise("bash", "-c", script, options=("--grace", "1", "--retries", "0"))
    until(lambda: (one.folder / "ready").exists(), "it works")
    leash = next(pid for pid, line in one.left().items() if "_run/leash" in line)
    for pid in {"supervisor": [one.process.pid], "leash": [leash], "both": [one.process.pid, leash]}[victim]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not one.left(), f"nothing is left: {one.left()}", within_s=10)
    assert one.ends()[0] == (137 if victim == "leash" else -signal.SIGKILL)


def test_processes_are_read_alike_from_proc_and_from_ps() -> None:
    ours = os.getpid()
    told = [{one.pid: one for one in read()}[ours] for read in (family._from_proc, family._from_ps)]
    assert told[0][:4] == told[1][:4] == (ours, os.getppid(), os.getpgrp(), os.getsid(0))
    assert [family.seconds(time) for time in ("0:01.25", "01:02:03", "2-00:00:01")] == [1.25, 3723, 172_801]


def test_who_asks_ps_is_not_of_the_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ps = tmp_path / "ps"
    ps.write_text("#!/bin/sh\necho $$ $PPID 1 1 R 0:00\necho 77 $PPID 1 1 S 0:00\n")
    ps.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert [one.pid for one in family.of(os.getpid(), os.getpid(), family._from_ps())] == [77]


def test_an_orphan_is_known_by_its_session_where_nobody_inherits_it() -> None:
    head = family.Process(50, 40, 50, 50, "S", 1.0)
    orphan, its_child = family.Process(51, 1, 51, 50, "S", 1.0), family.Process(52, 51, 52, 52, "S", 1.0)
    stranger, ended = family.Process(60, 1, 60, 60, "S", 1.0), family.Process(53, 50, 50, 50, "Z", 0.0)
    leash = family.Process(40, 1, 40, 40, "S", 0.0)
    found = family.of(50, 40, [head, orphan, its_child, stranger, ended, leash])
    assert sorted(one.pid for one in found) == [50, 51, 52]
