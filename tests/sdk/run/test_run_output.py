"""What a supervised command writes reaches the caller as it is; its last words can be shown anywhere."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable

from handrail._run.tail import LINE_CHARACTERS, Tail

from tests.launcher.instance import until
from tests.sdk.run.supervised import Supervised

Supervise = Callable[..., Supervised]
NOISE = """
import os, random, sys
noise = random.Random(7)
for _ in range(64):
    os.write(1, noise.randbytes(65_537)); os.write(2, noise.randbytes(1_001))
"""


def test_every_byte_passes_through_on_its_own_stream(supervise: Supervise) -> None:
    plain = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, check=True)
    code, out, err = supervise(sys.executable, "-c", NOISE).ends()
    assert (code, len(out)) == (0, len(plain.stdout))
    assert hashlib.sha256(out).digest() == hashlib.sha256(plain.stdout).digest()
    assert err.endswith(plain.stderr)


def test_a_byte_without_an_end_of_line_is_there_at_once(supervise: Supervise) -> None:
    one = supervise("bash", "-c", "printf x; exec sleep 60")
    assert one.process.stdout is not None
    assert one.process.stdout.read1() == b"x"
    assert one.process.poll() is None


def test_a_slow_reader_slows_the_command_and_does_not_make_it_hang(supervise: Supervise) -> None:
    one = supervise("bash", "-c", "head -c 1000000 /dev/zero; touch $FOLDER/done", options=("--hang-after", "0.5"))
    time.sleep(2)  # Four times what a hang may take.
    assert not (one.folder / "done").exists()
    code, out, _ = one.ends()
    assert (code, out) == (0, bytes(1_000_000))
    assert (one.folder / "done").exists()


def test_a_command_outlives_the_reader_of_its_output(supervise: Supervise) -> None:
    ours, theirs = os.pipe()
    script = (
        "echo first; while [ ! -e $FOLDER/gone ]; do sleep 0.05; done; head -c 300000 /dev/zero && touch $FOLDER/done"
    )
    one = supervise("bash", "-c", script, stdout=theirs)
    os.close(theirs)
    assert os.read(ours, 100) == b"first\n"
    os.close(ours)
    (one.folder / "gone").touch()
    until(lambda: (one.folder / "done").exists(), "the command goes on writing")
    assert one.process.wait(10) == 0


def test_the_tail_is_the_last_lines_that_say_something() -> None:
    tail = Tail()
    for word in ("one\n", "two\n", "\n  \n", "thr", "ee\nfour"):
        tail.add(word.encode())
    assert tail.lines(2) == ["three", "four"]
    assert tail.lines(9) == ["one", "two", "three", "four"]


def test_the_tail_shows_no_control_characters_and_no_colours() -> None:
    tail = Tail()
    tail.add(b"\x1b[31mred\x1b[0m\tand \x07bell\x00\n\x1b]0;title\x07plain\r\n10 %\r99 %\r100 %\n")
    tail.add("\u202eturned, \xff\n".encode() + b"\xff\xfe broken")
    assert tail.lines(9) == ["red and bell", "plain", "100 %", "turned, ÿ", "\ufffd\ufffd broken"]


def test_the_tail_keeps_little_of_much() -> None:
    tail = Tail()
    tail.add(b"x" * 5_000_000)
    (line,) = tail.lines(3)
    assert len(line) == LINE_CHARACTERS
    assert line.endswith("…")
    for n in range(10_000):
        tail.add(b"line %d\n" % n)
    assert tail.lines(2) == ["line 9998", "line 9999"]
    assert all(one.startswith("line ") for one in tail.lines(10_000))
