"""Bad input of every kind: a clear problem that names the field, never a 500."""

import gzip
import json
import zlib
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

from monitor.api import bodies
from monitor.api.problems import Problem
from monitor.nesting import nests_deeper_than

CALLS = "/api/v1/sample/calls"
AGENTS = "/api/v1/sample/agents"
JSON = "application/json"


def deep(levels: int) -> bytes:
    return b'{"calls":[],"data":' + b"[" * levels + b"]" * levels + b"}"


def by_turns(levels: int) -> bytes:
    """The same with lists in objects in lists."""
    pairs, odd = divmod(levels, 2)
    value = b'[{"a":' * pairs + b"[]" * odd + b"1" * (not odd) + b"}]" * pairs
    return b'{"calls":[],"data":' + value + b"}"


BODIES = [
    (b"", 400, "calls", "is required"),
    (b"   ", 400, "calls", "is required"),
    (b"{", 400, None, "not valid JSON"),
    (b"nonsense", 400, None, "not valid JSON"),
    (b"null", 400, "body", "Expected object, got null"),
    (b"[]", 400, "body", "Expected object, got array"),
    (b"{}", 400, "calls", "is required"),
    (b'{"calls":3}', 400, "calls", "Expected array, got int"),
    (b'{"calls":[{"model":"a"},{}]}', 400, "calls[1].model", "is required"),
    (b'{"calls":[{"model":""}]}', 400, "calls[0].model", "Expected str of length >= 1"),
    (b'{"calls":[{"model":"' + b"x" * 51 + b'"}]}', 400, "calls[0].model", "Expected str of length <= 50"),
    (b'{"calls":[{"model":"a","input_tokens":-1}]}', 400, "calls[0].input_tokens", "Expected int >= 0"),
    (b'{"calls":[{"model":"a","input_tokens":1e30}]}', 400, "calls[0].input_tokens", "Expected int, got float"),
    (b'{"calls":[{"model":"a","input_tokens":' + b"9" * 30 + b"}]}", 400, "calls[0].input_tokens", "int <= 2147483647"),
    (b'{"calls":[{"model":"a","input_tokens":"3"}]}', 400, "calls[0].input_tokens", "Expected int, got str"),
    (b'{"calls":[{"model":"a","at":"2026-01-01T00:00:00"}]}', 400, "calls[0].at", "timezone"),
    (b'{"calls":[{"model":"a","at":"yesterday"}]}', 400, "calls[0].at", "Invalid RFC3339"),
    (b'{"calls":[{"model":"a\\u0000b"}]}', 400, "calls[0].model", "NUL"),
    (b'{"calls":[],"data":{"a":[1,{"b":"\\u0000"}]}}', 400, "data.a[1].b", "NUL"),
    (b'{"calls":[],"data":{"a\\u0000":1}}', 400, "data", "NUL"),
    (b'{"calls":[{"model":"a\x00b"}]}', 400, None, "not valid JSON"),
    (b'{"calls":[{"model":"\xff"}]}', 400, None, "UTF-8"),
    (b'{"calls":[{"model":"\\ud800"}]}', 400, None, "not valid JSON"),
    (b'{"calls":[],"data":NaN}', 400, None, "not valid JSON"),
    (b'{"calls":[],"data":1e999}', 400, "data", "out of range"),
    (b'{"calls":[],"data":{"n":' + b"9" * 25 + b"}}", 400, "data.n", "64 bits"),
    (b'{"calls":[],"data":' + b"9" * 5000 + b"}", 400, "data", "out of range"),
    (deep(100), 400, None, "nests deeper"),
    (by_turns(100), 400, None, "nests deeper"),
    (by_turns(199), 400, None, "nests deeper"),
    (deep(900), 400, None, "nests deeper"),
    (deep(100_000), 400, None, "nests deeper"),
    (b'{"calls":[]} trailing', 400, None, "not valid JSON"),
    (b" " * (settings.MAX_BODY_BYTES + 1), 413, None, "5,242,880 bytes"),
]


def problem(answer: Any) -> tuple[int, str | None, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    field = body["errors"][0]["field"] if "errors" in body else None
    return answer.status_code, field, body["detail"]


@pytest.mark.parametrize(("raw", "status", "field", "words"), BODIES, ids=[repr(raw[:45]) for raw, *_ in BODIES])
def test_a_bad_body_is_refused_with_its_field(
    api: Client, raw: bytes, status: int, field: str | None, words: str
) -> None:
    got = problem(api.post(CALLS, raw, content_type=JSON))
    assert got[:2] == (status, field)
    assert words in got[2]


@pytest.mark.parametrize(
    ("raw", "counted"),
    [
        (b'{"calls":[{"model":"a"}]}', 1),
        (b'{"calls":[],"unknown":true}', 0),
        (b'{"calls":[],"data":"\\\\u0000 is not a NUL"}', 0),
        (b'{"calls":[],"data":["1234567890123456789012345", 9223372036854775807]}', 0),
        (b'{"calls":[],"data":"' + b"[{" * 500 + b'"}', 0),
        (b'{"calls":[],"data":["ends in a line\\n","' + b"[{" * 500 + b'","\\\\"]}', 0),
        (b'{"calls":[],"data":[' + b",".join([b"[]"] * 500) + b"]}", 0),
        (deep(99), 0),
        (by_turns(99), 0),
    ],
)
def test_what_only_looks_bad_passes(api: Client, raw: bytes, counted: int) -> None:
    answer = api.post(CALLS, raw, content_type=JSON)
    assert (answer.status_code, answer.json().get("count")) == (201, counted)


TEXTS = st.text('"\\[]{}:,- 0\0a', max_size=6) | st.sampled_from(["1" * 19, "- " + "1" * 30, "\\u0000"])
VALUES = st.recursive(
    TEXTS
    | st.sampled_from([None, True, 0.1, 1e22, 1234567.0123456789, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**19]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3)
GAPS = st.sampled_from([(",", ":"), (", ", ": "), ("\n,\t", "\r: ")])


def levels_of(value: Any) -> int:
    """How many objects and lists stand one in the other."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(levels_of, value.values() if isinstance(value, dict) else value), default=0)


def passes(raw: bytes) -> bool:
    try:
        bodies.check(raw)
    except Problem:
        return False
    return True


@trying(max_examples=300, deadline=None)
@given(VALUES, GAPS, st.booleans(), st.integers(0, 6))
def test_what_the_bytes_tell_is_what_a_walk_finds(
    value: Any, gaps: tuple[str, str], is_ascii: bool, levels: int
) -> None:
    raw = json.dumps(value, separators=gaps, ensure_ascii=is_ascii).encode()
    assert nests_deeper_than(raw, levels) == (levels_of(value) > levels)
    assert passes(raw) == (not list(bodies.faults(value)))


@trying(max_examples=300, deadline=None)
@given(st.lists(OBJECTS, max_size=4), GAPS, st.integers(0, 6))
def test_many_objects_nest_as_deep_as_the_deepest(
    objects: list[dict[str, Any]], gaps: tuple[str, str], levels: int
) -> None:
    raws = [json.dumps(one, separators=gaps).encode() for one in objects]
    deepest = max(map(levels_of, objects), default=0)
    assert nests_deeper_than(b"\n".join(raws), levels, objects=len(raws)) == (deepest > levels)
    if bodies.are_fit(raws):
        assert all(map(passes, raws))


def test_what_is_fit_is_not_asked_one_by_one() -> None:
    plain = b'{"id":"0af7651916cd43dd8448eb211c80319c","n":12345,"deep":' + b"[" * 98 + b"]" * 98 + b"}"
    long = b'{"id":"1111111111111111111111111","text":"12,1111111111111111111"}'
    assert bodies.are_fit([plain] * 500)
    assert bodies.are_fit([])
    assert not bodies.are_fit([plain, long])
    assert not bodies.are_fit([plain, deep(101)])
    assert not bodies.are_fit([plain, b'{"a":-9223372036854775809}'])
    assert not bodies.are_fit([plain, b'{"a":"\\u0000"}'])


def test_times_are_answered_in_utc(api: Client) -> None:
    body = {"calls": [{"model": "a", "at": "2026-01-01T02:00:00+02:00"}]}
    assert api.post(CALLS, body, content_type=JSON).json()["at"] == "2026-01-01T00:00:00Z"


def test_an_empty_body_is_an_empty_object_where_nothing_is_required(api: Client) -> None:
    answer = api.delete(AGENTS)
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", ""])
def test_another_media_type_is_a_415(api: Client, content_type: str) -> None:
    got = problem(api.generic("POST", CALLS, b'{"calls":[]}', content_type=content_type))
    assert got[0] == 415
    assert "application/json" in got[2]


# Compressed bodies

GOOD = b'{"calls":[{"model":"a"}]}'


def post_as(api: Client, coding: str, raw: bytes) -> Any:
    return api.post(CALLS, raw, content_type=JSON, headers={"content-encoding": coding})


@pytest.mark.parametrize(
    ("coding", "raw"),
    [
        ("gzip", gzip.compress(GOOD, mtime=0)),
        ("GZIP", gzip.compress(GOOD, mtime=0)),
        ("x-gzip", gzip.compress(GOOD, mtime=0)),
        ("gzip", gzip.compress(GOOD[:9], mtime=0) + gzip.compress(GOOD[9:], mtime=0)),
        ("deflate", zlib.compress(GOOD)),
        ("identity", GOOD),
    ],
)
def test_a_compressed_body_is_read(api: Client, coding: str, raw: bytes) -> None:
    assert post_as(api, coding, raw).json()["count"] == 1


@pytest.mark.parametrize(
    ("coding", "raw", "status", "words"),
    [
        ("gzip", GOOD, 400, "not valid gzip"),
        ("gzip", gzip.compress(GOOD, mtime=0)[:-9], 400, "ended early"),
        ("deflate", gzip.compress(GOOD, mtime=0), 400, "not valid deflate"),
        ("br", GOOD, 415, "gzip, deflate or identity"),
        ("gzip", gzip.compress(b" " * (settings.MAX_BODY_BYTES + 1), mtime=0), 413, "after decompression"),
        ("gzip", gzip.compress(b"", mtime=0) * 200_000, 400, "has more than 100 members"),
        ("gzip", gzip.compress(b" " * 3_000_000, mtime=0) * 2, 413, "after decompression"),
    ],
)
def test_a_bad_compression_is_refused(api: Client, coding: str, raw: bytes, status: int, words: str) -> None:
    got = problem(post_as(api, coding, raw))
    assert got[0] == status
    assert words in got[2]


def test_a_body_that_lies_about_its_length_is_refused_unread(api: Client) -> None:
    answer = api.post(CALLS, GOOD, content_type=JSON, CONTENT_LENGTH=str(settings.MAX_BODY_BYTES + 1))
    assert answer.status_code == 413


# Queries and paths


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("limit=0", "limit", ">= 1"),
        ("limit=501", "limit", "<= 500"),
        ("limit=ten", "limit", "Expected int"),
        ("limit=", "limit", "Expected int"),
        ("limit=1&limit=2", "limit", "once"),
        ("limit=" + "9" * 400, "limit", ""),
        ("colour=red", "colour", "there are cursor, limit, name, type"),
        ("type=a%00b", "type", "NUL"),
        ("name=a&name=%00", "name", "NUL"),
        ("cursor=x", "cursor", "not one"),
        ("cursor=!!!", "cursor", "not one"),
        ("cursor=%C3%A9", "cursor", "not one"),
        ("cursor=bnVsbA", "cursor", "not one"),
        ("cursor=W10", "cursor", "not one"),
        ("cursor=WzEsMl0", "cursor", "not one"),
        ("cursor=W251bGwsbnVsbF0", "cursor", "not one"),
        ("cursor=WyIyMDI2LTAxLTAxIiwieCJd", "cursor", "not one"),
        ("cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwWiIsIDFlNDAwXQ", "cursor", "not one"),
        ("cursor=" + "W" * 2001, "cursor", "<= 2000"),
    ],
)
def test_a_bad_query_is_refused_with_its_parameter(api: Client, query: str, field: str, words: str) -> None:
    got = problem(api.get(f"{AGENTS}?{query}"))
    assert got[:2] == (400, field)
    assert words in got[2]


def test_a_call_without_parameters_takes_none(api: Client) -> None:
    assert problem(api.get("/api/v1/sample/who/x?a=1"))[:2] == (400, "a")


def test_a_nul_in_a_path_is_nowhere(api: Client) -> None:
    assert problem_status(api.get("/api/v1/sample/who/%00")) == 404


@pytest.mark.parametrize("method", ["put", "patch", "options", "trace"])
def test_another_method_is_a_405_that_names_the_right_ones(api: Client, method: str) -> None:
    answer = getattr(api, method)(AGENTS)
    assert problem(answer)[0] == 405
    assert answer.headers["Allow"] == "GET, POST, DELETE, HEAD"


def problem_status(answer: Any) -> int:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code


# What PostgreSQL refuses by itself


@pytest.mark.parametrize(
    ("sql", "status", "words"),
    [
        ("SELECT 1/0", 400, "division by zero"),
        ("SELECT 'x'::int", 400, "invalid input syntax"),
        ("SELECT 99999999999::int", 400, "out of range"),
        ("SELECT '\\u0000'::jsonb", 400, "type json"),
        ("UPDATE monitor_project SET name = NULL", 400, "name"),
        (
            "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'check_violation', CONSTRAINT = 'a_is_b'; END $$",
            400,
            "a is b",
        ),
        (
            "CREATE TEMP TABLE a_day (at date) PARTITION BY RANGE (at); INSERT INTO a_day VALUES (now())",
            503,
            "nothing was stored",
        ),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'unique_violation', CONSTRAINT = 'a_b'; END $$", 409, "a b"),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'foreign_key_violation'; END $$", 409, "does not exist"),
        ("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'deadlock_detected'; END $$", 503, "nothing was stored"),
        ("SET LOCAL statement_timeout = 5; SELECT pg_sleep(5)", 503, "nothing was stored"),
    ],
)
def test_a_refusal_of_the_database_is_a_problem(api: Client, sql: str, status: int, words: str) -> None:
    answer = api.post("/api/v1/sample/store", {"name": sql}, content_type=JSON)
    got = problem(answer)
    assert got[0] == status
    assert words in got[2]
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_move_that_the_database_forbids_is_a_409(api: Client) -> None:
    sql = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'check_violation', "
    sql += "CONSTRAINT = 'monitor_execution_moves_only_as_listed'; END $$"
    assert problem(api.post("/api/v1/sample/store", {"name": sql}, content_type=JSON))[0] == 409
