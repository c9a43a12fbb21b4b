"""OpenTelemetry over HTTP: traces are kept, logs complete them, metrics are read and counted."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from django.conf import settings
from django.http import HttpResponse
from django.urls import path

from monitor import doorcounts, masking, otlp, otlp_logs, otlp_metrics, spanlogs
from monitor.api import bodies, salvage
from monitor.api.bodies import WrongType
from monitor.api.caller import Request
from monitor.api.door import Contract, Door, endpoint
from monitor.api.problems import Forbidden, Problem, Unauthenticated
from monitor.deadlocks import unhindered
from monitor.otlp_logs import Message
from monitor.records import Rejection, Span

T = TypeVar("T")
MEDIA_TYPES = (otlp.PROTOBUF, otlp.JSON)


class Export(Door):
    """A door for exports: whom it does not let in for good is counted, for most programs show nothing of it."""

    def admit(self, request: Request, contract: Contract, path: Mapping[str, Any]) -> None:
        """As any door does."""
        try:
            super().admit(request, contract, path)
        except (Unauthenticated, Forbidden) as problem:
            doorcounts.count({f"exports {problem.status}": 1})
            raise


class Traces(Export):
    """Spans in protobuf or JSON; bad ones are named in `partial_success`, the others are kept."""

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False, grows=True)
    def post(self, request: Request) -> HttpResponse:
        caller = request.caller
        decoded = _decoded(request, otlp.decode)
        spans, rejected = otlp.spans(decoded)
        if caller.rule:
            spans = [masking.span(one, caller.rule) for one in spans]
        done = salvage.accept(caller.project_id, spans, now=request.now, department=caller.department)
        for one in done.rejected:
            rejected.append(_unkept(spans[one.index], one.reason))
        doorcounts.count(
            {"spans kept": done.accepted, "spans repeated": done.duplicates, "spans rejected": len(rejected)}
        )
        if rejected:
            doorcounts.refuse(caller.project_id, rejected[-1].reason, spans=len(rejected), now=request.now)
        return HttpResponse(otlp.partial_success(decoded.media_type, rejected), content_type=decoded.media_type)


class Logs(Export):
    """Log records in protobuf or JSON; messages of a model or a tool complete their span, the others are dropped.

    Messages that name no span are counted in `partial_success`.
    """

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False, grows=True)
    def post(self, request: Request) -> HttpResponse:
        project_id = request.caller.project_id
        decoded = _decoded(request, otlp_logs.decode)
        messages, rejected, others = otlp_logs.read(decoded)

        def take(begin: int, end: int) -> None:
            unhindered(project_id, lambda: spanlogs.accept(project_id, messages[begin:end], now=request.now))

        refused = salvage.halved(take, len(messages)) if messages else []
        rejected += [_unkept(messages[one.index], one.reason) for one in refused]
        doorcounts.count(
            {"logs kept": len(messages) - len(refused), "logs rejected": len(rejected), "logs dropped": others}
        )
        answer = otlp.partial_success(decoded.media_type, rejected, otlp_logs.LOGS)
        return HttpResponse(answer, content_type=decoded.media_type)


class Metrics(Export):
    """Metrics in protobuf or JSON: read, counted, and not kept; spans tell the same to the unit."""

    @endpoint(scope="ingest", rate="ingest", content_types=MEDIA_TYPES, also=(400, 413, 415), bound=False)
    def post(self, request: Request) -> HttpResponse:
        decoded = _decoded(request, otlp_metrics.decode)
        doorcounts.count({"metric points": decoded.points})
        answer = otlp.partial_success(decoded.media_type, [], otlp_metrics.METRICS)
        return HttpResponse(answer, content_type=decoded.media_type)


def _unkept(one: Span | Message, reason: str) -> Rejection:
    """The rejection of what was read well, and is not kept."""
    span_id = (one.span_id & (2**64 - 1)).to_bytes(8, "big").hex()
    return Rejection(reason, one.trace_id.hex(), span_id, one.name)


def _decoded(request: Request, decode: Callable[[bytes, str], T]) -> T:
    """The export; one that is refused as a whole is counted, for no exporter sends it again."""
    try:
        return _read(request, decode)
    except Problem as problem:
        doorcounts.count({f"exports {problem.status}": 1})
        doorcounts.refuse(request.caller.project_id, problem.detail, exports=1, now=request.now)
        raise


def _read(request: Request, decode: Callable[[bytes, str], T]) -> T:
    body = bodies.read_export(request, limit=settings.MAX_OTLP_BYTES)
    try:
        return decode(body, request.headers.get("Content-Type", ""))
    except otlp.UnsupportedMediaType as error:
        raise WrongType(str(error)) from error
    except otlp.Malformed as error:
        raise Problem(400, "Bad request", str(error)) from error


urlpatterns = [
    path("v1/traces", Traces.as_view()),
    path("v1/metrics", Metrics.as_view()),
    path("v1/logs", Logs.as_view()),
]
