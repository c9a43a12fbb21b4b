"""Messages that come as log records complete their span, whatever came first and however often it comes."""

import itertools
import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import psycopg
import pytest
from django.db import connection

from monitor import ground, masking, otlp, otlp_logs, retention, spanlogs
from monitor.masking import Rule
from monitor.models import Project, Span, SpanLog
from monitor.otlp_logs import Message
from monitor.records import Rejection, sealed
from monitor.records import Span as Record
from monitor.spanlogs import Kept
from monitor.spanrows import INPUT, OUTPUT
from monitor.tenancy import crossing, tenant
from tests.contract.recordings import mapped, others
from tests.monitor.otlp_builders import as_json, as_protobuf, log, logs_export
from tests.monitor.spending import (
    NOW,
    a_project,
    a_span,
    accept,
    assert_books_balance,
    books_of,
    close_connection,
    pending,
)
from tests.plugin import servers

TRACE = (1).to_bytes(16, "big").hex()
ASKED = log("gen_ai.user.message", {"content": "What is the weather?"}, trace=TRACE, at_ms=1)
TOLD_FIRST = log("gen_ai.system.message", {"content": "Be kind."}, trace=TRACE, at_ms=0)
ANSWERED = log(
    "gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": {"content": "Sunny."}}, trace=TRACE, at_ms=2
)
HEARD = '[{"role":"system","content":"Be kind."},{"role":"user","content":"What is the weather?"}]'
SAID = '{"content":"Sunny."}'


def read(*records: dict) -> otlp_logs.Read:
    return otlp_logs.read(otlp_logs.decode(as_json(logs_export(*records)), otlp.JSON))


def take(project: Project, *records: dict) -> Kept:
    return take_messages(project, read(*records).messages)


def take_messages(project: Project, messages: list[Message]) -> Kept:
    with tenant(project.pk):
        return spanlogs.accept(project.pk, messages, now=NOW)


def stored(project: Project, span_id: int = 1) -> tuple[str | None, str | None, int]:
    with tenant(project.pk):
        found = Span.objects.get(span_id=span_id)
        return found.input, found.output, found.inherits & (INPUT | OUTPUT)


def test_whatever_comes_first_the_span_has_its_messages(db: None) -> None:
    steps = ["span", TOLD_FIRST, ASKED, ANSWERED]
    for n, order in enumerate(itertools.permutations(steps)):
        project = a_project(f"order-{n}")
        for step in order:
            if step == "span":
                accept(project, [a_span(1, 1)])
            else:
                assert take(project, step) == Kept(1, 0)
        assert stored(project) == (HEARD, SAID, INPUT | OUTPUT), order
        assert_books_balance(project)


def test_a_repeat_of_either_changes_nothing(db: None) -> None:
    project, span = a_project(), a_span(1, 1)
    take(project, ASKED, ANSWERED)
    accept(project, [span])
    once, books = stored(project), books_of(project)
    assert take(project, ASKED, ANSWERED, ASKED) == Kept(0, 3)
    assert accept(project, [span]).duplicates == 1
    assert (stored(project), books_of(project)) == (once, books)


@pytest.mark.parametrize("records_first", [True, False])
def test_the_spans_own_words_win(db: None, records_first: bool) -> None:
    project, span = a_project(), a_span(1, 1, input="its own")
    steps = [lambda: take(project, ASKED, ANSWERED), lambda: accept(project, [span])]
    for step in steps if records_first else reversed(steps):
        step()
    take(project, TOLD_FIRST)
    assert stored(project) == ("its own", SAID, OUTPUT)


def test_a_newer_version_of_a_span_has_the_messages_too(db: None) -> None:
    project, span = a_project(), a_span(1, 1)
    accept(project, [pending(span)])
    take(project, ASKED)
    assert stored(project) == ("What is the weather?", None, INPUT)
    accept(project, [span])
    take(project, ANSWERED)
    assert stored(project) == ("What is the weather?", SAID, INPUT | OUTPUT)
    later = sealed(msgspec.structs.replace(span, ended_at=span.ended_at + timedelta(seconds=1), output="in full"))
    accept(project, [later])
    take(project, TOLD_FIRST)
    assert stored(project) == (HEARD, "in full", INPUT)
    assert_books_balance(project)


def test_a_tools_arguments_and_result(db: None) -> None:
    project = a_project()
    before = NOW - timedelta(minutes=5)
    accept(project, [a_span(1, 1, kind="tool", tool="get_weather")], now=before)
    given = log("gen_ai.tool.call", trace=TRACE, attributes={"gen_ai.tool.call.arguments": {"city": "Lisbon"}})
    back = log("gen_ai.tool.call", trace=TRACE, at_ms=1, attributes={"gen_ai.tool.call.result": "21 degrees"})
    take(project, back)
    take(project, given)
    assert stored(project) == ('{"city":"Lisbon"}', "21 degrees", INPUT | OUTPUT)
    with tenant(project.pk):
        # Who looks for loops sees what has only now got its arguments.
        assert Span.objects.get().received_at == NOW


def call(to: str, *, span: int = 1, **more: str) -> dict:
    """The arguments of a tool's call."""
    arguments = {"gen_ai.tool.call.arguments": {"to": to, **more}}
    return log("gen_ai.tool.call", trace=TRACE, span=span, attributes=arguments)


def mask(project: Project, **what: bool) -> None:
    with tenant(project.pk):
        Project.objects.filter(pk=project.pk).update(**what)


def arguments_of(project: Project, span_id: int = 1) -> tuple[str | None, str | None]:
    """What a span has as arguments, and what stands for them where they were masked."""
    with tenant(project.pk):
        found = Span.objects.get(span_id=span_id)
        return found.input, found.attributes.get(masking.ARGUMENTS)


@pytest.mark.parametrize("records_first", [True, False])
def test_masked_arguments_of_a_tool_are_told_apart_as_those_of_spans_are(db: None, records_first: bool) -> None:
    project = a_project()
    mask(project, mask_pii=True)
    names = {1: "ann@example.org", 2: "bob@example.org", 3: "ann@example.org", 4: "nobody"}
    spans = [a_span(1, span, kind="tool", tool="mail", attributes={"its": "own"}) for span in names]
    steps = [
        lambda: take(project, *(call(name, span=span) for span, name in names.items())),
        lambda: accept(project, spans),
    ]
    for step in steps if records_first else reversed(steps):
        step()
    told = [arguments_of(project, span) for span in names]
    assert [said for said, _ in told] == ['{"to":"[email]"}'] * 3 + ['{"to":"nobody"}']
    ann, bob, again, nobody = (one for _, one in told)
    assert (ann == again, ann == bob, nobody) == (True, False, None)
    # A span that brings the same arguments itself has the same.
    own = a_span(1, 5, kind="tool", tool="mail", arguments='{ "to": "ann@example.org" }')
    accept(project, [masking.span(own, Rule(True, False))])
    assert arguments_of(project, 5) == ('{"to":"[email]"}', ann)
    with tenant(project.pk):
        assert Span.objects.get(span_id=1).attributes == {"its": "own", masking.ARGUMENTS: ann}


def test_of_several_messages_each_counts_and_the_last_arguments_stay(db: None) -> None:
    project = a_project()
    mask(project, mask_pii=True)
    accept(project, [a_span(1, span, kind="tool", tool="mail") for span in (1, 2, 3)])
    for span, name in ((1, "ann@example.org"), (2, "bob@example.org"), (3, "ann@example.org")):
        said = ({"content": "Write to"}, {"content": name})
        take(project, *(log("gen_ai.user.message", one, trace=TRACE, span=span, at_ms=n) for n, one in enumerate(said)))
    told = [arguments_of(project, span) for span in (1, 2, 3)]
    assert {said for said, _ in told} == {'[{"role":"user","content":"Write to"},{"role":"user","content":"[email]"}]'}
    assert told[0][1] == told[2][1] != told[1][1]
    take(project, call("ann@example.org") | {"timeUnixNano": "1"})
    assert arguments_of(project) == ('{"to":"[email]"}', masking.hashed('{"to":"ann@example.org"}'))
    # What is not masked takes the place of what was, and needs nothing that stands for it.
    take(project, call("nobody") | {"timeUnixNano": "2"})
    assert arguments_of(project) == ('{"to":"nobody"}', None)


@pytest.mark.parametrize("records_first", [True, False])
def test_what_came_before_a_project_masks_is_masked_when_it_completes_a_span(db: None, records_first: bool) -> None:
    project = a_project()
    span, mail = a_span(1, 1, kind="tool", tool="mail"), "ann@example.org"
    back = log("gen_ai.tool.call", trace=TRACE, at_ms=1, attributes={"gen_ai.tool.call.result": f"sent to {mail}"})
    if not records_first:
        accept(project, [span])
    take(project, call(mail, host="192.168.1.20"))
    mask(project, mask_pii=True)
    if records_first:
        accept(project, [span])
    else:
        take(project, back)
    assert stored(project)[0] == '{"host":"192.168.1.20","to":"[email]"}'
    mask(project, mask_ips=True)
    take(project, back | {"timeUnixNano": "3"})
    assert stored(project) == ('{"host":"[ip]","to":"[email]"}', "sent to [email]", INPUT | OUTPUT)
    # Whatever was masked when, what stands for the arguments is of what was sent.
    assert arguments_of(project)[1] == masking.hashed(f'{{"to":"{mail}","host":"192.168.1.20"}}')


def test_no_sender_can_say_that_its_message_is_masked_already(db: None) -> None:
    project = a_project()
    forged = {"content": "ann@example.org", "pii_masked": True, "arguments": "0" * 64, masking.ARGUMENTS: "0" * 64}
    take(project, log("gen_ai.user.message", forged, trace=TRACE))
    mask(project, mask_pii=True)
    accept(project, [a_span(1, 1)])
    assert stored(project)[0] == "[email]"


def test_messages_in_one_piece_are_worth_more_than_single_ones(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1)])
    whole = log(
        "gen_ai.client.inference.operation.details",
        trace=TRACE,
        attributes={"gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]},
    )
    take(project, ASKED, whole)
    assert stored(project)[0] == '[{"parts":[{"content":"hi","type":"text"}],"role":"user"}]'


def test_a_name_may_stand_in_an_attribute_and_a_body_may_be_text() -> None:
    by_attribute = log("", "What is up?", span=2, attributes={"event.name": "gen_ai.user.message"})
    older = log("", {"content": "Hi"}, span=2, attributes={"event_name": "gen_ai.content.prompt"})
    written = log("gen_ai.user.message", '{"content": "as JSON"}')
    bare = log("gen_ai.user.message", attributes={"content": "in an attribute", "gen_ai.system": "openai"})
    assert [(one.name, json.loads(one.said)) for one in read(by_attribute, older, written, bare).messages] == [
        ("gen_ai.user.message", {"content": "What is up?"}),
        ("gen_ai.content.prompt", {"content": "Hi"}),
        ("gen_ai.user.message", {"content": "as JSON"}),
        ("gen_ai.user.message", {"content": "in an attribute"}),
    ]


def test_what_says_nothing_of_a_span_is_not_kept() -> None:
    silent = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"}}
    found = read(log("", "GET / 200"), log("app.started"), log("gen_ai.choice", silent), log("gen_ai.user.message"))
    assert (found.messages, found.rejected, found.others) == ([], [], 4)


def test_bad_records_are_named_and_cost_no_other() -> None:
    deep: object = "x"
    for _ in range(120):
        deep = [deep]
    body = as_json(
        logs_export(
            ASKED,
            ASKED | {"traceId": ""},
            ASKED | {"traceId": "00" * 16},
            ASKED | {"spanId": "zz"},
            ASKED | {"observedTimeUnixNano": "1" * 30},
            {"traceId": 7},
            log("gen_ai.user.message", "x" * 1_000_001, trace=TRACE),
            log("gen_ai.user.message", {"content": json.dumps(deep)}, trace=TRACE),
            log("gen_ai.user.message", json.dumps({"content": deep}), trace=TRACE),
        )
    )
    found = otlp_logs.read(otlp_logs.decode(body, otlp.JSON))
    assert [one.place for one in found.messages] == [0, 7]
    assert [one.reason for one in found.rejected] == [
        "gen_ai.user.message: the trace id is missing or is not 16 bytes",
        "gen_ai.user.message: the trace id is missing or is not 16 bytes",
        "gen_ai.user.message: the span id is missing or is not 8 bytes",
        "not a log record: an integer of more than 64 bits",
        "not a log record: Expected `str | null`, got `int` - at `$.traceId`",
        "gen_ai.user.message: it has more than 1,000,000 bytes",
        "gen_ai.user.message: it nests deeper than 100 levels",
    ]
    answer = json.loads(otlp.partial_success(otlp.JSON, found.rejected, otlp_logs.LOGS))
    assert answer["partialSuccess"]["rejectedLogRecords"] == "7"
    response = otlp_logs.LOGS.response.FromString(otlp.partial_success(otlp.PROTOBUF, found.rejected, otlp_logs.LOGS))
    assert response.partial_success.rejected_log_records == 7


def test_both_wires_tell_the_same() -> None:
    export = logs_export(TOLD_FIRST, ASKED, ANSWERED)
    in_json, in_protobuf = (
        otlp_logs.read(otlp_logs.decode(body, kind)).messages
        for body, kind in ((as_json(export), otlp.JSON), (as_protobuf(export), otlp.PROTOBUF))
    )
    assert in_json == in_protobuf
    assert len(in_json) == 3


def test_odd_text_is_kept_readable(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1)])
    odd = '"quoted", {brace} \\ NULL\n\x00 \U0001f600'
    take(
        project,
        log("gen_ai.user.message", odd, trace=TRACE),
        log("gen_ai.choice", json.dumps({"content": odd}), trace=TRACE),
    )
    shown = odd.replace("\x00", "\ufffd")
    assert stored(project)[:2] == (shown, shown)


def test_a_span_takes_no_more_than_fits(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1)])
    many = [log("gen_ai.user.message", f"{n}", trace=TRACE, at_ms=n) for n in range(spanlogs.MOST_RECORDS + 5)]
    large = [log("gen_ai.choice", str(n) * 900_000, trace=TRACE, span=2, at_ms=n) for n in range(4)]
    take(project, *many)
    assert len(json.loads(stored(project)[0] or "")) == spanlogs.MOST_RECORDS
    for one in large:
        take(project, one)
    accept(project, [a_span(1, 2)])
    assert len(json.loads(stored(project, 2)[1] or "")) == 2


def test_projects_share_no_record(db: None) -> None:
    north, south = a_project("north"), a_project("south")
    take(north, ASKED)
    accept(south, [a_span(1, 1)])
    accept(north, [a_span(1, 1)])
    assert (stored(north)[0], stored(south)[0]) == ("What is the weather?", None)


def test_records_leave_after_a_week_and_what_they_told_stays(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1)])
    take(project, ASKED)
    retention.prune(now=NOW + timedelta(days=6))
    with crossing():
        assert SpanLog.objects.count() == 1
    retention.prune(now=NOW + timedelta(days=8))
    with crossing():
        assert SpanLog.objects.count() == 0
    assert stored(project)[0] == "What is the weather?"


def left(*, days: int = 8) -> None:
    """All records leave."""
    retention.prune(now=NOW + timedelta(days=days))
    with crossing():
        assert SpanLog.objects.count() == 0


def test_a_newer_version_has_what_records_told_that_have_left(db: None) -> None:
    project, span = a_project(), a_span(1, 1)
    accept(project, [pending(span)])
    take(project, ASKED, ANSWERED)
    left()
    accept(project, [span])
    assert stored(project) == ("What is the weather?", SAID, INPUT | OUTPUT)
    later = sealed(msgspec.structs.replace(span, ended_at=span.ended_at + timedelta(seconds=1), output="in full"))
    accept(project, [later])
    assert stored(project) == ("What is the weather?", "in full", INPUT)
    assert_books_balance(project)


def test_masked_arguments_stay_told_apart_when_their_records_have_left(db: None) -> None:
    project, span = a_project(), a_span(1, 1, kind="tool", tool="mail")
    mask(project, mask_pii=True)
    accept(project, [pending(span)])
    take(project, call("ann@example.org"))
    before = arguments_of(project)
    assert before[1]
    left()
    accept(project, [span])
    assert arguments_of(project) == before
    take(project, call("bob@example.org"))
    assert arguments_of(project) == before


@pytest.mark.parametrize("comes", ["record", "version"])
def test_records_that_are_left_take_nothing_of_what_the_others_told(db: None, comes: str) -> None:
    project, span = a_project(), a_span(1, 1)
    accept(project, [pending(span)])
    take(project, TOLD_FIRST)
    with tenant(project.pk):
        SpanLog.objects.update(received_at=NOW - timedelta(days=8))
    take(project, ASKED)
    assert stored(project)[0] == HEARD
    retention.prune(now=NOW)
    with crossing():
        assert SpanLog.objects.count() == 1
    if comes == "record":
        take(project, ANSWERED)
        assert stored(project) == (HEARD, SAID, INPUT | OUTPUT)
    else:
        accept(project, [span])
        assert stored(project) == (HEARD, None, INPUT)


def test_a_record_that_comes_when_the_others_have_left_fills_only_what_is_unsaid(db: None) -> None:
    project = a_project()
    accept(project, [a_span(1, 1)])
    take(project, ASKED)
    left()
    for record in (TOLD_FIRST, ANSWERED, TOLD_FIRST | {"timeUnixNano": "5"}):
        take(project, record)
    assert stored(project) == ("What is the weather?", SAID, INPUT | OUTPUT)


@pytest.mark.parametrize("comes", ["record", "version"])
def test_what_a_project_masks_by_now_hides_no_record_that_is_held(db: None, comes: str) -> None:
    project, span = a_project(), a_span(1, 1)
    mail = {"content": "Write to ann@example.org at 192.168.1.20."}
    accept(project, [pending(span)])
    take(project, log("gen_ai.user.message", mail, trace=TRACE, at_ms=1))
    for n, (rule, heard) in enumerate((("mask_pii", "[email] at 192.168.1.20"), ("mask_ips", "[email] at [ip]"))):
        mask(project, **{rule: True})
        if comes == "record":
            take(project, TOLD_FIRST | {"timeUnixNano": f"{n}"})
            assert len(json.loads(stored(project)[0] or "")) == n + 2
        else:
            later = span.ended_at + timedelta(seconds=n)
            accept(project, [sealed(msgspec.structs.replace(span, ended_at=later))])
        assert f"Write to {heard}." in (stored(project)[0] or "")


def test_spans_and_records_that_come_at_once_miss_nothing(committed_db: None) -> None:
    project, seeds = a_project(), range(8)
    spans = [a_span(trace, span) for trace in range(1, 6) for span in range(1, 6)]
    messages = read(
        *(
            log(one["eventName"], trace=trace.to_bytes(16, "big").hex(), span=span, at_ms=n) | {"body": one["body"]}
            for trace in range(1, 6)
            for span in range(1, 6)
            for n, one in enumerate((TOLD_FIRST, ASKED, ANSWERED))
        )
    ).messages

    def tell(seed: int) -> None:
        rng = random.Random(seed)
        told: list[Record | Message] = [*spans, *(pending(one) for one in spans[seed::8]), *messages]
        rng.shuffle(told)
        try:
            for n in range(0, len(told), 9):
                part = told[n : n + 9]
                take_messages(project, [one for one in part if isinstance(one, Message)])
                accept(project, [one for one in part if isinstance(one, Record)])
        finally:
            close_connection()

    with ThreadPoolExecutor(len(seeds)) as pool:
        list(pool.map(tell, seeds))
    with tenant(project.pk):
        found = Span.objects.values_list("input", "output", "ended_at")
        assert {(heard, said) for heard, said, _ in found} == {(HEARD, SAID)}
        assert len(found) == len(spans)
        assert all(ended_at for *_, ended_at in found)
        assert SpanLog.objects.count() == len(messages)
    assert_books_balance(project)


MANY = """
INSERT INTO monitor_spanlog (project_id, trace_id, span_id, digest, at_ns, place, name, said, received_at)
SELECT %s, gen_random_uuid(), n, decode(md5(n::text), 'hex'), n, 0, 'gen_ai.user.message', '{}', now()
  FROM generate_series(1, 20000) AS n
"""


def test_who_sends_no_logs_reads_none_of_others(committed_db: None) -> None:
    quiet, loud = a_project("quiet"), a_project("loud")
    with psycopg.connect(servers.url("postgres", servers.database), autocommit=True) as superuser:
        superuser.execute(MANY, [loud.pk])
        superuser.execute("ANALYZE monitor_spanlog")
    with tenant(quiet.pk), connection.cursor() as cursor:
        # A hot statement is planned once for all projects.
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute(f"PREPARE around (int) AS {ground.HAS_LOGS.replace('%(project_id)s', '$1')}")
        cursor.execute("EXPLAIN (ANALYZE, COSTS off) EXECUTE around (%s)", [quiet.pk])
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "Seq Scan on monitor_spanlog" not in plan
    assert "Rows Removed" not in plan


def logs_of(client: str) -> tuple[list[Message], list[Rejection]]:
    found = [
        otlp_logs.read(otlp_logs.decode(one.body, one.content_type)) for one in others(client) if one.path == "/v1/logs"
    ]
    return [m for one in found for m in one.messages], [r for one in found for r in one.rejected]


# How many of a client's spans have an input and an output, by its spans alone and with its logs.
RECORDED = {
    "otel_openai_v2": ((0, 0), (6, 4)),
    "otel_openai_v2_latest": ((6, 4), (6, 4)),
    "litellm_otel": ((7, 6), (7, 6)),
    "openlit_sdk": ((3, 3), (3, 3)),
}


@pytest.mark.parametrize("logs_first", [True, False])
@pytest.mark.parametrize("client", sorted(RECORDED))
def test_recorded_clients_say_in_logs_what_their_spans_leave_out(db: None, client: str, logs_first: bool) -> None:
    spans, (messages, _) = mapped(client)[0], logs_of(client)
    now = max(span.ended_at or span.started_at for span in spans) + timedelta(minutes=1)
    project = a_project()

    def filled() -> tuple[int, int]:
        with tenant(project.pk):
            every = Span.objects.filter(kind__in=["llm", "embedding"])
            return every.exclude(input=None).count(), every.exclude(output=None).count()

    if logs_first:
        take_messages(project, messages)
    accept(project, spans, now=now)
    if not logs_first:
        assert filled() == RECORDED[client][0]
        take_messages(project, messages)
    assert filled() == RECORDED[client][1]
    assert_books_balance(project)


def test_a_recorded_record_without_a_span_is_refused_by_name() -> None:
    assert [one.reason for one in logs_of("openlit_sdk")[1]] == [
        "gen_ai.client.inference.operation.details: the trace id is missing or is not 16 bytes"
    ]
    assert logs_of("traceloop_sdk") == ([], [])
