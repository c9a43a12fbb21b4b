"""OpenTelemetry: the spans of instrumented libraries find their execution, and nobody has to pass anything on."""

from __future__ import annotations

from contextvars import Token

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from handrail import _ids

EXECUTION_ID = "handrail.execution.id"


class Place:
    """Where an execution stands among the spans: at one of the program's, or at the top of a trace of its own."""

    def __init__(self, execution_id: str) -> None:
        self._execution_id = execution_id
        self._own: NonRecordingSpan | None = None
        self._token: Token[context.Context] | None = None

    def enter(self) -> None:
        """Mark the current span; where there is none, or another execution's, begin a trace of its own."""
        span = trace.get_current_span()
        if self._own is None and span.is_recording():
            marked = (getattr(span, "attributes", None) or {}).get(EXECUTION_ID)
            if marked in (None, self._execution_id):
                span.set_attribute(EXECUTION_ID, self._execution_id)
                return
        if self._own is None:
            # Sampled, so that samplers that follow their parent keep what is below.
            flags = TraceFlags(TraceFlags.SAMPLED)
            self._own = NonRecordingSpan(SpanContext(_ids.trace_id(), _ids.span_id(), False, flags))
        self._token = context.attach(trace.set_span_in_context(self._own))

    def leave(self) -> None:
        token, self._token = self._token, None
        # Left somewhere else than it was entered, there is nothing to put back.
        if token is not None and trace.get_current_span() is self._own:
            context.detach(token)

    def registered(self) -> dict[str, str]:
        """What the server is to know: the trace that is this execution's alone, if there is one."""
        return {} if self._own is None else _said(self._own.get_span_context())


def here() -> dict[str, str]:
    """The trace and span within which something is reported."""
    found = trace.get_current_span().get_span_context()
    return _said(found) if found.is_valid else {}


def _said(found: SpanContext) -> dict[str, str]:
    return {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"}
