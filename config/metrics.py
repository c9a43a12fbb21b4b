"""`GET /metrics` for Prometheus. It crosses tenants, so it is for loopback or for whoever has the token."""

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime

from django.conf import settings
from django.db.models import Count, Min
from django.http import HttpRequest, HttpResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from alerts.models import Delivery, DeliveryStatus
from config.shedding import ShedCounts
from monitor import doorcounts, latency
from monitor.models import Execution, JobHeartbeat, QueueItem
from monitor.models.executions import OPEN
from monitor.models.queue import OPEN_ITEMS
from monitor.tallies import Key, Tallies, Tally, tallies
from monitor.tenancy import crossing

LOOPBACK = {"127.0.0.1", "::1"}
EXECUTION_BOUNDS_S = (1, 5, 10, 30, 60, 120, 300)
REFUSALS = (400, 401, 403, 413, 415)
TOOL_BOUNDS_S = (0.1, 0.5, 1, 5, 10, 30, 60)


def page(request: HttpRequest) -> HttpResponse:
    """The exposition, or 403."""
    if not _may_read(request):
        return HttpResponse("For loopback, or with the token HANDRAIL_METRICS_TOKEN.\n", "text/plain", status=403)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(collect(now=datetime.now(UTC))))
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _may_read(request: HttpRequest) -> bool:
    token = settings.METRICS_TOKEN
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if token and hmac.compare_digest(given.encode(), token.encode()):
        return True
    # Behind a proxy everybody comes from loopback.
    is_forwarded = any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-Ip"))
    return request.META.get("REMOTE_ADDR") in LOOPBACK and not is_forwarded


class _Once:
    """What prometheus-client calls a collector, over metrics that are there already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> list[Metric]:
        return self._metrics


def collect(*, now: datetime) -> Iterator[Metric]:
    """Every metric, from rollups and live tables only."""
    total = tallies()
    yield from _of_executions({key: tally for key, tally in total.items() if key.kind == "execution"})
    yield from _of_calls({key: tally for key, tally in total.items() if key.kind == "llm"})
    yield from _of_tools({key: tally for key, tally in total.items() if key.kind == "tool"})
    yield from _of_ourselves(now=now)
    yield from _of_doors(doorcounts.counted())


def _of_executions(found: Tallies) -> Iterator[Metric]:
    labels = ["agent_type", "workflow"]
    counted = CounterMetricFamily("agent_executions", "Executions that ended.", labels=[*labels, "status"])
    timed = HistogramMetricFamily("agent_execution_duration_seconds", "How long they took, nearly.", labels=labels)
    for agent, tally in _by(found, lambda key: key.agent):
        counted.add_metric([agent, "", "completed"], tally.count - tally.failed - tally.cancelled)
        counted.add_metric([agent, "", "failed"], tally.failed)
        counted.add_metric([agent, "", "cancelled"], tally.cancelled)
        timed.add_metric([agent, ""], *_histogram(tally, EXECUTION_BOUNDS_S))
    yield counted
    yield timed


def _of_doors(counts: Mapping[str, int]) -> Iterator[Metric]:
    spans = CounterMetricFamily("handrail_otlp_spans", "Spans by what became of them.", labels=["outcome"])
    for outcome in ("kept", "repeated", "rejected"):
        spans.add_metric([outcome], counts.get(f"spans {outcome}", 0))
    yield spans
    records = CounterMetricFamily(
        "handrail_otlp_log_records", "Log records by what became of them.", labels=["outcome"]
    )
    for outcome in ("kept", "rejected", "dropped"):
        records.add_metric([outcome], counts.get(f"logs {outcome}", 0))
    yield records
    points = CounterMetricFamily("handrail_otlp_metric_points", "Data points of metrics, which are not kept.")
    points.add_metric([], counts.get("metric points", 0))
    yield points
    refused = CounterMetricFamily("handrail_otlp_exports_refused", "Exports refused as a whole.", labels=["status"])
    for status in REFUSALS:
        refused.add_metric([str(status)], counts.get(f"exports {status}", 0))
    yield refused


def _of_calls(found: Tallies) -> Iterator[Metric]:
    turns = CounterMetricFamily(
        "agent_iterations", "Model calls, one for each turn of an agent.", labels=["agent_type"]
    )
    cost = CounterMetricFamily("llm_cost_usd", "Cost of model calls in US dollars.", labels=["model", "agent_type"])
    tokens = CounterMetricFamily("llm_tokens", "Tokens as billed.", labels=["model", "agent_type", "type"])
    for agent, tally in _by(found, lambda key: key.agent):
        turns.add_metric([agent], tally.count)
    for key, tally in sorted(found.items()):
        cost.add_metric([key.model, key.agent], float(tally.cost_usd))
        tokens.add_metric([key.model, key.agent, "input"], tally.input_tokens)
        tokens.add_metric([key.model, key.agent, "cache_read"], tally.cache_read_tokens)
        tokens.add_metric([key.model, key.agent, "output"], tally.output_tokens)
    yield turns
    yield cost
    yield tokens


def _of_tools(found: Tallies) -> Iterator[Metric]:
    counted = CounterMetricFamily("tool_executions", "Tool calls.", labels=["tool_name", "status"])
    timed = HistogramMetricFamily(
        "tool_execution_duration_seconds", "How long they took, nearly.", labels=["tool_name"]
    )
    for tool, tally in _by(found, lambda key: key.model):
        counted.add_metric([tool, "success"], tally.count - tally.failed)
        counted.add_metric([tool, "error"], tally.failed)
        timed.add_metric([tool], *_histogram(tally, TOOL_BOUNDS_S))
    yield counted
    yield timed


def _of_ourselves(*, now: datetime) -> Iterator[Metric]:
    lag = GaugeMetricFamily("handrail_job_lag_seconds", "Since the last good run of a job.", labels=["job"])
    period = GaugeMetricFamily("handrail_job_period_seconds", "How often it should run.", labels=["job"])
    opened = GaugeMetricFamily("handrail_executions_open", "Executions that have not ended.", labels=["status"])
    waiting = GaugeMetricFamily("handrail_queue_open", "What waits for a person.", labels=["kind"])
    with crossing():
        for row in JobHeartbeat.objects.order_by("name"):
            period.add_metric([row.name], row.every_s)
            if row.last_ok_at is not None:
                lag.add_metric([row.name], max((now - row.last_ok_at).total_seconds(), 0))
        for status, count in Execution.objects.filter(status__in=OPEN).values_list("status").annotate(n=Count("*")):
            opened.add_metric([status], count)
        for kind, count in QueueItem.objects.filter(status__in=OPEN_ITEMS).values_list("kind").annotate(n=Count("*")):
            waiting.add_metric([kind], count)
        unsent = Delivery.objects.filter(status__in=[DeliveryStatus.PENDING, DeliveryStatus.SENDING])
        oldest = unsent.aggregate(oldest=Min("due_at"))["oldest"]
    shed = CounterMetricFamily("handrail_requests_shed", "Not worked at: too much.", labels=["room", "reason"])
    for (room, reason), count in ShedCounts().totals().items():
        shed.add_metric([room, reason], count)
    yield shed
    yield lag
    yield period
    yield opened
    yield waiting
    yield GaugeMetricFamily(
        "handrail_notification_oldest_undelivered_seconds",
        "How long the oldest undelivered notification has been due; 0 when none is.",
        value=max((now - oldest).total_seconds(), 0) if oldest else 0,
    )


def _by(found: Tallies, name: Callable[[Key], str]) -> list[tuple[str, Tally]]:
    grouped: dict[str, Tally] = {}
    for key, tally in found.items():
        label = name(key)
        grouped[label] = grouped[label].plus(tally) if label in grouped else tally
    return sorted(grouped.items())


def _histogram(tally: Tally, bounds_s: Iterable[float]) -> tuple[list[tuple[str, float]], float]:
    buckets = [(str(float(bound_s)), latency.at_most(tally.histogram, bound_s * 1000)) for bound_s in bounds_s]
    return [*buckets, ("+Inf", float(tally.count))], tally.duration_ms / 1000
