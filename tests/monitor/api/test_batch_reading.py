"""Events of a batch are read in one go, and say what they say when each is read by itself."""

import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monitor.api import batch, bodies
from monitor.api.batch import BODIES, BatchBody
from monitor.api.problems import Problem
from monitor.masking import Rule
from monitor.models import LedgerEntry
from monitor.reports import REPORTS, Report
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key
from tests.monitor.spending import a_project

TRACE = "0af7651916cd43dd8448eb211c80319c"
NAMES = st.text(max_size=8) | st.sampled_from(['a "b" \\', "[{", "ann@example.org", "1" * 30, "\0", "é"])
COUNTS = st.integers(0, 10_000)
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | NAMES | st.integers(-(2**70), 2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
COMMON = {
    "id": st.uuids().map(str),
    "run_id": NAMES,
    "execution_id": st.uuids().map(str),
    "agent": NAMES,
    "trace_id": st.just(TRACE),
    "span_id": st.just(TRACE[:16]),
    "occurred_at": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
}
FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "call": (
        {"model": NAMES},
        {"input_tokens": COUNTS, "cost_usd": st.decimals(0, 9, places=3).map(str), "success": st.booleans()},
    ),
    "tool_call": ({"tool": st.just("find")}, {"arguments": VALUES, "output": VALUES, "error": NAMES}),
    "operation": ({"agent": st.just("a"), "operation": st.just("o"), "duration_ms": COUNTS}, {"metadata": VALUES}),
    "step": ({"agent": st.just("a"), "success": st.booleans()}, {"input": VALUES, "index": COUNTS}),
    "execution.started": ({"agent": st.just("a")}, {"inputs": VALUES, "task": NAMES}),
    "execution.heartbeat": ({"execution_id": st.uuids().map(str)}, {"progress": COUNTS}),
    "message": ({"conversation_id": st.just("c"), "role": st.just("user")}, {"content": NAMES, "data": VALUES}),
    "unheard of": ({}, {}),
}


@st.composite
def good(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(FIELDS)))
    required, others = FIELDS[name]
    optional = {field: values for field, values in (COMMON | others).items() if field not in required}
    fields = draw(st.fixed_dictionaries(required, optional=optional))
    return dict(draw(st.permutations(list({"type": name, **fields}.items()))))


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """An event with another value in the place of one, or beside all."""
    event = draw(good())
    return event | {draw(st.sampled_from([*event, "x", ""])): draw(VALUES)}


@st.composite
def written(draw: st.DrawFn) -> bytes:
    event = draw(good() | good() | changed())
    gaps = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :\r")]))
    return json.dumps(event, separators=gaps, ensure_ascii=draw(st.booleans())).encode(errors="replace")


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """An event with a few bytes changed, put in or cut off; it may name its type, or another, twice."""
    raw = bytearray(draw(written()))
    for at, byte in draw(
        st.lists(st.tuples(st.integers(0, 400), st.sampled_from(b'"\\{}[],:01a\0\xff\n ')), max_size=3)
    ):
        at %= len(raw)
        raw[at : at + draw(st.integers(0, 1))] = bytes([byte])
    twice = draw(st.sampled_from(["", *FIELDS]))
    if twice:
        raw = raw[:1] + json.dumps({"type": twice})[1:-1].encode() + b"," + raw[1:]
    return bytes(raw[: draw(st.sampled_from([len(raw), len(raw), len(raw) // 2]))])


RULES = st.sampled_from([None, Rule(pii=True, ips=True)])
EVENTS = st.lists(written() | broken() | st.binary(max_size=9), max_size=6)


def told(name: str, event: msgspec.Struct | Problem) -> Any:
    """What there is to know of an event that was read."""
    if isinstance(event, Problem):
        return event.status, event.body()
    assert isinstance(event, BODIES[name])
    digest = event.digest() if isinstance(event, Report) else b""
    return name, msgspec.structs.asdict(event), digest


def one_by_one(events: list[msgspec.Raw], rule: Rule | None) -> list[Any]:
    answers = []
    for raw in events:
        try:
            answers.append(told(*batch._event(bytes(raw), rule)))
        except Problem as problem:
            answers.append(told("", problem))
    return answers


def in_one_go(events: list[msgspec.Raw], rule: Rule | None) -> list[Any]:
    return [told(name, event) for name, event in batch.read(events, rule)]


def nested(levels: int) -> bytes:
    return b'{"type":"tool_call","tool":"t","arguments":' + b"[" * levels + b"]" * levels + b"}"


CALL = b'{"type":"call","model":"m"}'


@settings(max_examples=200, deadline=None)
@given(EVENTS, RULES)
@example([b'{"type":"call","model":"m","type":"step"}', b'{"type":"step","type":"call","model":"m"}'], None)
@example([b'{"type":"call","\\u0074ype":"step"}', b'{"\\u0074ype":"call"}'], None)
@example([CALL, nested(99), CALL], None)
@example([CALL, nested(100), CALL], None)
@example([CALL, nested(50_000)], None)
@example([CALL] * 200, None)
@example([b'{"type":"call","x":"\\u0000"}', CALL], None)
@example([b'{"type":"call","x":[-9223372036854775809]}', CALL], None)
@example([b'{"type":"tool_call","tool":"\\\\","output":"\\"["}', nested(99), b'{"type":"call","model":"]\\\\"}'], None)
@example([b'{"type":"call","model":"ann@example.org","error":"ann@example.org"}'], Rule(pii=True, ips=False))
def test_lines_say_together_what_each_says_alone(events: list[bytes], rule: Rule | None) -> None:
    lines = BatchBody.of_lines(b"\n".join(events)).events
    assert in_one_go(lines, rule) == one_by_one(lines, rule)


@settings(max_examples=200, deadline=None)
@given(EVENTS, RULES)
def test_events_of_a_document_say_together_what_each_says_alone(events: list[bytes], rule: Rule | None) -> None:
    try:
        held = BatchBody.of_document(b'{"events":[' + b",".join(events) + b"]}").events
    except Problem:
        return
    assert in_one_go(held, rule) == one_by_one(held, rule)


def test_reports_are_read_in_one_go() -> None:
    raws = [msgspec.Raw(json.dumps({"type": name} | fields).encode()) for name, fields in SMALLEST.items()]
    assert [type(event).__name__ for _, event in batch.read(raws, None)] == [
        *("CallEvent", "ToolCallEvent", "OperationEvent", "StepEvent"),
        *("NewExecution", "MessageEvent"),
    ]
    assert SMALLEST.keys() >= REPORTS.keys()


SMALLEST: dict[str, dict[str, Any]] = {
    "call": {},
    "tool_call": {"tool": "t"},
    "operation": {"agent": "a", "operation": "o", "duration_ms": 1},
    "step": {"agent": "a", "success": True},
    "execution.started": {"agent": "a"},
    "message": {"conversation_id": "c", "role": "user"},
}


def test_a_call_told_alone_and_in_a_batch_is_one(db: None) -> None:
    project = a_project()
    client = client_with(make_key(project)[1])
    call = {"id": str(uuid4()), "model": "gpt-4o", "input_tokens": 10}
    event = call | {"type": "call"}
    assert client.post("/api/v1/calls", call, content_type="application/json").status_code == 201
    answer = client.post("/api/v1/batch", {"events": [event]}, content_type="application/json")
    assert answer.json() == {"accepted": 0, "duplicates": 1, "rejected": []}
    answer = client.post("/api/v1/batch", {"events": [event | {"model": "o3"}]}, content_type="application/json")
    assert answer.json()["rejected"][0]["errors"][0]["field"] == "id"
    with tenant(project.pk):
        assert LedgerEntry.objects.count() == 1


def test_what_stands_for_a_report_is_the_same_in_every_version() -> None:
    """Ids that were taken by an older version are known by these bytes."""
    ((_, event),) = batch.read([msgspec.Raw(b'{"type":"call","model":"gpt-4o","input_tokens":10}')], None)
    assert isinstance(event, Report)
    assert event.digest() == REPORTS["call"](model="gpt-4o", input_tokens=10, id=UUID(int=7)).digest()
    assert event.digest().hex() == "c1228f7bbd7b0292d2def1473073d6d6"


MANY = 2_600_000


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"events":[' + b"1," * MANY + b"1]}"),
        ("application/json", b'{"n":[1,2],"\\u0065vents":[' + b"1," * MANY + b"1"),
        ("application/json", b'{"events":' + b'{"a":1},' * 10_000 + b"}"),
        ("application/x-ndjson", b"1\n" * MANY),
        ("application/x-ndjson", b" \n" * MANY),
    ],
    ids=["a document", "one cut off", "no document", "lines", "blank lines"],
)
def test_events_that_are_too_many_are_never_held_in_memory(kind: str, body: bytes) -> None:
    tracemalloc.start()
    with suppress(Problem):
        assert len(bodies.decode_as(kind, body, BatchBody).events) in (0, batch.MOST_EVENTS + 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One that is cut off is looked through for halves of characters, which takes copies of it.
    assert peak < 4 * len(body)


def test_as_many_events_as_may_come_are_read_whatever_is_in_them() -> None:
    numbers = json.dumps({"type": "step", "input": list(range(100_000))}).encode()
    events = [CALL] * (batch.MOST_EVENTS - 1) + [numbers]
    document = b'{"others":[' + b"1," * 50_000 + b'1],"events":[' + b" ,\n".join(events) + b"]}"
    blank = b"\n \r\n" * 100_000
    for kind, body in (("application/json", document), ("application/x-ndjson", blank + b"\r\n".join(events) + blank)):
        assert [bytes(raw).strip() for raw in bodies.decode_as(kind, body, BatchBody).events] == events


@pytest.mark.parametrize("events", [b"5", b"null", b'{"a":1}'])
def test_what_is_no_list_of_events_is_refused_however_long_it_is(events: bytes) -> None:
    for others in (b"1", b"1," * 20_000 + b"1"):
        with pytest.raises(Problem) as refused:
            BatchBody.of_document(b'{"others":[' + others + b'],"events":' + events + b"}")
        assert refused.value.errors[0]["field"] == "events"
