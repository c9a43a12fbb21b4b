"""How many parts an export has: what takes two bytes to send takes microseconds and hundreds of bytes to read."""

from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from monitor.otlp_json import JsonRequest

MOST_PARTS = 250_000
OF_A_SPAN = 5


def protobuf_parts(message: ExportTraceServiceRequest) -> int:
    """The groups, spans, events, attributes and their values; counted no further than just above MOST_PARTS."""
    parts = len(message.resource_spans)
    for resource_spans in message.resource_spans:
        if parts > MOST_PARTS:
            return parts
        parts += len(resource_spans.scope_spans) + _values(resource_spans.resource.attributes, parts)
        for scope_spans in resource_spans.scope_spans:
            parts += OF_A_SPAN * len(scope_spans.spans)
            if parts > MOST_PARTS:
                return parts
            for span in scope_spans.spans:
                parts += len(span.events) + _values(span.attributes, parts)
                if parts > MOST_PARTS:
                    return parts
                for event in span.events:
                    parts += _values(event.attributes, parts)
    return parts


def _values(attributes: Any, before: int) -> int:
    """Of attributes, with what their lists hold; a list too many is not looked into."""
    parts = len(attributes)
    if before + parts > MOST_PARTS:
        return parts
    for attribute in attributes:
        parts += _inner(attribute.value, before + parts)
    return parts


def _inner(value: Any, before: int) -> int:
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return _values(value.kvlist_value.values, before)
    if kind != "array_value":
        return 0
    values = value.array_value.values
    parts = len(values)
    if before + parts > MOST_PARTS:
        return parts
    for one in values:
        parts += _inner(one, before + parts)
    return parts


def json_parts(request: JsonRequest) -> int:
    """The groups and spans; what is in a span is read quickly enough."""
    groups: Iterable[Any] = request.resource_spans or ()
    parts = len(request.resource_spans or ())
    for resource_spans in groups:
        parts += len(resource_spans.scope_spans or ())
        parts += sum(OF_A_SPAN * len(one.spans or ()) for one in resource_spans.scope_spans or ())
    return parts
