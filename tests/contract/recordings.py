"""What real clients sent over OTLP, with what the model behind them had served."""

import gzip
import json
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from monitor import metering, otlp, spanrows
from monitor.bookings import Role, roles
from monitor.records import Rejection, Span, rank
from monitor.spanrows import Row

HERE = Path(__file__).parent / "otlp"


class Request(NamedTuple):
    body: bytes
    content_type: str
    content_encoding: str | None


def clients() -> list[str]:
    return sorted(folder.name for folder in HERE.iterdir() if folder.is_dir())


@cache
def requests(client: str) -> list[Request]:
    listed = json.loads((HERE / client / "requests.json").read_text())
    return [
        Request(
            gzip.decompress((HERE / client / one["body"]).read_bytes()),
            one["content_type"],
            one["content_encoding"],
        )
        for one in listed
    ]


def as_of_now(request: Request) -> Request:
    """A request in protobuf as if its last span had just ended: doors refuse what is too old."""
    message = ExportTraceServiceRequest.FromString(request.body)
    scopes = [scope for resource in message.resource_spans for scope in resource.scope_spans]
    spans = [span for scope in scopes for span in scope.spans]
    later_ns = time.time_ns() - max(max(span.start_time_unix_nano, span.end_time_unix_nano) for span in spans)
    for span in spans:
        span.start_time_unix_nano += later_ns
        # Of a span that goes on it is 0.
        span.end_time_unix_nano += later_ns if span.end_time_unix_nano else 0
        for event in span.events:
            event.time_unix_nano += later_ns
    return request._replace(body=message.SerializeToString())


class Other(NamedTuple):
    path: str
    body: bytes
    content_type: str


@cache
def others(client: str) -> list[Other]:
    """The logs and metrics that a client sent beside its traces, as far as they were kept."""
    listing = HERE / client / "others.json"
    listed = json.loads(listing.read_text()) if listing.exists() else []
    return [
        Other(one["path"], gzip.decompress((HERE / client / one["body"]).read_bytes()), one["content_type"])
        for one in listed
    ]


@cache
def mapped(client: str) -> tuple[list[Span], list[Rejection]]:
    """Every span of a client's requests, in the order in which they came."""
    spans: list[Span] = []
    rejections: list[Rejection] = []
    for request in requests(client):
        kept, refused = otlp.spans(otlp.decode(request.body, request.content_type))
        spans += kept
        rejections += refused
    return spans, rejections


def counted(spans: Iterable[Span]) -> list[tuple[Row, Role]]:
    """How each span counts once it is stored, by the newest version of each; what counts for nothing is left out."""
    traces: dict[str, dict[int, Row]] = {}
    for span in sorted(spans, key=rank):
        row = spanrows.row(1, span, now=span.started_at)
        traces.setdefault(row.trace_id, {})[row.span_id] = row
    return [
        (trace[span_id], role)
        for trace in traces.values()
        for span_id, role in roles(trace.values(), metering.parents(trace)).items()
    ]


@cache
def truth(client: str) -> list[dict]:
    lines = (HERE / client / "truth.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
