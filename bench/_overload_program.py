"""The load of bench/overload.py, in a process of its own: `flood` or `polite`, then the port, a key and the seconds.

Prints one line of JSON: how many answers of which status, and how long they took by what was asked.
"""

import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SPANS_OF_A_FLOOD, SPANS_OF_A_POLITE = 128, 16
EVERY_S = 0.1
TRACE = b"a trace's bytes."


def export(spans: int) -> bytes:
    """A trace of calls; the bytes of its id stand for those of any other."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    started_ns = time.time_ns() - 10**9
    for number in range(spans):
        span = scope.spans.add(trace_id=TRACE, span_id=(number + 1).to_bytes(8, "big"), name="chat")
        span.start_time_unix_nano, span.end_time_unix_nano = started_ns, started_ns + 10**8
        for name, text in (("gen_ai.operation.name", "chat"), ("gen_ai.request.model", "gpt-4o")):
            span.attributes.add(key=name).value.string_value = text
        for name, count in (("gen_ai.usage.input_tokens", 1000), ("gen_ai.usage.output_tokens", 100)):
            span.attributes.add(key=name).value.int_value = count
    return request.SerializeToString()


class Caller:
    """Asks on one connection after the other's answer, and notes what came."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key
        self.statuses: dict[str, Counter[int]] = defaultdict(Counter)
        self.lasted_ms: dict[str, list[float]] = defaultdict(list)

    async def ask(
        self, name: str, line: str, body: bytes, content_type: str, *, until_s: float, every_s: float
    ) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = f"{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\n"
        if body:
            head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        while time.monotonic() < until_s:
            began_s = time.monotonic()
            writer.write(head.encode() + b"\r\n" + body.replace(TRACE, os.urandom(16)))
            status, length = int((await reader.readline()).split()[1]), 0
            while (header := await reader.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            await reader.readexactly(length)
            lasted_s = time.monotonic() - began_s
            self.statuses[name][status] += 1
            if status < 300:
                self.lasted_ms[name].append(lasted_s * 1000)
            # Whoever is told to come back does so, but sooner than asked.
            await asyncio.sleep(max(0.0, every_s - lasted_s) if status < 300 else EVERY_S)
        writer.close()


async def main(way: str, port: int, key: str, seconds: float, more: str) -> None:
    caller, until_s = Caller(port, key), time.monotonic() + seconds
    traces: dict[str, Any] = {"line": "POST /v1/traces", "content_type": "application/x-protobuf", "until_s": until_s}
    if way == "flood":
        body = export(SPANS_OF_A_FLOOD)
        await asyncio.gather(*(caller.ask("traces", body=body, every_s=0, **traces) for _ in range(int(more))))
    else:
        plain: dict[str, Any] = {"body": b"", "content_type": "", "until_s": until_s, "every_s": EVERY_S}
        beat = plain | {"body": b'{"progress":1}', "content_type": "application/json"}
        await asyncio.gather(
            caller.ask("traces", body=export(SPANS_OF_A_POLITE), every_s=EVERY_S, **traces),
            caller.ask("heartbeat", f"POST /api/v1/executions/{more}/heartbeat", **beat),
            caller.ask("page", "GET /sign-in", **plain),
            caller.ask("health", "GET /health", **plain),
        )
    print(json.dumps({"statuses": caller.statuses, "lasted_ms": caller.lasted_ms}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), sys.argv[5]))
