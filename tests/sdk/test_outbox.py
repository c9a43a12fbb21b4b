"""Events that wait on disk: in order, bounded, and no process's death loses or mixes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from handrail import _settings
from handrail._outbox import ENDED, FAILED, REPORT, FileSegment, Outbox, Record

PLENTY = {"most_bytes": 10_000_000, "most_events": 10_000}


def record(number: int, kind: int = REPORT, size: int = 0) -> Record:
    return Record(kind, json.dumps({"n": number, "fill": "x" * size}).encode())


def numbers(records: list[Record]) -> list[int]:
    return [json.loads(one.payload)["n"] for one in records]


def drain(outbox: Outbox, most: int = 7) -> list[int]:
    found: list[int] = []
    while records := outbox.peek(most, 10_000_000):
        found += numbers(records)
        outbox.taken()
    return found


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_goes_in_comes_out_in_order(tmp_path: Path, on_disk: bool) -> None:
    outbox = Outbox(tmp_path if on_disk else None, **PLENTY)
    assert outbox.put([record(n) for n in range(50)]) == []
    assert numbers(outbox.peek(5, 10_000)) == numbers(outbox.peek(5, 10_000)) == [0, 1, 2, 3, 4]
    outbox.put([record(50)])
    assert (outbox.count, drain(outbox), outbox.count) == (51, list(range(51)), 0)
    outbox.put([record(51)])
    assert drain(outbox) == [51]
    outbox.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("on_disk", [True, False])
def test_what_came_since_is_added_to_what_was_peeked_at(tmp_path: Path, on_disk: bool) -> None:
    outbox = Outbox(tmp_path if on_disk else None, **PLENTY)
    assert outbox.peek_further(5, 10_000) == []
    outbox.put([record(n) for n in range(2)])
    assert numbers(outbox.peek(5, 10_000)) == [0, 1]
    assert outbox.peek_further(5, 10_000) == []
    outbox.put([record(n) for n in range(2, 9)])
    assert numbers(outbox.peek_further(5, 10_000)) == [2, 3, 4]
    assert (outbox.peek_further(5, 10_000), outbox.behind) == ([], 4)
    outbox.taken()
    assert numbers(outbox.peek(5, 10_000)) == [5, 6, 7, 8]
    outbox.put([record(9, FAILED), record(10)])
    assert numbers(outbox.peek_further(7, 10_000)) == [9, 10]
    outbox.taken()
    assert drain(outbox) == []


def test_many_segments_and_none_stays(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, **PLENTY)
    for n in range(30):
        outbox.put([record(n, size=100_000)])
    assert len(list(tmp_path.iterdir())) >= 3
    assert drain(outbox) == list(range(30))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_that_is_answered_comes_by_itself(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, **PLENTY)
    outbox.put([record(0), record(1, FAILED), record(2), record(3)])
    batches = []
    while records := outbox.peek(10, 10_000):
        batches.append(numbers(records))
        outbox.taken()
    assert batches == [[0], [1], [2, 3]]


def test_room_is_bounded_and_kept_for_the_ends_of_work(tmp_path: Path) -> None:
    by_count = Outbox(tmp_path / "count", most_bytes=10_000_000, most_events=100)
    assert len(by_count.put([record(n) for n in range(200)])) == 110
    assert len(by_count.put([record(n, ENDED) for n in range(20)])) == 10
    by_size = Outbox(tmp_path / "size", most_bytes=100_000, most_events=1000)
    by_size.put([record(n, size=1000) for n in range(500)])
    assert sum(one.stat().st_size for one in (tmp_path / "size").iterdir()) < 100_000


def test_the_bound_is_that_of_all_processes_together(tmp_path: Path) -> None:
    first, second = (Outbox(tmp_path, most_bytes=100_000, most_events=1000) for _ in range(2))
    first.put([record(n, size=1000) for n in range(500)])
    assert second.adopt() == 0
    assert len(second.put([record(0, size=10_000)])) == 1


def test_only_the_dead_are_inherited_from(tmp_path: Path) -> None:
    living = Outbox(tmp_path, **PLENTY)
    living.put([record(1)])
    heir = Outbox(tmp_path, **PLENTY)
    assert (heir.adopt(), drain(heir)) == (0, [])
    living.close()
    assert (heir.adopt(), drain(heir)) == (1, [1])
    assert list(tmp_path.iterdir()) == []


def test_of_many_dead_a_few_at_a_time_are_inherited_from(tmp_path: Path) -> None:
    for n in range(30):
        dead = Outbox(tmp_path, **PLENTY)
        dead.put([record(n, size=1000)])
        dead.close()
    heir = Outbox(tmp_path, most_bytes=40_000, most_events=1000)
    before = len(os.listdir("/dev/fd"))
    assert heir.adopt() == 8
    assert len(os.listdir("/dev/fd")) == before + 8
    assert len(heir.put([record(n, size=1000) for n in range(10)])) == 6, "the bytes of the rest count"
    found = drain(heir, 100)
    while heir.adopt():
        found += drain(heir, 100)
    assert sorted(found) == sorted([*range(30), *range(4)])
    assert not heir.may_adopt_more


def test_a_killed_process_loses_nothing_that_it_stored(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from handrail._outbox import Outbox, Record
outbox = Outbox(Path(sys.argv[1]), most_bytes=10**7, most_events=10**4)
outbox.put([Record(0, b'{"n": %d}' % n) for n in range(1000)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False, timeout=60)
    heirs = [Outbox(tmp_path, **PLENTY) for _ in range(3)]
    assert [one.adopt() for one in heirs] == [1000, 0, 0]
    assert drain(heirs[0], 100) == list(range(1000))


@pytest.mark.parametrize("damage", ["torn", "overwritten", "empty"])
def test_a_torn_end_costs_what_is_behind_it_and_no_more(tmp_path: Path, damage: str) -> None:
    outbox = Outbox(tmp_path, **PLENTY)
    outbox.put([record(n) for n in range(10)])
    outbox.close()
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    if damage == "torn":
        path.write_bytes(data[:-3])
    elif damage == "overwritten":
        path.write_bytes(data[:-3] + b"???")
    else:
        path.write_bytes(b"")
    heir = Outbox(tmp_path, **PLENTY)
    heir.adopt()
    assert drain(heir) == ([] if damage == "empty" else list(range(9)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_leaves_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    outbox = Outbox(tmp_path / "file" / "spool", **PLENTY)
    assert outbox.put([record(n) for n in range(3)]) == []
    assert drain(outbox) == [0, 1, 2]
    assert "in memory alone" in caplog.text


def test_a_home_that_cannot_be_looked_at_is_none(tmp_path: Path) -> None:
    # Looking raises, as it does below a folder that may not be searched.
    environ = {"XDG_STATE_HOME": str(tmp_path / ("x" * 300) / "state")}
    spool = _settings.read(url="http://handrail.test", api_key="k", environ=environ).spool
    assert spool == tmp_path / ("x" * 300) / "state" / "handrail" / "spool"


@pytest.mark.parametrize("somebody", ["nobody", "ours", "open to all", "a link", "another's"])
def test_a_temporary_folder_is_ours_alone_or_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, somebody: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"handrail-{os.getuid()}"
    if somebody == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif somebody != "nobody":
        folder.mkdir(mode=0o700)
    if somebody == "open to all":
        folder.chmod(0o777)
    elif somebody == "another's":
        if os.getuid() != 0:
            pytest.skip("only root gives a folder to another")
        os.chown(folder, 12345, 12345)
    spool = _settings.read(url="http://handrail.test", api_key="k", environ={"XDG_STATE_HOME": "nowhere"}).spool
    assert spool == (folder / "spool" if somebody in ("nobody", "ours") else None)
    assert not folder.exists() or somebody == "open to all" or folder.stat().st_mode & 0o777 == 0o700


def test_an_inert_client_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    _settings.read(environ={"XDG_STATE_HOME": "nowhere"})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path, **PLENTY)
    outbox.put([record(0)])

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("handrail._outbox.os.write", full)
    assert outbox.put([record(1)]) == []
    monkeypatch.undo()
    assert outbox.put([record(2)]) == []
    assert drain(outbox) == [0, 1, 2]


@pytest.mark.parametrize("removes", [True, False])
def test_a_new_file_that_an_heir_is_faster_to_take_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removes: bool
) -> None:
    outbox, heirs = Outbox(tmp_path, **PLENTY), []
    open_file = os.open

    def overtaken(path: Path, flags: int, mode: int = 0o777) -> int:
        fd = open_file(path, flags, mode)
        if flags & os.O_EXCL and not heirs:
            heirs.append(FileSegment.adopt(path))
            if removes:
                heirs[0].remove()
        return fd

    monkeypatch.setattr("handrail._outbox.os.open", overtaken)
    assert outbox.put([record(1)]) == []
    monkeypatch.undo()
    if not removes:
        heirs[0].remove()
    outbox.close()
    heir = Outbox(tmp_path, **PLENTY)
    assert (heir.adopt(), drain(heir)) == (1, [1])


def test_a_fork_while_a_file_goes_closes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path, **PLENTY)
    for n in range(12):
        outbox.put([record(n, size=100_000)])
    close, closed = os.close, []

    def forked(fd: int) -> None:
        close(fd)
        closed.append(fd)
        outbox.abandon()

    monkeypatch.setattr("handrail._outbox.os.close", forked)
    outbox.peek(12, 10_000_000)
    outbox.taken()
    monkeypatch.undo()
    assert len(closed) == len(set(closed)) == 2


def test_a_segment_is_private(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "spool", **PLENTY)
    outbox.put([record(0)])
    (path,) = (tmp_path / "spool").iterdir()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert FileSegment.adopt(path) is None
