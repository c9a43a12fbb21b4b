"""A program with OpenTelemetry's own exporter as it comes: works for so many seconds and tells of every piece of it.

python exporter.py SECONDS SPANS_A_SECOND [LETTERS]

It prints how many spans it made; each tells an input of so many letters. The environment says where they go. On its
standard error it says when an export begins and ends.
"""

import sys
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult


class Telling(OTLPSpanExporter):
    """The exporter as it comes, which says what it does."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        sys.stderr.write("export begins\n")
        result = super().export(spans)
        sys.stderr.write(f"export ends: {result.name}\n")
        return result


def main(seconds: float, a_second: int, letters: int = 0) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Telling()))
    tracer = provider.get_tracer("tests")
    made, began_s = 0, time.monotonic()
    while (passed_s := time.monotonic() - began_s) < seconds:
        while made < passed_s * a_second:
            said = {"input.value": "x" * letters} if letters else None
            with tracer.start_as_current_span("work", attributes=said):
                made += 1
        time.sleep(0.01)
    provider.shutdown()
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), *map(int, sys.argv[2:]))
