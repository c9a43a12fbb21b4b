"""Programs that report while everything around them dies, and the truth of what they sent and were told.

Each sends until it is answered well, as exporters do; a few give up amid a request, and then all or nothing of it
may be there.
"""

import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import httpx

from tests.monitor.otlp_builders import as_json, as_protobuf, export, log, logs_export, pairs

# One token of gpt-4o in US dollars; test_ingest holds it against the price list.
IN_USD, OUT_USD = Decimal("0.0000025"), Decimal("0.00001")
MODEL = "gpt-4o"
TRY_AGAIN = {429, 502, 503, 504}
# What goes in and comes out of a call, as log records name it.
ASKED, ANSWERED = "gen_ai.user.message", "gen_ai.choice"
# These tell of everything twice; the others now and then.
TWICE = {"lines", "logs"}
ANSWER_WITHIN_S = 20.0
LONGEST_PAUSE_S = 2.0
# Longer than any part is ever away.
PATIENCE_S = 180.0


class Sums(NamedTuple):
    """What a trace is worth in the ledger."""

    calls: int = 0
    usd: Decimal = Decimal(0)
    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, other: "Sums") -> "Sums":
        return Sums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Body(NamedTuple):
    """One request, and the spans it tells of: (trace, span), the span "" where the server names it."""

    path: str
    content: bytes
    headers: dict[str, str]
    tells: tuple[tuple[str, str], ...]


class Truth:
    """What was sent, what was acknowledged, what is unknown, what each trace is worth, and what spans were told by
    log records: what went in, what came out."""

    def __init__(self) -> None:
        self.worth: dict[str, Sums] = {}
        self.words: dict[tuple[str, str], tuple[str, str]] = {}
        self.acknowledged: set[tuple[str, str]] = set()
        self.abandoned: list[Body] = []
        self.bodies: list[Body] = []
        self.statuses: Counter[str] = Counter()
        self.requests = 0
        self._lock = threading.Lock()

    def note(self, status: str) -> None:
        with self._lock:
            self.statuses[status] += 1

    def acknowledge(self, body: Body, refused: frozenset[int] = frozenset()) -> None:
        with self._lock:
            self.requests += 1
            self.bodies.append(body)
            self.acknowledged.update(one for n, one in enumerate(body.tells) if n not in refused)

    def abandon(self, body: Body) -> None:
        with self._lock:
            self.abandoned.append(body)

    def add(self, trace: str, worth: Sums) -> None:
        with self._lock:
            self.worth[trace] = worth

    def hear(self, words: dict[tuple[str, str], tuple[str, str]]) -> None:
        with self._lock:
            self.words |= words


class Sender:
    """One program: tells of work after work in its own way until it is told to stop, and then ends what it began."""

    def __init__(self, url: str, key: str, way: str, seed: str, truth: Truth, stop: threading.Event) -> None:
        self._rng = random.Random(seed)
        self._truth = truth
        self._stop = stop
        self._way = way
        self._client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=ANSWER_WITHIN_S)

    def run(self) -> None:
        ways = {
            "otlp": self._trace,
            "logs": self._logged,
            "batch": self._batch,
            "lines": self._batch,
            "call": self._call,
        }
        with self._client, ThreadPoolExecutor(2) as pair:
            while not self._stop.is_set():
                for body in ways[self._way]():
                    chance = self._rng.random()
                    if self._is_whole(body) and (chance < 0.03 or not self._truth.abandoned):
                        self._give_up(body)
                    elif chance < (0.5 if self._way in TWICE else 0.1):
                        # Told twice at once, as after a time-out that was too short.
                        list(pair.map(self._tell, (body, body)))
                    else:
                        self._tell(body)
                        if self._way in TWICE:
                            self._tell(body)

    def _is_whole(self, body: Body) -> bool:
        """Whether nothing else tells of its trace, and it can be there in part."""
        return body.headers.get("x-whole") == "yes" and len(body.tells) > 1

    def _give_up(self, body: Body) -> None:
        self._truth.abandon(body)
        try:
            self._client.post(body.path, content=body.content, headers=body.headers, timeout=self._rng.random() * 0.02)
        except httpx.TransportError:
            pass

    def _tell(self, body: Body) -> None:
        """Send until it is answered well."""
        pause_s, until_s = 0.05, time.monotonic() + PATIENCE_S
        while True:
            assert time.monotonic() < until_s, f"{body.path} was not taken within {PATIENCE_S} s"
            wait_s = pause_s
            try:
                answer = self._client.post(body.path, content=body.content, headers=body.headers)
            except httpx.TransportError as error:
                self._truth.note(type(error).__name__)
            else:
                self._truth.note(str(answer.status_code))
                if answer.is_success:
                    left = self._refused(body, answer)
                    self._truth.acknowledge(body, left)
                    if not left:
                        return
                elif answer.status_code in TRY_AGAIN:
                    wait_s = max(pause_s, float(answer.headers["retry-after"]))
                else:
                    raise AssertionError(f"{body.path} was answered {answer.status_code}: {answer.text[:500]}")
            time.sleep(wait_s * (0.5 + random.random() / 2))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _refused(self, body: Body, answer: httpx.Response) -> frozenset[int]:
        """The events of a batch that are to be sent again."""
        if body.path.startswith("/v1/"):
            assert answer.content in (b"", b"{}"), answer.content
            return frozenset()
        refused = answer.json().get("rejected", ())
        assert all(one["retryable"] for one in refused), refused
        return frozenset(one["index"] for one in refused)

    def _id(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128) | 1, version=4))

    def _usage(self) -> tuple[dict[str, Any], Sums]:
        """What a model call says of itself, and what it is worth; some senders reckon dearer than the price list."""
        taken, made = self._rng.randrange(1, 900), self._rng.randrange(1, 90)
        usd = taken * IN_USD + made * OUT_USD
        said: dict[str, Any] = {"input_tokens": taken, "output_tokens": made}
        if self._rng.random() < 0.2:
            usd += Decimal("0.0001")
            said["cost"] = str(usd)
        return said, Sums(1, usd, taken, made)

    def _logged(self) -> Iterator[Body]:
        """Calls whose words come as log records: before their spans, after them or between, each record once."""
        rng = self._rng
        trace, worth = UUID(self._id()).hex, Sums()
        spans, records, words = [], [], {}
        for number in range(1, 2 + rng.randrange(1, 8)):
            usage, sums = self._usage()
            spans.append(a_span(trace, number, None, _of_call(usage)))
            worth = worth.plus(sums)
            asked, answered = (f"{what} {rng.getrandbits(64):x} \u2713" for what in ("asked", "answered"))
            words[trace, f"{number:016x}"] = (asked, answered)
            records.append(log(ASKED, {"content": asked}, span=number, trace=trace))
            records.append(log(ANSWERED, {"content": answered}, span=number, trace=trace))
        self._truth.add(trace, worth)
        self._truth.hear(words)
        rng.shuffle(records)
        cuts = rng.randrange(1, 4)
        bodies = [self._otlp(spans, is_whole=False)]
        bodies += [
            self._export("/v1/logs", logs_export(*piece), ()) for n in range(cuts) if (piece := records[n::cuts])
        ]
        rng.shuffle(bodies)
        yield from bodies

    def _trace(self) -> Iterator[Body]:
        """A trace in pieces and in any order: an agent that repeats its children's usage, calls, some of which were
        told of by two instrumentations, tools, some of which cost; some told of before they ended."""
        rng = self._rng
        trace, worth = UUID(self._id()).hex, Sums()
        spans, early = [], []
        for number in range(2, 3 + rng.randrange(1, 12)):
            parent = rng.randrange(1, number) if rng.random() < 0.5 else 1
            if rng.random() < 0.3:
                cost = {"gen_ai.usage.cost": 0.001} if rng.random() < 0.3 else {}
                spans.append(a_span(trace, number, 1, {"gen_ai.operation.name": "execute_tool", **cost}))
                worth = worth.plus(Sums(1, Decimal("0.001"))) if cost else worth
                continue
            usage, sums = self._usage()
            said = _of_call(usage) | {"gen_ai.response.id": f"r-{trace}-{number}"}
            # A call below another would hide that one.
            spans.append(a_span(trace, number, 1, said))
            worth = worth.plus(sums)
            if rng.random() < 0.15:
                spans.append(a_span(trace, 100 + number, number, said))
            elif parent == 1 and rng.random() < 0.2:
                early.append(a_span(trace, number, 1, {"gen_ai.operation.name": "chat"}, is_open=True))
        total = {"input_tokens": worth.input_tokens or 1, "output_tokens": worth.output_tokens}
        spans.append(a_span(trace, 1, None, _of_call(total) | {"gen_ai.operation.name": "invoke_agent"}))
        if worth.calls == 0:
            worth = Sums(1, total["input_tokens"] * IN_USD + total["output_tokens"] * OUT_USD, *total.values())
        self._truth.add(trace, worth)
        rng.shuffle(spans)
        cuts = rng.randrange(1, 4)
        pieces = [piece for n in range(cuts) if (piece := spans[n::cuts])]
        if early:
            pieces.insert(rng.randrange(len(pieces) + 1), early)
        for piece in pieces:
            yield self._otlp(piece, is_whole=len(pieces) == 1)

    def _otlp(self, spans: list[dict[str, Any]], *, is_whole: bool) -> Body:
        request = export(*spans, resource={"service.name": f"{self._way}-agent"})
        body = self._export("/v1/traces", request, tuple((one["traceId"], one["spanId"]) for one in spans))
        if is_whole:
            body.headers["x-whole"] = "yes"
        return body

    def _export(self, path: str, request: dict[str, Any], tells: tuple[tuple[str, str], ...]) -> Body:
        in_json = self._rng.random() < 0.3
        content = as_json(request) if in_json else as_protobuf(request)
        headers = {"content-type": "application/json" if in_json else "application/x-protobuf"}
        if self._rng.random() < 0.3:
            content, headers["content-encoding"] = gzip.compress(content), "gzip"
        return Body(path, content, headers, tells)

    def _event(self) -> tuple[str, dict[str, Any]]:
        identity, (usage, sums) = self._id(), self._usage()
        trace = UUID(identity).hex
        said = {f"{name}_usd" if name == "cost" else name: given for name, given in usage.items()}
        self._truth.add(trace, sums)
        now = datetime.now(UTC).isoformat()
        return trace, {"id": identity, "model": MODEL, "agent": f"{self._way}-agent", "occurred_at": now, **said}

    def _batch(self) -> Iterator[Body]:
        events, tells = [], []
        for _ in range(self._rng.randrange(1, 40)):
            trace, said = self._event()
            if self._rng.random() < 0.3:
                said = {name: said[name] for name in ("id", "agent", "occurred_at")} | {"tool": "search"}
                self._truth.add(trace, Sums())
                events.append({"type": "tool_call", **said})
            else:
                events.append({"type": "call", **said})
            tells.append((trace, ""))
        if self._way == "lines":
            content, media_type = "\n".join(map(json.dumps, events)).encode(), "application/x-ndjson"
        else:
            content, media_type = json.dumps({"events": events}).encode(), "application/json"
        yield Body("/api/v1/batch", content, {"content-type": media_type}, tuple(tells))

    def _call(self) -> Iterator[Body]:
        trace, said = self._event()
        content = json.dumps(said).encode()
        yield Body("/api/v1/calls", content, {"content-type": "application/json"}, ((trace, ""),))


def _of_call(usage: dict[str, Any]) -> dict[str, Any]:
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": MODEL, "gen_ai.provider.name": "openai"}
    return said | {f"gen_ai.usage.{name}": given for name, given in usage.items()}


def a_span(
    trace: str, number: int, parent: int | None, attributes: dict[str, Any], *, is_open: bool = False
) -> dict[str, Any]:
    started_ns = time.time_ns() - 10**9
    span: dict[str, Any] = {
        "traceId": trace,
        "spanId": f"{number:016x}",
        "name": attributes["gen_ai.operation.name"],
        "startTimeUnixNano": str(started_ns),
        "attributes": pairs(attributes),
    }
    if parent is not None:
        span["parentSpanId"] = f"{parent:016x}"
    if not is_open:
        span["endTimeUnixNano"] = str(started_ns + 5 * 10**8)
    return span
