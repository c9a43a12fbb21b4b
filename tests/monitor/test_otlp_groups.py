"""Exports in JSON of which a group can't be read: what it holds is named, and every other group is kept."""

import json
import tracemalloc
from typing import Any

import pytest

from monitor import otlp, otlp_groups, otlp_logs
from monitor.otlp_parts import MOST_PARTS
from tests.monitor.otlp_builders import as_json, export, json_span, log, logs_export

SPANS = [json_span(span=n) for n in range(1, 5)]


def group(*spans: dict[str, Any], **other: Any) -> dict[str, Any]:
    return export(*spans)["resourceSpans"][0] | other


def pair(**value: Any) -> dict[str, Any]:
    return {"attributes": [{"key": "pid", "value": value}]}


def read(body: bytes) -> tuple[list[int], list[str]]:
    """The ids of the spans that are kept, and why others are not."""
    kept, refused = otlp.spans(otlp.decode(body, otlp.JSON))
    return [span.span_id for span in kept], [one.reason for one in refused]


def around(*bad: object) -> bytes:
    return as_json({"resourceSpans": [group(SPANS[0]), *bad, group(SPANS[1])]})


BAD_GROUPS: dict[str, tuple[object, list[str]]] = {
    "text that is a number": (group(*SPANS[2:], resource=pair(stringValue=5)), ["not a resource"] * 2),
    "bool in words": (group(*SPANS[2:], resource=pair(boolValue="true")), ["not a resource"] * 2),
    "no attributes": (group(SPANS[2], resource={"attributes": 5}), ["not a resource"]),
    "no resource": (group(SPANS[2], resource=[]), ["not a resource"]),
    "null": (None, ["not a group"]),
    "a number": (5, ["not a group"]),
    "no scopes": ({"scopeSpans": {}}, ["not a group"]),
    "nothing but bad": (group(resource=5), []),
}


@pytest.mark.parametrize("bad", BAD_GROUPS)
def test_a_bad_group_costs_no_other(bad: str) -> None:
    given, reasons = BAD_GROUPS[bad]
    kept, refused = read(around(given))
    assert kept == [1, 2]
    assert [reason.partition(":")[0] for reason in refused] == reasons


def test_a_number_out_of_range_costs_its_group() -> None:
    body = around(group(*SPANS[2:], resource=pair(doubleValue=0.5))).replace(b"0.5", b"1e999")
    kept, refused = read(body)
    assert (kept, len(refused)) == ([1, 2], 2)
    assert refused[0].startswith("not a resource: Number out of range")


@pytest.mark.parametrize("scope", [{"scope": {"name": 5}}, {"scope": 5}, {"spans": 5}, None, 5])
def test_a_bad_scope_costs_no_other_of_its_resource(scope: Any) -> None:
    spans = {"spans": SPANS[2:3]}
    bad = spans | scope if isinstance(scope, dict) else scope
    mixed = {"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "clerk"}}]}}
    mixed["scopeSpans"] = [*group(SPANS[0])["scopeSpans"], bad, *group(SPANS[1])["scopeSpans"]]
    request = otlp.decode(as_json({"resourceSpans": [mixed]}), otlp.JSON)
    kept, refused = otlp.spans(request)
    assert [(span.span_id, span.agent, span.scope) for span in kept] == [(1, "clerk", "tests"), (2, "clerk", "tests")]
    assert [one.reason.partition(":")[0] for one in refused] == ["not a group"]
    told = json.loads(otlp.partial_success(otlp.JSON, refused))["partialSuccess"]
    assert told["rejectedSpans"] == "1"
    assert told["errorMessage"].startswith("a span: not a group: Expected ")


def test_what_is_cut_or_too_deep_is_mended_beside_a_bad_group() -> None:
    bad = group(SPANS[2], resource=pair(stringValue=5))
    words = group(json_span(span=7, attributes={"said": "cut here"}))
    body = around(bad, words).replace(b"cut here", rb"\ud83d")
    assert read(body)[0] == [1, 7, 2]
    assert read(body.replace(rb"\ud83d", b"\xf0\x9f"))[0] == [1, 7, 2]
    deep = b'{"arrayValue":{"values":[' * 2_000 + b"]}}" * 2_000
    body = around(bad, group(json_span(span=7, attributes={"said": "deep"}))).replace(b'{"stringValue": "deep"}', deep)
    assert deep in body
    assert (read(body)[0], len(read(body)[1])) == ([1, 7, 2], 1)


@pytest.mark.parametrize("bad", [None, 5, {"scopeLogs": 5}, {"scopeLogs": [{"logRecords": 5}]}, {"scopeLogs": [5]}])
def test_a_bad_group_of_log_records_costs_no_other(bad: object) -> None:
    said = [log("gen_ai.user.message", {"content": "hello"}, span=n) for n in (1, 2)]
    first, last = (logs_export(one)["resourceLogs"][0] for one in said)
    found = otlp_logs.read(otlp_logs.decode(as_json({"resourceLogs": [first, bad, last]}), otlp.JSON))
    assert [one.span_id for one in found.messages] == [1, 2]
    assert [one.reason.partition(":")[0] for one in found.rejected] == ["not a group"]


def test_too_many_bad_groups_are_refused_with_the_others_and_take_no_memory() -> None:
    few = [None] * otlp_groups.MOST_UNREAD
    kept, refused = read(around(*few))
    assert (kept, len(refused)) == ([1, 2], len(few))
    body = around(*few, 5, *few * 500)
    tracemalloc.start()
    with pytest.raises(otlp.Malformed, match="is not an OTLP trace export in JSON"):
        otlp.decode(body, otlp.JSON)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(body)


def test_what_bad_groups_hold_is_counted_as_parts() -> None:
    spans = b",".join([b'{"a":1}'] * (MOST_PARTS // 5))
    body = around("spans", 5).replace(b'"spans",', b'{"resource":5,"scopeSpans":[{"spans":[' + spans + b"]}]},")
    with pytest.raises(otlp.Malformed, match="parts"):
        otlp.decode(body, otlp.JSON)


def test_what_is_no_export_at_all_is_refused_as_it_was() -> None:
    for body in (b'{"resourceSpans":5}', b'{"resourceSpans":[null', b'{"resourceSpans":[nul]}', b"[]", b"5"):
        with pytest.raises(otlp.Malformed):
            otlp.decode(body, otlp.JSON)
