"""OpenTelemetry over HTTP: traces are kept; metrics and logs are taken note of, so that exporters don't complain."""

from django.conf import settings
from django.http import HttpResponse
from django.http.request import UnreadablePostError
from django.urls import path
from prometheus_client import Counter

from monitor import groupcommit, otlp
from monitor.api.bodies import TooLarge, WrongType
from monitor.api.caller import Request
from monitor.api.door import Door, endpoint
from monitor.api.problems import Problem
from monitor.records import Rejection

MEDIA_TYPES = (otlp.PROTOBUF, otlp.JSON)
UNKEPT = Counter(
    "handrail_otlp_unkept_exports", "Exports of metrics and logs that were answered and not kept", ["signal"]
)


class Traces(Door):
    """Spans in protobuf or JSON; bad ones are named in `partial_success`, the others are kept."""

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False)
    def post(self, request: Request) -> HttpResponse:
        caller = request.caller
        decoded = _decoded(request)
        spans, rejected = otlp.spans(decoded)
        done = groupcommit.accept(caller.project_id, spans, now=request.now, department=caller.department)
        for one in done.rejected:
            span = spans[one.index]
            span_id = (span.span_id & (2**64 - 1)).to_bytes(8, "big").hex()
            rejected.append(Rejection(one.reason, span.trace_id.hex(), span_id, span.name))
        return HttpResponse(otlp.partial_success(decoded.media_type, rejected), content_type=decoded.media_type)


class Unkept(Door):
    """Metrics and logs: answered, counted, dropped."""

    signal = ""

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, bound=False)
    def post(self, request: Request) -> HttpResponse:
        UNKEPT.labels(self.signal).inc()
        is_json = (request.content_type or "").startswith(otlp.JSON)
        return HttpResponse(b"{}" if is_json else b"", content_type=otlp.JSON if is_json else otlp.PROTOBUF)


def _decoded(request: Request) -> otlp.TracesRequest:
    limit = settings.MAX_BODY_BYTES
    try:
        raw = request.read(limit + 1)
        body = otlp.inflate(raw, request.headers.get("Content-Encoding"), limit=limit)
        return otlp.decode(body, request.headers.get("Content-Type", ""))
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
    path("v1/metrics", Unkept.as_view(signal="metrics")),
    path("v1/logs", Unkept.as_view(signal="logs")),
    path("api/public/otel/v1/traces", Traces.as_view()),
]
