"""Spans of instrumented libraries find their execution, whether the program has spans of its own or not."""

import asyncio
from collections.abc import Mapping

import handrail
from handrail import _ids
from handrail._transport import _quiet
from handrail.testing import Captured
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags


class Recorded(NonRecordingSpan):
    """A span as an SDK would keep it."""

    def __init__(self) -> None:
        super().__init__(SpanContext(_ids.trace_id(), _ids.span_id(), False, TraceFlags(TraceFlags.SAMPLED)))
        self.attributes: dict[str, object] = {}

    def is_recording(self) -> bool:
        return True

    def set_attribute(self, key: str, value: object) -> None:
        self.attributes[key] = value


def trace_id() -> str:
    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else ""


def said(captured: Captured, ex: handrail.Execution) -> Mapping[str, object]:
    return captured.execution(ex).said


def test_without_a_span_the_execution_begins_a_trace_of_its_own(captured: Captured) -> None:
    with handrail.execution("planner") as ex:
        span = trace.get_current_span().get_span_context()
        assert (span.is_valid, span.trace_flags.sampled) == (True, True)
        ex.call(model="m")
        within = trace_id()
    assert trace_id() == ""
    assert said(captured, ex)["trace_id"] == captured.calls[0]["trace_id"] == within
    assert said(captured, ex)["span_id"] == captured.calls[0]["span_id"]


def test_the_current_span_is_marked(captured: Captured) -> None:
    span = Recorded()
    with trace.use_span(span), handrail.execution("planner") as ex:
        ex.call(model="m")
        assert trace.get_current_span() is span
    assert span.attributes == {"handrail.execution.id": ex.id}
    assert "trace_id" not in said(captured, ex)
    assert captured.calls[0]["trace_id"] == f"{span.get_span_context().trace_id:032x}"


def test_a_span_belongs_to_the_first_that_marks_it(captured: Captured) -> None:
    span = Recorded()
    with trace.use_span(span):
        with handrail.execution("crew") as crew:
            with handrail.execution("helper") as helper:
                assert trace.get_current_span() is not span
            assert trace.get_current_span() is span
        with handrail.execution("next") as following:
            pass
    assert span.attributes == {"handrail.execution.id": crew.id}
    traces = {said(captured, one)["trace_id"] for one in (helper, following)}
    assert len(traces) == 2


def test_attempts_share_the_trace_of_their_execution(captured: Captured) -> None:
    traces = []
    for attempt in handrail.attempts("planner"):
        with attempt as ex:
            traces.append(trace_id())
            if len(traces) < 3:
                raise OSError("again")
    assert traces == [said(captured, ex)["trace_id"]] * 3
    assert trace_id() == ""


def test_tasks_side_by_side_keep_their_own(captured: Captured) -> None:
    async def work(name: str) -> tuple[str, handrail.Execution]:
        async with handrail.execution(name) as ex:
            await asyncio.sleep(0.01)
            return trace_id(), ex

    async def main() -> list[tuple[str, handrail.Execution]]:
        return await asyncio.gather(*(work(f"agent-{n}") for n in range(5)))

    found = asyncio.run(main())
    assert len({within for within, _ in found}) == 5
    assert all(said(captured, ex)["trace_id"] == within for within, ex in found)


def test_our_own_requests_are_nobodys_spans() -> None:
    quiet = _quiet()
    assert all(quiet.get(name) for name in ("suppress_instrumentation", "suppress_http_instrumentation"))
    assert not trace.get_current_span(quiet).get_span_context().is_valid
