"""What the database refuses of an export is found and named; everything else of it is stored."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.apps import apps
from django.db import DataError, IntegrityError, OperationalError
from django.test import Client
from psycopg import sql

from monitor import doorcounts
from monitor.api import problems, salvage
from monitor.api.problems import Problem
from monitor.models import Execution, Message, Project, Span, SpanLog
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.otlp_builders import as_json, export, json_span, log, logs_export
from tests.monitor.spending import a_span, usage

JSON = "application/json"
# What a row is refused by, when a check is made of it, and what is then said.
REFUSALS = {
    "IntegrityError": (sql.SQL("{} NOT LIKE '%culprit%'"), "The database refuses these values: a test refuses."),
    "DataError": (
        sql.SQL("1 / CASE WHEN {} LIKE '%culprit%' THEN 0 ELSE 1 END = 1"),
        "A value cannot be stored: division by zero",
    ),
    # Beyond a limit of PostgreSQL's, as a long value of an index is; to its driver that is no fault of the data.
    "OperationalError": (
        sql.SQL("repeat('x', CASE WHEN {} LIKE '%culprit%' THEN 2000000000 ELSE 1 END) = 'x'"),
        "A value cannot be stored: requested length too large",
    ),
}
Refusing = Callable[[str, sql.Composed], None]


@pytest.fixture
def refusing(committed_db: None, owner_dsn: str) -> Iterator[Refusing]:
    """Let a table refuse rows."""
    tables: list[str] = []
    with psycopg.connect(owner_dsn, autocommit=True) as owner:

        def refuse(table: str, check: sql.Composed) -> None:
            adding = sql.SQL("ALTER TABLE {} ADD CONSTRAINT a_test_refuses CHECK ({})")
            owner.execute(adding.format(sql.Identifier(table), check))
            tables.append(table)

        yield refuse
        for table in tables:
            owner.execute(
                sql.SQL("ALTER TABLE {} DROP CONSTRAINT IF EXISTS a_test_refuses").format(sql.Identifier(table))
            )


@pytest.fixture
def north(committed_db: None) -> Project:
    return make_project("north")


@pytest.fixture
def client(north: Project) -> Client:
    return client_with(make_key(north)[1])


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_span_that_cannot_be_stored_costs_no_other(
    refusing: Refusing, north: Project, client: Client, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    check, words = REFUSALS[kind]
    refusing("monitor_span", check.format(sql.Identifier("name")))
    spans = [json_span(span=n, name="culprit" if n in (7, 30) else "work") for n in range(1, 41)]
    # A span that is refused before the database sees it keeps its place among them.
    spans[11] |= {"startTimeUnixNano": "1600000000000000000", "endTimeUnixNano": "1600000000000000001"}
    for path in ("/v1/traces", "/api/public/otel/v1/traces"):
        answer = client.post(path, as_json(export(*spans)), content_type=JSON)
        assert answer.status_code == 200
        told = answer.json()["partialSuccess"]
        assert told["rejectedSpans"] == "3"
        reasons = dict(reason.split(": ", 1) for reason in told["errorMessage"].split("; "))
        assert reasons.pop(f"{12:016x}").startswith("it started more than")
        assert reasons == {f"{n:016x}": f"it can't be stored: {words}" for n in (7, 30)}
    with tenant(north.pk):
        assert set(Span.objects.values_list("span_id", flat=True)) == set(range(1, 41)) - {7, 12, 30}
    refused = doorcounts.refused(north.pk, now=datetime.now(UTC))
    assert refused is not None
    assert refused.spans == 6
    assert len(caplog.messages) == 4
    assert "culprit" not in caplog.text


@pytest.mark.parametrize("kind", REFUSALS)
def test_nor_does_a_message_of_a_log_record(refusing: Refusing, north: Project, client: Client, kind: str) -> None:
    check, words = REFUSALS[kind]
    refusing("monitor_spanlog", check.format(sql.Identifier("said")))
    said = [log("gen_ai.user.message", {"content": "culprit" if n == 3 else f"{n}"}, span=n) for n in range(1, 9)]
    answer = client.post("/v1/logs", as_json(logs_export(*said)), content_type=JSON)
    assert answer.status_code == 200
    assert answer.json()["partialSuccess"] == {
        "rejectedLogRecords": "1",
        "errorMessage": f"{3:016x}: it can't be stored: {words}",
    }
    with tenant(north.pk):
        assert set(SpanLog.objects.values_list("span_id", flat=True)) == set(range(1, 9)) - {3}


def reports(*culprits: int, count: int) -> list[dict[str, object]]:
    """Reports of calls of tools with ids of their own."""
    return [
        {"type": "tool_call", "tool": "culprit" if n in culprits else "work", "id": str(UUID(int=n + 1))}
        for n in range(count)
    ]


def send(client: Client, events: list[dict[str, object]]) -> dict[str, Any]:
    answer = client.post("/api/v1/batch", {"events": events}, content_type=JSON)
    assert answer.status_code == 200, answer.content
    return answer.json()


@pytest.mark.parametrize("kind", REFUSALS)
def test_nor_does_a_report_of_a_batch(
    refusing: Refusing, north: Project, client: Client, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    check, words = REFUSALS[kind]
    refusing("monitor_span", check.format(sql.Identifier("tool")))
    events = reports(4, 17, count=20)
    # What is told twice counts once, wherever its halves begin, and other events keep their places among reports.
    events += [dict(events[2]), dict(events[4]), {"type": "unheard of"}]
    events[8:8] = [{"type": "message", "conversation_id": "c", "role": "user", "content": "hello"}]
    told = send(client, events)
    assert (told["accepted"], told["duplicates"]) == (19, 1)
    refused = [(one["index"], one["retryable"]) for one in told["rejected"]]
    assert refused == [(4, False), (18, False), (22, False), (23, False)]
    assert [one["errors"] for one in told["rejected"][:3]] == [
        [{"field": "event", "message": f"it can't be stored: {words}"}]
    ] * 3
    assert "culprit" not in caplog.text
    with tenant(north.pk):
        assert list(Span.objects.values_list("tool", flat=True)) == ["work"] * 18
        assert Message.objects.count() == 1
    # Nothing is kept of what was refused: its id is free.
    mended = [events[4] | {"tool": "work"}, events[18] | {"tool": "work"}, *events[:4]]
    assert send(client, mended) == {"accepted": 2, "duplicates": 4, "rejected": []}


@pytest.mark.parametrize("kind", REFUSALS)
def test_nor_does_another_event_of_a_batch(refusing: Refusing, client: Client, kind: str) -> None:
    check, words = REFUSALS[kind]
    refusing("monitor_message", check.format(sql.Identifier("content")))
    said = [
        {"type": "message", "conversation_id": "c", "role": "user", "content": each} for each in ("a", "culprit", "b")
    ]
    told = send(client, [*said, *reports(count=1)])
    assert told["accepted"] == 3
    message = {"field": "event", "message": words}
    assert told["rejected"] == [{"index": 1, "errors": [message], "retryable": False}]
    alone = client.post("/api/v1/conversations/c/messages", {"role": "user", "content": "culprit"}, content_type=JSON)
    assert (alone.status_code, alone.json()["detail"]) == (400, words)


@pytest.mark.parametrize("culprits", [[0], [19], [0, 1, 9], range(20)])
def test_what_was_not_found_in_time_of_a_batch_may_be_sent_again_and_comes_to_its_end(
    refusing: Refusing, north: Project, client: Client, monkeypatch: pytest.MonkeyPatch, culprits: Sequence[int]
) -> None:
    monkeypatch.setattr(salvage, "WITHIN_S", 0.0)
    refusing("monitor_span", REFUSALS["DataError"][0].format(sql.Identifier("tool")))
    left = reports(*culprits, count=20)
    rounds, accepted, refused = 0, 0, 0
    while left:
        told = send(client, left)
        assert told["duplicates"] == 0
        accepted += told["accepted"]
        refused += sum(not one["retryable"] for one in told["rejected"])
        left = [left[one["index"]] for one in told["rejected"] if one["retryable"]]
        rounds += 1
    assert (accepted, refused) == (20 - len(culprits), len(culprits))
    assert rounds > 1
    with tenant(north.pk):
        assert Span.objects.count() == accepted


# Whose rows follow from spans; a refusal there is no fault of theirs.
CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 10}
FOLLOWING = [("monitor_run", "run_id"), ("monitor_ledgerentry", "run_id"), ("monitor_budgetwindow", "target")]


@pytest.mark.parametrize(("table", "column"), FOLLOWING)
def test_a_span_that_a_fault_of_ours_keeps_out_may_be_sent_again(
    refusing: Refusing,
    north: Project,
    client: Client,
    owner_dsn: str,
    table: str,
    column: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    check, _ = REFUSALS["IntegrityError"]
    refusing(table, check.format(sql.Identifier(column)))
    of_runs = [
        json_span(span=n, attributes=CALL | {"handrail.run.id": "culprit" if n in (3, 6) else f"run {n}"})
        for n in range(1, 9)
    ]
    told = as_json(export(*of_runs))
    for _ in range(2):
        answer = client.post("/v1/traces", told, content_type=JSON)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        with tenant(north.pk):
            # The others are stored once, and wait for nobody.
            assert set(Span.objects.values_list("span_id", flat=True)) == {1, 2, 4, 5, 7, 8}
    assert "culprit" not in caplog.text
    with psycopg.connect(owner_dsn, autocommit=True) as owner:
        owner.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT a_test_refuses").format(sql.Identifier(table)))
    answer = client.post("/v1/traces", told, content_type=JSON)
    assert (answer.status_code, answer.json()) == (200, {})
    with tenant(north.pk):
        assert Span.objects.count() == 8


def test_what_follows_lies_in_tables_that_there_are() -> None:
    assert {model._meta.db_table for model in apps.get_models()} >= problems.FOLLOWING


def test_nor_is_an_event_of_a_batch_blamed_for_a_fault_of_ours(
    refusing: Refusing, north: Project, client: Client
) -> None:
    refusing("monitor_run", REFUSALS["IntegrityError"][0].format(sql.Identifier("run_id")))
    refusing("monitor_span", REFUSALS["IntegrityError"][0].format(sql.Identifier("tool")))
    events = reports(4, count=8)
    events[2] |= {"run_id": "culprit"}
    told = send(client, events)
    assert told["accepted"] == 6
    assert [(one["index"], one["retryable"]) for one in told["rejected"]] == [(2, True), (4, False)]
    with tenant(north.pk):
        assert Span.objects.count() == 6
    # Nor is any other event: here the journal refuses.
    refusing("monitor_statechange", REFUSALS["IntegrityError"][0].format(sql.SQL("(data ->> 'agent')")))
    told = send(client, [{"type": "execution.started", "agent": name} for name in ("a", "culprit", "b")])
    assert told["accepted"] == 2
    assert [(one["index"], one["retryable"]) for one in told["rejected"]] == [(1, True)]
    with tenant(north.pk):
        assert set(Execution.objects.values_list("agent", flat=True)) == {"a", "b"}
    alone = client.post("/api/v1/calls", {"model": "gpt-4o", "run_id": "culprit"}, content_type=JSON)
    assert alone.status_code == 503
    assert int(alone.headers["Retry-After"]) >= 1


def test_where_too_much_is_refused_it_may_be_sent_again(refusing: Refusing, north: Project, client: Client) -> None:
    refusing("monitor_span", REFUSALS["DataError"][0].format(sql.Identifier("name")))
    spans = [json_span(span=n, name="culprit") for n in range(1, 101)]
    answer = client.post("/v1/traces", as_json(export(*spans)), content_type=JSON)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("kind", [DataError, IntegrityError, OverflowError])
def test_a_few_among_many_are_found_and_nothing_is_taken_twice(kind: type[Exception]) -> None:
    for seed in range(50):
        rng = random.Random(seed)
        count = rng.randrange(1, 1025)
        culprits = set(rng.sample(range(count), min(count, rng.randrange(4))))
        taken: list[int] = []

        def take(begin: int, end: int, culprits: set[int] = culprits, taken: list[int] = taken) -> None:
            if culprits & set(range(begin, end)):
                raise kind("no")
            taken.extend(range(begin, end))

        refused = salvage.halved(take, count)
        assert {one.index for one in refused} == culprits
        assert sorted(taken) == [n for n in range(count) if n not in culprits]


def test_a_number_that_the_driver_cannot_write_costs_no_other(north: Project, client: Client) -> None:
    """No door lets one in; this is what the driver would say."""
    at = datetime.now(UTC)
    spans = [a_span(n, n, started_at=at, tokens=usage(2**63 if n == 4 else 1)) for n in range(1, 9)]
    done = salvage.accept(north.pk, spans, now=at, department="")
    assert (done.accepted, [one.index for one in done.rejected]) == (7, [3])
    assert done.rejected[0].reason == "it can't be stored: The database refuses it."


def test_the_search_has_an_end_and_other_troubles_end_it_at_once() -> None:
    tries = 0

    def never(begin: int, end: int) -> None:
        nonlocal tries
        tries += 1
        raise DataError("no")

    with pytest.raises(Problem) as told:
        salvage.halved(never, 10_000)
    assert (told.value.status, tries) == (503, salvage.MOST_TRIES)

    def away(begin: int, end: int) -> None:
        nonlocal tries
        tries += 1
        raise OperationalError("gone")

    tries = 0
    with suppress(OperationalError):
        salvage.halved(away, 100)
    assert tries == 1
