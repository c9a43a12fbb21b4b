"""OpenTelemetry over HTTP: traces are kept, logs complete them, metrics are read and counted."""

from collections.abc import Callable
from typing import TypeVar

from django.conf import settings
from django.http import HttpResponse
from django.http.request import UnreadablePostError
from django.urls import path

from monitor import doorcounts, groupcommit, masking, otlp, otlp_logs, otlp_metrics, spanlogs
from monitor.api.bodies import TooLarge, WrongType
from monitor.api.caller import Request
from monitor.api.door import Door, endpoint
from monitor.api.problems import Problem
from monitor.deadlocks import unhindered
from monitor.records import Rejection

T = TypeVar("T")
MEDIA_TYPES = (otlp.PROTOBUF, otlp.JSON)


class Traces(Door):
    """Spans in protobuf or JSON; bad ones are named in `partial_success`, the others are kept."""

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False, grows=True)
    def post(self, request: Request) -> HttpResponse:
        caller = request.caller
        decoded = _decoded(request, otlp.decode)
        spans, rejected = otlp.spans(decoded)
        if caller.rule:
            spans = [masking.span(one, caller.rule) for one in spans]
        done = groupcommit.accept(caller.project_id, spans, now=request.now, department=caller.department)
        for one in done.rejected:
            span = spans[one.index]
            span_id = (span.span_id & (2**64 - 1)).to_bytes(8, "big").hex()
            rejected.append(Rejection(one.reason, span.trace_id.hex(), span_id, span.name))
        return HttpResponse(otlp.partial_success(decoded.media_type, rejected), content_type=decoded.media_type)


class Logs(Door):
    """Log records in protobuf or JSON; messages of a model or a tool complete their span, the others are dropped.

    Messages that name no span are counted in `partial_success`.
    """

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False, grows=True)
    def post(self, request: Request) -> HttpResponse:
        project_id = request.caller.project_id
        decoded = _decoded(request, otlp_logs.decode)
        messages, rejected, others = otlp_logs.read(decoded)
        if messages:
            unhindered(project_id, lambda: spanlogs.accept(project_id, messages, now=request.now))
        doorcounts.count({"logs kept": len(messages), "logs rejected": len(rejected), "logs dropped": others})
        answer = otlp.partial_success(decoded.media_type, rejected, otlp_logs.LOGS)
        return HttpResponse(answer, content_type=decoded.media_type)


class Metrics(Door):
    """Metrics in protobuf or JSON: read, counted, and not kept; spans tell the same to the unit."""

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False)
    def post(self, request: Request) -> HttpResponse:
        decoded = _decoded(request, otlp_metrics.decode)
        doorcounts.count({"metric points": decoded.points})
        answer = otlp.partial_success(decoded.media_type, [], otlp_metrics.METRICS)
        return HttpResponse(answer, content_type=decoded.media_type)


def _decoded(request: Request, decode: Callable[[bytes, str], T]) -> T:
    limit = settings.MAX_BODY_BYTES
    try:
        raw = request.read(limit + 1)
        body = otlp.inflate(raw, request.headers.get("Content-Encoding"), limit=limit)
        return decode(body, request.headers.get("Content-Type", ""))
    except UnreadablePostError as error:
        raise Problem(400, "Bad request", "The body ended early.") from error
    except otlp.TooLarge as error:
        raise TooLarge(limit) from error
    except (otlp.UnsupportedMediaType, otlp.UnsupportedEncoding) as error:
        raise WrongType(str(error)) from error
    except otlp.Malformed as error:
        raise Problem(400, "Bad request", str(error)) from error


urlpatterns = [
    path("v1/traces", Traces.as_view()),
    path("v1/metrics", Metrics.as_view()),
    path("v1/logs", Logs.as_view()),
]
