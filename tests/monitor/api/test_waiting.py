"""Waiting, streaming and ending, over real sockets, with Redis and without."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path

import httpx
import pytest
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client

from launcher.places import Places
from launcher.throwaway import start_valkey
from monitor import keys, memberships, news
from monitor.models import ApiKey, Person, Project
from monitor.models.people import Role
from monitor.tenancy import crossing, tenant
from tests.conftest import Slate
from tests.launcher.instance import until
from tests.monitor.api.conftest import make_project, now
from tests.monitor.api.web import Later, Web, announce, serving

# The longest wait. At its end, and with the ping of a stream after 15 s, it looks once more: too late for news.
LONG = "wait=25"
SOONER_S = 10
EVENTS = "/api/v1/sample/events"
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def web(slate: Slate) -> Iterator[Web]:
    with serving(settings.REDIS_URL) as started:
        yield started
    # It says that somebody listens until it has ended, after the last test has cleaned up.
    slate.wipe()


@pytest.fixture(scope="module")
def hearing_web(slate: Slate) -> Iterator[Web]:
    """A web process in which nobody looks before there is news."""
    with serving(settings.REDIS_URL, patience_s=600) as started:
        yield started
    slate.wipe()


@pytest.fixture(scope="module")
def lonely_web(slate: Slate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A web process whose Redis is not there."""
    with serving(f"unix://{tmp_path_factory.mktemp('nothing')}/redis.sock") as started:
        yield started
    slate.wipe()


@pytest.fixture
def north(committed_db: None) -> Project:
    return make_project("north")


def test_a_poll_answers_at_once_when_there_is_something(web: Web, north: Project) -> None:
    announce(north, "said")
    with web.client(north) as client:
        answer = client.get(f"{EVENTS}?wait=20", timeout=10)
        assert answer.json() == {"events": [{"seq": 1, "kind": "said"}], "cursor": 1}
        assert int(answer.headers["RateLimit-Limit"]) == settings.INGEST_PER_MINUTE


def test_a_poll_without_a_wait_answers_at_once(web: Web, north: Project) -> None:
    with web.client(north) as client:
        assert client.get(EVENTS).json() == {"events": [], "cursor": 0}


def test_a_poll_answers_that_there_is_nothing_when_its_wait_is_over(web: Web, north: Project) -> None:
    with web.client(north) as client, ThreadPoolExecutor(1) as other:
        longer = other.submit(client.get, f"{EVENTS}?wait=6&after=0")
        web.wait_for_callers(1)
        answer = client.get(f"{EVENTS}?wait=1&after=0", timeout=10)
        assert answer.json() == {"events": [], "cursor": 0}
        assert not longer.done(), "it did not wait"
        assert longer.result().json() == {"events": [], "cursor": 0}


def test_news_wakes_a_poll_before_it_looks_by_itself(hearing_web: Web, north: Project) -> None:
    with hearing_web.client(north) as client:
        said = Later(1.5, lambda: announce(north, "said"))
        answer = client.get(f"{EVENTS}?{LONG}", timeout=SOONER_S)
        said.join()
        assert answer.json()["cursor"] == 1


def test_a_poll_is_told_nothing_of_another_project(web: Web, north: Project) -> None:
    south = make_project("south")
    announce(south, "before")
    with web.client(north) as client, ThreadPoolExecutor(1) as other:
        poll = other.submit(client.get, f"{EVENTS}?wait=2")
        web.wait_for_callers(1)
        announce(south, "meanwhile")
        assert poll.result().json() == {"events": [], "cursor": 0}


def test_without_redis_a_poll_looks_by_itself_every_second_and_nothing_is_limited(
    lonely_web: Web, north: Project
) -> None:
    with lonely_web.client(north, general_per_minute=1, ingest_per_minute=1) as client:
        answers = [client.get("/api/v1/sample/who/x", timeout=10) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert "RateLimit-Limit" not in answers[0].headers
        said = Later(0.5, lambda: announce(north, "said"))
        answer = client.get(f"{EVENTS}?{LONG}", timeout=SOONER_S)
        said.join()
        assert answer.json()["cursor"] == 1


def test_a_poll_survives_the_death_of_redis(committed_db: None, tmp_path: Path) -> None:
    north = make_project("north")
    places = Places(tmp_path / "home")
    valkey = start_valkey(places)
    with serving(places.redis_url) as web, web.client(north) as client:
        try:
            Later(0.5, valkey.stop)
            said = Later(2.5, lambda: announce(north, "said"))
            answer = client.get(f"{EVENTS}?{LONG}", timeout=SOONER_S)
        finally:
            valkey.stop()
        said.join()
        assert answer.json()["cursor"] == 1
        assert client.get("/api/v1/sample/who/x").status_code == 200


@pytest.mark.parametrize("wait", ["wait", "%77ait", "w%61it"])
def test_many_that_wait_hold_neither_threads_nor_connections(web: Web, north: Project, wait: str) -> None:
    with web.client(north) as client, ThreadPoolExecutor(60) as crowd:
        before = web.threads()
        waiting = [crowd.submit(client.get, f"{EVENTS}?{wait}=20") for _ in range(60)]
        web.wait_for_callers(60)
        until(lambda: web.waiting() == 60, "all wait", within_s=15)
        # The polls are over after 20 s.
        assert client.get("/api/v1/sample/who/x", timeout=10).status_code == 200
        assert web.threads() - before <= 15, "those that look and those that work, which come when they are needed"
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert cursor.fetchone()[0] <= 10, "two processes with pools of five"
        announce(north, "said")
        assert {one.result().json()["cursor"] for one in waiting} == {1}


def test_what_is_no_stream_for_the_gate_is_none_in_a_thread(web: Web, north: Project) -> None:
    with web.client(north) as client:
        # Django strips what is a space to Unicode.
        answer = client.get(EVENTS, headers=[(b"Accept", b"\xa0text/event-stream")], timeout=SOONER_S)
        assert answer.json() == {"events": [], "cursor": 0}


@pytest.mark.parametrize(
    ("query", "status"), [("wait=26", 400), ("wait=-1", 400), ("wait=x", 400), ("wait=1&x=1", 400), ("wait=nan", 400)]
)
def test_a_bad_wait_is_a_problem(web: Web, north: Project, query: str, status: int) -> None:
    with web.client(north) as client:
        answer = client.get(f"{EVENTS}?{query}")
        assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")


def test_a_poll_needs_a_key_with_its_scope(web: Web, north: Project) -> None:
    assert httpx.get(f"{web.url}{EVENTS}?wait=5").status_code == 401
    with web.client(north, scopes=["ingest"]) as client:
        assert client.get(f"{EVENTS}?wait=5").status_code == 403
        assert client.post(f"{EVENTS}?wait=5").status_code == 405


# Streams


BEAT = {"event": "beat", "data": "{}"}
EVERYTHING = {"data": '{"topic":"*","id":""}'}


def read_news(lines: Iterator[str], topic: str) -> str:
    """The id that the next news of the topic names, within 20 s; all else is passed over."""
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        (event,) = read_events(lines, 1)
        said = json.loads(event["data"])
        if said.get("topic") == topic:
            return str(said["id"])
    raise AssertionError(f"no news of {topic}")


def wait_until_heard(lines: Iterator[str], project: Project) -> None:
    """Until the server's subscription stands, which it takes up when the first stream comes."""
    with ThreadPoolExecutor(1) as other:
        heard = other.submit(read_news, lines, "anybody")
        while not heard.done():
            tell(project, "anybody", "there")
            wait([heard], timeout=0.2)
    heard.result()


def read_events(lines: Iterator[str], count: int) -> list[dict[str, str]]:
    """The next events, as field -> value; comments and the retry time are passed over."""
    found: list[dict[str, str]] = []
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name and name != "retry":
            event[name] = value
        elif not line and event:
            found.append(event)
            event = {}
            if len(found) == count:
                break
    return found


def test_a_stream_tells_what_was_and_what_comes(hearing_web: Web, north: Project) -> None:
    announce(north, "first")
    with (
        hearing_web.client(north) as client,
        client.stream("GET", EVENTS, headers=STREAM, timeout=SOONER_S) as stream,
    ):
        assert stream.headers["Content-Type"] == "text/event-stream"
        lines = stream.iter_lines()
        assert read_events(lines, 1) == [{"id": "1", "data": '{"seq":1,"kind":"first"}'}]
        said = Later(0.5, lambda: announce(north, "second"))
        assert read_events(lines, 1) == [{"id": "2", "data": '{"seq":2,"kind":"second"}'}]
        said.join()


def test_a_stream_ends_where_the_database_does_not_answer(web: Web, north: Project) -> None:
    announce(north, "first")
    with web.client(north) as client:
        with client.stream("GET", EVENTS, headers=STREAM) as stream:
            lines = stream.iter_lines()
            assert read_events(lines, 1) == [{"id": "1", "data": '{"seq":1,"kind":"first"}'}]
            announce(north, "stuck")
            # As a whole answer does, and no broken line.
            assert list(lines) == []
        answer = client.get(EVENTS)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


def test_a_stream_ends_soon_after_its_key_was_revoked(web: Web, north: Project) -> None:
    with web.client(north) as client, client.stream("GET", EVENTS, headers=STREAM) as stream:
        with tenant(north.pk):
            keys.revoke(ApiKey.objects.get().pk, now=now())
        assert list(stream.iter_lines()) == ["retry: 2000", ""]


@pytest.fixture
def ann(north: Project) -> Person:
    with crossing():
        memberships.invite(north, "ann@example.org", role=Role.VIEWER)
        return Person.objects.get()


def cookies_of(person: Person) -> dict[str, str]:
    client = Client()
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return {settings.SESSION_COOKIE_NAME: client.cookies[settings.SESSION_COOKIE_NAME].value}


def tell(project: Project, topic: str, subject_id: str) -> None:
    with tenant(project.pk):
        news.tell(project.pk, topic, subject_id)


def test_an_open_page_hears_the_news_of_its_project(web: Web, north: Project, ann: Person) -> None:
    south = make_project("south")
    with (
        httpx.Client(base_url=web.url, cookies=cookies_of(ann), timeout=30) as page,
        page.stream("GET", "/events/?project=north") as stream,
    ):
        lines = stream.iter_lines()
        assert read_events(lines, 1) == [BEAT]
        wait_until_heard(lines, north)
        tell(south, "alerts", "theirs")
        told = Later(0.3, lambda: tell(north, "alerts", "ours"))
        assert read_news(lines, "alerts") == "ours"
        told.join()


def test_a_page_hears_what_was_told_while_it_was_on_its_way(web: Web, north: Project, ann: Person) -> None:
    with httpx.Client(base_url=web.url, cookies=cookies_of(ann), timeout=30) as page:
        with page.stream("GET", "/events/?project=north") as stream:
            wait_until_heard(stream.iter_lines(), north)
        drawn_s = time.monotonic()
        tell(north, "alerts", "meanwhile")
        ago_ms = int((time.monotonic() - drawn_s) * 1000) + 1
        with page.stream("GET", f"/events/?project=north&ago_ms={ago_ms}") as stream:
            assert read_news(stream.iter_lines(), "alerts") == "meanwhile"
        with page.stream("GET", "/events/?project=north&ago_ms=60000") as stream:
            # More than anybody remembers.
            assert read_events(stream.iter_lines(), 2) == [BEAT, EVERYTHING]


def test_a_page_says_its_age_in_milliseconds(web: Web, north: Project, ann: Person) -> None:
    answer = httpx.get(f"{web.url}/events/?project=north&ago_ms=soon", cookies=cookies_of(ann))
    assert (answer.status_code, answer.json()["detail"]) == (400, "ago_ms is a number of milliseconds.")


def test_a_page_without_redis_is_told_to_look_for_itself(lonely_web: Web, north: Project, ann: Person) -> None:
    with (
        httpx.Client(base_url=lonely_web.url, cookies=cookies_of(ann), timeout=30) as page,
        page.stream("GET", "/events/") as stream,
    ):
        assert read_events(stream.iter_lines(), 3) == [BEAT, EVERYTHING, EVERYTHING]


def test_a_page_of_somebody_who_signs_out_hears_no_more(web: Web, north: Project, ann: Person) -> None:
    with (
        httpx.Client(base_url=web.url, cookies=cookies_of(ann), timeout=30) as page,
        page.stream("GET", "/events/?project=north") as stream,
    ):
        Session.objects.all().delete()
        assert "data" not in "".join(list(stream.iter_lines())[4:])


def sign_out(person: Person) -> None:
    Session.objects.all().delete()


def switch_off(person: Person) -> None:
    Person.objects.filter(pk=person.pk).update(is_active=False)


def change_password(person: Person) -> None:
    person.set_password("another one, and long")
    person.save()


@pytest.mark.parametrize("leave", [sign_out, switch_off, change_password])
def test_a_stream_ends_soon_after_its_person_may_hear_no_more(
    web: Web, north: Project, ann: Person, leave: Callable[[Person], None]
) -> None:
    with (
        httpx.Client(base_url=web.url, cookies=cookies_of(ann), timeout=30) as page,
        page.stream("GET", EVENTS, headers=STREAM) as stream,
    ):
        leave(ann)
        # One that goes on has a ping for its third line.
        assert list(islice(stream.iter_lines(), 3)) == ["retry: 2000", ""]


def test_strangers_and_other_projects_hear_nothing(web: Web, north: Project, ann: Person) -> None:
    make_project("south")
    assert httpx.get(f"{web.url}/events/?project=north").status_code == 401
    assert httpx.get(f"{web.url}/events/?project=south", cookies=cookies_of(ann)).status_code == 403


def test_a_process_that_is_told_to_stop_ends_its_streams_and_polls(
    committed_db: None,
) -> None:
    north = make_project("north")
    with serving(settings.REDIS_URL) as web, web.client(north) as client, ThreadPoolExecutor(1) as other:
        poll = other.submit(client.get, f"{EVENTS}?{LONG}&after=9")
        with client.stream("GET", EVENTS, headers=STREAM) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            web.wait_for_callers(2)
            web.child.let_go()
            assert list(lines) == [""]
            web.child.wait(5)
        # An answer, long before its wait is over, and no broken line.
        assert poll.result().json() == {"events": [], "cursor": 9}
