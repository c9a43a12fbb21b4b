"""OTLP metrics: read so that a sender learns of a broken body, counted, and not kept."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from monitor import otlp_parts
from monitor.otlp import PROTOBUF, Signal, bounded, from_json, media_type_of, parsed

METRICS = Signal(ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints", "a data point")
KINDS = ("gauge", "sum", "histogram", "exponential_histogram", "summary")


class _Points(msgspec.Struct, rename="camel"):
    data_points: list[dict[str, Any]] | None = None


class _Metric(msgspec.Struct, rename="camel"):
    name: str | None = None
    gauge: _Points | None = None
    sum: _Points | None = None
    histogram: _Points | None = None
    exponential_histogram: _Points | None = None
    summary: _Points | None = None


class _ScopeMetrics(msgspec.Struct, rename="camel"):
    metrics: list[_Metric] | None = None


class _ResourceMetrics(msgspec.Struct, rename="camel"):
    scope_metrics: list[_ScopeMetrics] | None = None


class JsonMetrics(msgspec.Struct, rename="camel"):
    """A decoded export."""

    resource_metrics: list[_ResourceMetrics] | None = None


_metrics = msgspec.json.Decoder(JsonMetrics).decode


class MetricsRequest(NamedTuple):
    """The media type to answer in, and how many data points there were."""

    media_type: str
    points: int


def decode(body: bytes, content_type: str) -> MetricsRequest:
    """Parse an export by its media type; raises UnsupportedMediaType or Malformed."""
    media_type = media_type_of(content_type)
    if media_type == PROTOBUF:
        message = parsed(body, ExportMetricsServiceRequest, "an OTLP metrics export")
        bounded(body, message, otlp_parts.METRICS)
        return MetricsRequest(media_type, sum(_protobuf_points(message)))
    told = from_json(body, _metrics, "an OTLP metrics export")
    bounded(body, told, otlp_parts.METRICS)
    return MetricsRequest(media_type, sum(_json_points(told)))


def _protobuf_points(message: ExportMetricsServiceRequest) -> Iterator[int]:
    for resource_metrics in message.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                yield len(getattr(metric, kind).data_points) if kind else 0


def _json_points(message: JsonMetrics) -> Iterator[int]:
    for resource_metrics in message.resource_metrics or ():
        for scope_metrics in resource_metrics.scope_metrics or ():
            for metric in scope_metrics.metrics or ():
                for kind in KINDS:
                    points: _Points | None = getattr(metric, kind)
                    yield len(points.data_points or ()) if points else 0
