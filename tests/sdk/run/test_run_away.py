"""A supervised command whose server is away: it works on, is started again, and all is told later."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.launcher.instance import Instance, until
from tests.sdk.run.road import Road
from tests.sdk.run.supervised import Supervised

Watched = Callable[..., Supervised]


@pytest.fixture
def road(handrail: Instance) -> Iterator[Road]:
    made = Road(handrail.port)
    yield made
    made.end()


def test_a_server_that_is_away_at_the_start_hears_of_it_later(
    watched: Watched, people: httpx.Client, road: Road
) -> None:
    road.close()
    script = "touch $FOLDER/ready; while [ ! -e $FOLDER/go ]; do sleep 0.1; done"
    one = watched("bash", "-c", script, url=road.url)
    until(lambda: (one.folder / "ready").exists(), "it works without the server")
    assert one.execution(people) == {}
    road.open()
    one.until_status(people, "running")
    (one.folder / "go").touch()
    assert one.ends(10)[0] == 0
    assert one.execution(people)["status"] == "completed"


def test_attempts_are_made_without_the_server_and_told_in_their_order(
    watched: Watched, people: httpx.Client, road: Road
) -> None:
    waits = "while [ ! -e $FOLDER/go$HANDRAIL_ATTEMPT ]; do sleep 0.1; done"
    script = f"echo $HANDRAIL_ATTEMPT > $FOLDER/now; [ $HANDRAIL_ATTEMPT = 2 ] || {waits}; [ $HANDRAIL_ATTEMPT = 3 ]"
    one = watched("bash", "-c", script, url=road.url, options=("--heartbeat", "30"))
    one.until_status(people, "running")
    road.close()
    (one.folder / "go1").touch()
    one.until_written("now", "3")
    assert (one.execution(people)["status"], one.execution(people)["attempt"]) == ("running", 1)
    road.open()
    until(lambda: one.execution(people)["attempt"] == 3 and one.execution(people)["status"] == "running", "all is told")
    (one.folder / "go3").touch()
    assert one.ends(20)[0] == 0
    assert one.journal(people) == [
        ("", "running", "registered"),
        ("running", "retrying", "error"),
        ("retrying", "retrying", "error"),
        ("retrying", "running", "picked_up"),
        ("running", "completed", "completed"),
    ]


def test_a_timeout_holds_while_the_server_is_away(watched: Watched, people: httpx.Client, road: Road) -> None:
    script = "echo $HANDRAIL_ATTEMPT; [ $HANDRAIL_ATTEMPT = 2 ] || sleep 300"
    one = watched("bash", "-c", script, url=road.url, options=("--timeout", "3", "--heartbeat", "30"))
    one.until_status(people, "running")
    road.close()
    assert one.process.stdout is not None
    assert one.process.stdout.readline() == b"1\n"
    assert one.process.stdout.readline() == b"2\n"
    road.open()
    assert one.ends(20)[0] == 0
    assert one.execution(people)["status"] == "completed"


def test_an_end_that_nobody_could_be_told_of_keeps_its_exit_code(watched: Watched, road: Road) -> None:
    road.close()
    code, out, err = watched("bash", "-c", "echo done", url=road.url).ends(20)
    assert (code, out) == (0, b"done\n")
    assert err.endswith(b"handrail: the server is away; it was not told how this ended.\n")


def test_a_short_break_changes_nothing(watched: Watched, people: httpx.Client, road: Road) -> None:
    script = "while [ ! -e $FOLDER/go ]; do sleep 0.1; done"
    one = watched("bash", "-c", script, url=road.url, options=("--heartbeat", "6"))
    beat_at = one.until_status(people, "running")["last_heartbeat_at"]
    road.close()
    assert one.process.stderr is not None
    road.open()
    until(lambda: one.execution(people)["last_heartbeat_at"] not in (None, beat_at), "it beats again")
    (one.folder / "go").touch()
    assert one.ends(10)[0] == 0
    assert one.journal(people) == [("", "running", "registered"), ("running", "completed", "completed")]
