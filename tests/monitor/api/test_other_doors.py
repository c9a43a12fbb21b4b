"""The doors of ingest beside traces, over HTTP: logs, metrics, and what the Langfuse SDK calls."""

import base64
import gzip
import json
import zlib
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from prometheus_client.parser import text_string_to_metric_families

from monitor import doorcounts
from monitor.models import Project, Span, SpanLog
from monitor.tenancy import crossing, tenant
from tests.contract.recordings import as_of_now, others, requests
from tests.monitor.api.conftest import client_with, make_key, make_project
from tests.monitor.otlp_builders import as_json, as_protobuf, export, json_span, log, logs_export

PROTOBUF, JSON = "application/x-protobuf", "application/json"
ASKED = log("gen_ai.user.message", {"content": "Where is my lamp?"}, span=7)
LOGS = logs_export(ASKED, log("", "GET / 200", span=7), ASKED | {"spanId": ""})
METRICS = {
    "resourceMetrics": [
        {"scopeMetrics": [{"metrics": [{"name": "tokens", "sum": {"dataPoints": [{"asInt": "3"}, {"asInt": "4"}]}}]}]}
    ]
}


def post(client: Client, path: str, body: bytes, kind: str, coding: str | None = None) -> Any:
    headers = {"content-encoding": coding} if coding else {}
    return client.post(path, body, content_type=kind, headers=headers)


def count(name: str, **labels: str) -> float:
    """A sample as `/metrics` has it."""
    families = text_string_to_metric_families(Client().get("/metrics").content.decode())
    return next(one.value for family in families for one in family.samples if (one.name, one.labels) == (name, labels))


@pytest.fixture
def north(db: None) -> Project:
    return make_project("north")


@pytest.fixture
def client(north: Project) -> Client:
    return client_with(make_key(north)[1])


@pytest.mark.parametrize(
    ("kind", "body", "coding"),
    [
        (JSON, as_json(LOGS), None),
        (f"{JSON}; charset=utf-8", gzip.compress(as_json(LOGS), mtime=0), "gzip"),
        (PROTOBUF, as_protobuf(LOGS), None),
        (PROTOBUF, zlib.compress(as_protobuf(LOGS)), "deflate"),
    ],
    ids=["json", "json gzip", "protobuf", "protobuf deflate"],
)
def test_logs_are_taken_in_every_wire(north: Project, client: Client, kind: str, body: bytes, coding: str) -> None:
    before = [count("handrail_otlp_log_records_total", outcome=one) for one in ("kept", "rejected", "dropped")]
    answer = post(client, "/v1/logs", body, kind, coding)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind.partition(";")[0])
    if kind == PROTOBUF:
        told = ExportLogsServiceResponse.FromString(answer.content).partial_success
        refused, words = told.rejected_log_records, told.error_message
    else:
        told = answer.json()["partialSuccess"]
        refused, words = int(told["rejectedLogRecords"]), told["errorMessage"]
    assert (refused, words) == (1, "a log record: gen_ai.user.message: the span id is missing or is not 8 bytes")
    after = [count("handrail_otlp_log_records_total", outcome=one) for one in ("kept", "rejected", "dropped")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
    assert post(client, "/v1/traces", as_json(export(json_span(span=7))), JSON).json() == {}
    with tenant(north.pk):
        assert Span.objects.get().input == "Where is my lamp?"
        assert SpanLog.objects.count() == 1


def test_logs_of_which_nothing_is_kept_are_answered_in_full(client: Client) -> None:
    answer = post(client, "/v1/logs", as_protobuf(logs_export(log("", "GET / 200"))), PROTOBUF)
    assert (answer.status_code, answer.content) == (200, b"")
    for body in (b"{}", b'{"resourceLogs": null}'):
        assert post(client, "/v1/logs", body, JSON).json() == {}
    with crossing():
        assert SpanLog.objects.count() == 0


@pytest.mark.parametrize("value", [{"intValue": "abc"}, {"doubleValue": int("9" * 400)}], ids=["words", "huge"])
@pytest.mark.parametrize("place", ["resource", "span"])
def test_a_bad_attribute_of_a_trace_costs_no_other_span(
    north: Project, client: Client, place: str, value: dict[str, Any]
) -> None:
    bad = export(json_span(name="bad"))["resourceSpans"][0]
    part = bad["resource"] if place == "resource" else bad["scopeSpans"][0]["spans"][0]
    part["attributes"] = [{"key": "a", "value": value}]
    good = export(json_span(name="good"))["resourceSpans"][0]
    answer = post(client, "/v1/traces", as_json({"resourceSpans": [bad, good]}), JSON)
    assert (answer.status_code, answer.json()["partialSuccess"]["rejectedSpans"]) == (200, "1")
    with tenant(north.pk):
        assert Span.objects.get().name == "good"


def test_spans_are_counted_by_what_became_of_them(north: Project, client: Client) -> None:
    def counts() -> list[float]:
        return [count("handrail_otlp_spans_total", outcome=one) for one in ("kept", "repeated", "rejected")]

    before = counts()
    late = json_span(span=3) | {"startTimeUnixNano": "1600000000000000000", "endTimeUnixNano": "1600000000000000001"}
    bad = json_span(name="bad") | {"traceId": "00"}
    body = export(json_span(span=1), json_span(span=2), bad, late)
    post(client, "/v1/traces", as_json(body), JSON)
    post(client, "/v1/traces", as_protobuf(export(json_span(span=1))), PROTOBUF)
    assert [b - a for a, b in zip(before, counts(), strict=True)] == [2, 1, 2]
    told = doorcounts.refused(north.pk, now=datetime.now(UTC))
    assert told is not None
    assert (told.spans, told.exports) == (2, 0)
    assert told.reason.startswith("it started more than")


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs", "/v1/metrics", "/api/public/otel/v1/traces"])
def test_exports_that_are_refused_as_a_whole_are_counted(north: Project, client: Client, path: str) -> None:
    large = gzip.compress(b" " * (settings.MAX_OTLP_BYTES + 1), mtime=0)
    for body, coding, status, reason in (
        (b"{", None, 400, "the body is not an OTLP"),
        (large, "gzip", 413, f"A body may have {settings.MAX_OTLP_BYTES:,} bytes, counted after decompression."),
    ):
        before = count("handrail_otlp_exports_refused_total", status=str(status))
        assert post(client, path, body, JSON, coding).status_code == status
        assert count("handrail_otlp_exports_refused_total", status=str(status)) == before + 1
        told = doorcounts.refused(north.pk, now=datetime.now(UTC))
        assert told is not None
        assert told.reason.startswith(reason)
    assert (told.spans, told.exports) == (0, 2)


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs", "/v1/metrics", "/api/public/otel/v1/traces"])
def test_exports_without_a_key_that_may_send_are_counted(north: Project, path: str) -> None:
    for key, status in (("hr_of_nobody", 401), (make_key(north, scopes=["read"])[1], 403)):
        before = count("handrail_otlp_exports_refused_total", status=str(status))
        assert post(client_with(key), path, b"{}", JSON).status_code == status
        assert count("handrail_otlp_exports_refused_total", status=str(status)) == before + 1


@pytest.mark.parametrize("place", ["attributes", "body"])
def test_a_bad_value_of_a_log_record_costs_no_other_record(north: Project, client: Client, place: str) -> None:
    value = {"doubleValue": int("9" * 400)}
    bad = log("gen_ai.user.message", "x") | {
        place: value if place == "body" else [{"key": "a", "value": value}],
    }
    answer = post(client, "/v1/logs", as_json(logs_export(bad, ASKED)), JSON)
    assert (answer.status_code, answer.json()["partialSuccess"]["rejectedLogRecords"]) == (200, "1")
    with tenant(north.pk):
        assert SpanLog.objects.count() == 1


@pytest.mark.parametrize(
    ("kind", "body", "coding"),
    [
        (JSON, json.dumps(METRICS).encode(), None),
        (JSON, gzip.compress(json.dumps(METRICS).encode(), mtime=0), "gzip"),
    ],
)
def test_metrics_are_read_and_counted(client: Client, kind: str, body: bytes, coding: str | None) -> None:
    before = count("handrail_otlp_metric_points_total")
    answer = post(client, "/v1/metrics", body, kind, coding)
    assert (answer.status_code, answer.headers["Content-Type"], answer.json()) == (200, JSON, {})
    assert count("handrail_otlp_metric_points_total") - before == 2


def test_recorded_metrics_and_logs_are_answered_in_their_own_encoding(client: Client) -> None:
    for one in (*others("otel_openai_v2"), *others("traceloop_sdk"), *others("litellm_otel")):
        answer = post(client, one.path, one.body, one.content_type)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, PROTOBUF)
        kind = ExportLogsServiceResponse if one.path == "/v1/logs" else ExportMetricsServiceResponse
        assert not kind.FromString(answer.content).HasField("partial_success")


@pytest.mark.parametrize("path", ["/v1/traces", "/v1/logs", "/v1/metrics", "/api/public/otel/v1/traces"])
@pytest.mark.parametrize(
    ("kind", "body", "coding", "status"),
    [
        (PROTOBUF, b"\xff\xff\xff", None, 400),
        (JSON, b"{", None, 400),
        (JSON, b"[]", None, 400),
        (JSON, b'{"resourceSpans": 3, "resourceLogs": 3, "resourceMetrics": 3}', None, 400),
        (JSON, b"[" * 100_000, None, 400),
        (JSON, b"not gzip", "gzip", 400),
        (JSON, gzip.compress(b"{}", mtime=0)[:-4], "gzip", 400),
        (JSON, gzip.compress(b" " * (settings.MAX_OTLP_BYTES + 1), mtime=0), "gzip", 413),
        (JSON, b"{}", "br", 415),
        ("text/plain", b"{}", None, 415),
    ],
)
def test_what_cannot_be_read_is_a_problem(
    client: Client, path: str, kind: str, body: bytes, coding: str | None, status: int
) -> None:
    answer = post(client, path, body, kind, coding)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    assert answer.json()["detail"]


def basic(name: str, password: str) -> Client:
    credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
    return Client(headers={"authorization": f"Basic {credentials}"}, raise_request_exception=False)


def test_the_langfuse_sdk_signs_in_with_a_key_as_its_secret(north: Project) -> None:
    key = make_key(north, ["ingest"])[1]
    recorded = as_of_now(requests("langfuse_sdk")[0])
    client = basic("pk-lf-anything", key)
    projects = client.get("/api/public/projects")
    assert projects.status_code == 200
    [told] = projects.json()["data"]
    assert (told["id"], told["name"], told["organization"]["name"]) == (str(north.pk), "north", "Handrail")
    answer = post(client, "/api/public/otel/v1/traces", recorded.body, recorded.content_type)
    assert (answer.status_code, answer.content) == (200, b"")
    with tenant(north.pk):
        assert Span.objects.count() == 7


@pytest.mark.parametrize(
    "header", ["Basic", "Basic ", "Basic YTpi", "Basic !!!", "Basic /w==", "Basic 8J+YgA==", "Basic {key}"]
)
def test_credentials_that_are_none_open_nothing(north: Project, header: str) -> None:
    client = Client(headers={"authorization": header.format(key=make_key(north)[1])}, raise_request_exception=False)
    for path in ("/api/public/projects", "/api/public/otel/v1/traces"):
        assert client.generic("GET" if path.endswith("projects") else "POST", path).status_code == 401


def test_a_password_opens_no_other_door(north: Project) -> None:
    client = basic("any", make_key(north)[1])
    assert client.get("/api/v1/executions").status_code == 401
    assert client.post("/v1/traces", b"{}", content_type=JSON).status_code == 401


@pytest.mark.parametrize("path", ["scores", "ingestion", "v2/prompts/greeting", "media", "datasets", "x" * 300])
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_what_else_langfuse_has_is_a_clean_problem(client: Client, path: str, method: str) -> None:
    answer = client.generic(method, f"/api/public/{path}", b"[]", content_type=JSON)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert "it takes traces" in answer.json()["detail"]


# Lines


def lines(client: Client, body: bytes, kind: str = "application/x-ndjson", coding: str | None = None) -> Any:
    return post(client, "/api/v1/batch", body, kind, coding)


CALL = b'{"type": "call", "model": "gpt-4o", "input_tokens": 1000, "output_tokens": 100}'


def test_a_batch_may_have_an_event_a_line(north: Project, client: Client) -> None:
    body = b"\n".join(
        [CALL, b"", b"  \r", CALL + b"\r", b"{", b"", b'"x"', b"\xff", CALL.replace(b"call", b"cell"), CALL]
    )
    for coding, sent in ((None, body), ("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        answer = lines(client, sent, coding=coding)
        assert answer.status_code == 200, answer.content
        told = answer.json()
        assert (told["accepted"], told["duplicates"]) == (3, 0)
        assert [(one["index"], one["errors"][0]["field"]) for one in told["rejected"]] == [
            (2, "event"),
            (3, "body"),
            (4, "event"),
            (5, "type"),
        ]
    assert "not valid JSON" in told["rejected"][0]["errors"][0]["message"]
    with tenant(north.pk):
        assert Span.objects.count() == 9


@pytest.mark.parametrize("kind", ["application/x-ndjson; charset=utf-8", "application/ndjson"])
def test_lines_go_by_several_names_and_may_be_none(client: Client, kind: str) -> None:
    for body, accepted in ((CALL + b"\n", 1), (b"\n\n", 0)):
        assert lines(client, body, kind).json() == {"accepted": accepted, "duplicates": 0, "rejected": []}


def test_lines_have_the_limits_of_a_batch(client: Client) -> None:
    many = lines(client, gzip.compress(b"{}\n" * 10_001), coding="gzip")
    more = {"field": "events", "message": "may hold 10,000 events; these are more"}
    assert (many.status_code, many.json()["errors"]) == (400, [more])
    document = client.post("/api/v1/batch", {"events": [{}] * 10_001}, content_type="application/json")
    assert (document.status_code, document.json()["errors"]) == (400, [more])
    assert lines(client, gzip.compress(b"\n" * 5_242_881), coding="gzip").status_code == 413
    assert len(lines(client, b"x\n" * 10_000).json()["rejected"]) == 10_000
    assert lines(client, CALL, "text/csv").status_code == 415
