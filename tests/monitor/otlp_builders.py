"""Plain builders of OTLP exports, written as the JSON form and turned into protobuf when asked."""

import base64
import json
import time
from itertools import count
from typing import Any

from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

# An hour ago: doors refuse what is too old and what lies ahead.
START_NS = (int(time.time()) - 3600) * 10**9
TRACE = "5b8efff798038103d269b633813fc60c"
_ids = count(1)


def value(given: Any) -> dict:
    if isinstance(given, bool):
        return {"boolValue": given}
    if isinstance(given, int):
        return {"intValue": given}
    if isinstance(given, float):
        return {"doubleValue": given}
    if isinstance(given, bytes):
        return {"bytesValue": base64.b64encode(given).decode()}
    if isinstance(given, list):
        return {"arrayValue": {"values": [value(one) for one in given]}}
    if isinstance(given, dict):
        return {"kvlistValue": {"values": pairs(given)}}
    return {"stringValue": given}


def pairs(given: dict) -> list[dict]:
    return [{"key": key, "value": value(one)} for key, one in given.items()]


def json_span(
    *,
    name: str = "work",
    span: int | None = None,
    parent: int | None = None,
    trace: str = TRACE,
    lasted_ms: int | None = 1000,
    attributes: dict | None = None,
    events: list[tuple[str, int, dict]] = (),
    status: dict | None = None,
) -> dict:
    built: dict[str, Any] = {
        "traceId": trace,
        "spanId": f"{span or next(_ids):016x}",
        "name": name,
        "startTimeUnixNano": str(START_NS),
        "attributes": pairs(attributes or {}),
        "events": [
            {"name": title, "timeUnixNano": str(START_NS + at_ms * 10**6), "attributes": pairs(said)}
            for title, at_ms, said in events
        ],
        "status": status or {},
    }
    if parent is not None:
        built["parentSpanId"] = f"{parent:016x}"
    if lasted_ms is not None:
        built["endTimeUnixNano"] = str(START_NS + lasted_ms * 10**6)
    return built


def export(*spans: dict, resource: dict | None = None, scope: str = "tests") -> dict:
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": pairs(resource or {})},
                "scopeSpans": [{"scope": {"name": scope}, "spans": list(spans)}],
            }
        ]
    }


def log(
    name: str,
    body: Any = None,
    *,
    span: int = 1,
    trace: str = TRACE,
    at_ms: int = 0,
    attributes: dict | None = None,
) -> dict:
    built = {
        "traceId": trace,
        "spanId": f"{span:016x}",
        "observedTimeUnixNano": str(START_NS + at_ms * 10**6),
        "eventName": name,
        "attributes": pairs(attributes or {}),
    }
    return built if body is None else built | {"body": value(body)}


def logs_export(*records: dict) -> dict:
    return {
        "resourceLogs": [{"resource": {}, "scopeLogs": [{"scope": {"name": "tests"}, "logRecords": list(records)}]}]
    }


def as_json(request: dict) -> bytes:
    return json.dumps(request).encode()


def as_protobuf(request: dict) -> bytes:
    copied = json.loads(json.dumps(request))
    for resource in copied.get("resourceSpans") or copied["resourceLogs"]:
        for scope in resource.get("scopeSpans") or resource["scopeLogs"]:
            for one in scope.get("spans") or scope["logRecords"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in one:
                        one[key] = base64.b64encode(bytes.fromhex(one[key])).decode()
    message = ExportTraceServiceRequest() if "resourceSpans" in copied else ExportLogsServiceRequest()
    return ParseDict(copied, message).SerializeToString()
