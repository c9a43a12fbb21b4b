"""A batch whose database goes away: what is kept is counted, what is left is named."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone

import psycopg
import pytest
from django.db import connections
from django.http import HttpResponse

from monitor import closing
from monitor.api import batch
from monitor.models import Execution, HourRollup, LedgerEntry, Span
from monitor.tenancy import crossing, tenant
from tests.monitor import spending
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.fleets import act, after, an_execution, journal, look
from tests.monitor.test_deadlocks import meanwhile, wait_for_somebody_waiting
from tests.plugin import servers

END_WHO_WAITS = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"


def batch_that_breaks_at(execution_id: object, project_id: int, send: object) -> HttpResponse:
    """Send the batch and end its connection as it waits for the execution."""
    with ThreadPoolExecutor(1) as pool, tenant(project_id):
        Execution.objects.select_for_update().get(project_id=project_id, id=execution_id)
        answer = meanwhile(pool, send)
        wait_for_somebody_waiting()
        with psycopg.connect(servers.url("postgres", servers.database)) as superuser:
            superuser.execute(END_WHO_WAITS)
        return answer.result()


def test_what_is_left_when_the_database_goes_away_is_named_and_may_be_sent_again(committed_db: None) -> None:
    project = spending.a_project()
    one, other = an_execution(project.pk), an_execution(project.pk)
    client = client_with(make_key(project)[1])
    events = [
        {"type": "call", "model": "gpt-4o", "input_tokens": 1},
        {"type": "execution.completed", "execution_id": str(one), "attempt": 1},
        {"type": "unheard of"},
        {"type": "execution.completed", "execution_id": str(other), "attempt": 1},
    ]

    def send() -> HttpResponse:
        return client.post("/api/v1/batch", {"events": events}, content_type="application/json")

    answer = batch_that_breaks_at(other, project.pk, send)
    connections.close_all()
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert (body["accepted"], body["duplicates"]) == (1, 0)
    assert [(one["index"], one["retryable"]) for one in body["rejected"]] == [(0, True), (2, False), (3, True)]
    assert body["rejected"][0]["errors"] == [
        {"field": "event", "message": "was not stored: the database did not answer"}
    ]
    assert [look(project.pk, each).status for each in (one, other)] == ["completed", "running"]
    again = [events[one["index"]] for one in body["rejected"] if one["retryable"]]
    answer = client.post("/api/v1/batch", {"events": again}, content_type="application/json")
    assert answer.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
    assert look(project.pk, other).status == "completed"
    with crossing():
        assert LedgerEntry.objects.count() == 1


def test_a_batch_of_which_nothing_is_kept_is_unavailable(committed_db: None) -> None:
    project = spending.a_project()
    one = an_execution(project.pk)
    client = client_with(make_key(project)[1])
    events = [{"type": "execution.completed", "execution_id": str(one)}]
    answer = batch_that_breaks_at(
        one, project.pk, lambda: client.post("/api/v1/batch", {"events": events}, content_type="application/json")
    )
    assert answer.status_code == 503
    assert answer.json()["detail"].endswith("nothing was stored.")


def test_a_batch_that_takes_long_leaves_events_to_the_next_and_comes_to_its_end(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "TELLINGS_WITHIN_S", 0.0)
    project = spending.a_project()
    client = client_with(make_key(project)[1])
    ends = [{"type": "execution.completed", "execution_id": str(an_execution(project.pk))} for _ in range(3)]
    events = [ends[0], {"type": "call", "model": "gpt-4o", "input_tokens": 1}, {"type": "unheard of"}, *ends[1:]]
    told = []
    while events:
        answer = client.post("/api/v1/batch", {"events": events}, content_type="application/json").json()
        told.append((answer["accepted"], [(one["index"], one["retryable"]) for one in answer["rejected"]]))
        events = [events[one["index"]] for one in answer["rejected"] if one["retryable"]]
    # The call goes along with the first: reports are one transaction, however many they are.
    assert told == [(2, [(2, False), (3, True), (4, True)]), (1, [(1, True)]), (1, [])]
    assert [look(project.pk, each["execution_id"]).status for each in ends] == ["completed"] * 3


CALL = b'{"type": "call", "model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100}'


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (b'{"type": "message", "conversation_id": "u", "role": "user", "content": "\xe2\x82"}', "event"),
        (b'{"type": "message", "conversation_id": "u", "role": "user", "content": "a\\u0000"}', "content"),
        (b'{"type": "message", "conversation_id": "u", "role": "user", "content": "a", "x": "\\u0000"}', "x"),
        (b'{"type": "call", "model": "gpt-4o", "input_tokens": 1' + b"0" * 30 + b"}", "input_tokens"),
        (b'{"type": "call", "model": "gpt-4o", "x": ' + b"[" * 101 + b"]" * 101 + b"}", "event"),
        (b'{"type": "call", "model": "gpt-4o", "x": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", "event"),
        (b'{"type": "tool_call", "tool": "t", "output": ' + b'{"]": [' * 50_000 + b"]}" * 50_000 + b"}", "event"),
    ],
    ids=["cut letter", "NUL", "NUL in what is unknown", "huge number", "deep", "deeper", "deepest"],
)
def test_one_bad_event_costs_no_other(db: None, event: bytes, field: str) -> None:
    client = client_with(make_key(spending.a_project())[1])
    body = b'{"events": [' + b", ".join((CALL, event, CALL)) + b"]}"
    answer = client.post("/api/v1/batch", body, content_type="application/json")
    assert answer.status_code == 200, answer.content
    assert (answer.json()["accepted"], [one["index"] for one in answer.json()["rejected"]]) == (2, [1])
    assert [one["field"] for one in answer.json()["rejected"][0]["errors"]] == [field]


def test_a_stale_report_of_a_batch_is_refused_and_stays_in_the_journal(committed_db: None) -> None:
    project = spending.a_project()
    one, other = an_execution(project.pk), an_execution(project.pk)
    act("fail", project.pk, one, now=after(1), error="503")
    client = client_with(make_key(project)[1])
    events = [{"type": "execution.completed", "execution_id": str(each), "attempt": 1} for each in (one, other)]
    body = client.post("/api/v1/batch", {"events": events}, content_type="application/json").json()
    assert (body["accepted"], body["duplicates"]) == (1, 0)
    [rejected] = body["rejected"]
    assert (rejected["index"], rejected["retryable"]) == (0, False)
    assert rejected["errors"][0]["message"] == "attempt 1 is stale: the execution is retrying at attempt 2."
    assert journal(project.pk, one)[-1] == ("retrying", "retrying", "stale_report")


def test_what_named_an_execution_before_a_batch_started_it_counts_for_it(db: None) -> None:
    project = spending.a_project()
    client = client_with(make_key(project)[1])
    named = {"execution_id": str(spending.REPORTED)}
    call = {"type": "call", "provider": "openai", "model": spending.MODEL, "input_tokens": 1000, "output_tokens": 100}
    started = {"type": "execution.started", "agent": "owner", "id": str(spending.REPORTED)}
    for events in ([call | named], [started], [call | named | {"latency_ms": 5}]):
        answer = client.post("/api/v1/batch", {"events": events}, content_type="application/json")
        assert answer.json() == {"accepted": 1, "duplicates": 0, "rejected": []}
    work = look(project.pk, spending.REPORTED)
    assert (work.cost_usd, work.api_calls, work.input_tokens) == (2 * spending.CALL_USD, 2, 2000)


@pytest.mark.parametrize("hours", [-10, 5.5, 13.75], ids=lambda hours: f"{hours:+} h")
@pytest.mark.parametrize("minutes", [8 * 60 + 40, 19 * 60 + 40], ids=["in the day", "near its end"])
def test_days_and_hours_are_those_of_utc_whatever_clock_tells_a_time(db: None, hours: float, minutes: int) -> None:
    project = spending.a_project()
    client = client_with(make_key(project)[1])
    at = spending.NOW.replace(hour=0) - timedelta(days=1) + timedelta(minutes=minutes)
    there = at.astimezone(timezone(timedelta(hours=hours)))
    call = {"type": "call", "provider": "openai", "model": spending.MODEL, "input_tokens": 1000, "output_tokens": 100}
    for told in (at, there):
        events = [call | {"occurred_at": told.isoformat()}]
        answer = client.post("/api/v1/batch", {"events": events}, content_type="application/json")
        assert answer.json() == {"accepted": 1, "duplicates": 0, "rejected": []}
    spending.assert_books_balance(project)
    events = [
        {"type": "execution.tracked", "agent": "planner", "status": "completed", "duration_ms": 0}
        | {"ended_at": told.isoformat()}
        for told in (at, there)
    ]
    answer = client.post("/api/v1/batch", {"events": events}, content_type="application/json")
    assert answer.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
    while closing.close(now=at + timedelta(days=3)):
        pass
    with tenant(project.pk):
        found = HourRollup.objects.filter(kind="execution").values_list("hour", "count")
        assert list(found) == [(at.replace(minute=0), 2)]


def test_a_body_that_never_comes_out_of_its_depth_is_refused_at_once(db: None) -> None:
    project = spending.a_project()
    client = client_with(make_key(project)[1])
    body = b'{"events":[' + b"[" * 200 + b"1" + b"]" * 200 + b"," + b"[" * 1500
    answer = client.post("/api/v1/batch", body, content_type="application/json")
    assert (answer.status_code, "nests deeper" in answer.json()["detail"]) == (400, True)


@pytest.mark.parametrize("as_lines", [False, True], ids=["an object", "lines"])
def test_a_text_cut_in_the_middle_of_an_emoji_costs_nothing(db: None, *, as_lines: bool) -> None:
    project = spending.a_project()
    client = client_with(make_key(project)[1])
    events = [r'{"type":"call","model":"m","cost_usd":"0.25"}', r'{"type":"tool_call","tool":"t","output":"a\ud83d"}']
    if as_lines:
        # As some editors begin a file.
        answer = client.post("/api/v1/batch", "\ufeff" + "\n".join(events), content_type="application/x-ndjson")
    else:
        answer = client.post("/api/v1/batch", f'{{"events":[{",".join(events)}]}}', content_type="application/json")
    assert answer.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
    with tenant(project.pk):
        assert set(Span.objects.values_list("name", "output")) == {("m", None), ("t", "a\N{REPLACEMENT CHARACTER}")}
