"""The least that a server can do with an export: decode it, COPY its spans, commit, answer. `uvicorn bench._bare:app`.

No key, no repeats, no prices, no sums: what a measurement of ingest is compared with.
"""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from psycopg.types.json import Jsonb

TABLE = """
CREATE TABLE IF NOT EXISTS bench_span (
    trace_id uuid, span_id bytea, parent_id bytea, name text, started_at timestamptz, ended_at timestamptz,
    status int4, attributes jsonb, PRIMARY KEY (trace_id, span_id)
)
"""
COPY = "COPY bench_span FROM STDIN (FORMAT BINARY)"
TYPES = ("uuid", "bytea", "bytea", "text", "timestamptz", "timestamptz", "int4", "jsonb")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_pool = ThreadPoolExecutor(10)
_own = threading.local()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Take one export."""
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if body:
        await asyncio.get_running_loop().run_in_executor(_pool, _keep, body)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _keep(body: bytes) -> None:
    session = getattr(_own, "session", None)
    if session is None:
        session = _own.session = psycopg.connect(os.environ["DATABASE_URL"])
    request = ExportTraceServiceRequest.FromString(body)
    with session.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.set_types(TYPES)
        for of_resource in request.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    attributes = {pair.key: _value(pair.value) for pair in span.attributes}
                    copy.write_row(
                        (
                            UUID(bytes=span.trace_id),
                            span.span_id,
                            span.parent_span_id,
                            span.name,
                            EPOCH + timedelta(microseconds=span.start_time_unix_nano // 1000),
                            EPOCH + timedelta(microseconds=span.end_time_unix_nano // 1000),
                            span.status.code,
                            Jsonb(attributes, msgspec.json.encode),
                        )
                    )
    session.commit()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
