"""The exporters of OpenTelemetry send traces, logs and metrics to one address, and none of them complains."""

from pathlib import Path

import httpx

from tests.flows import clientprograms
from tests.flows.running import address, ask, make_key
from tests.launcher.instance import Instance

PROGRAM = Path(__file__).with_name("signals_program.py")
SPANS = """
SELECT kind, input, output FROM monitor_span
 WHERE project_id = (SELECT id FROM monitor_project WHERE name = 'signals') ORDER BY started_at
"""


def test_messages_in_logs_complete_spans_that_come_before_and_after(handrail: Instance) -> None:
    key = make_key(handrail, "signals", scopes="ingest")
    before = counted(handrail)
    said = clientprograms.run_here(
        PROGRAM,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address(handrail),
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {key}",
        },
    )
    assert said == ""
    assert ask(handrail, SPANS) == [
        ("llm", "Where is my lamp?", '{"content":"On its way.","role":"assistant"}'),
        ("tool", '{"order": 7}', "shelf 3"),
    ]
    assert {name: count - before[name] for name, count in counted(handrail).items()} == {
        'handrail_otlp_spans_total{outcome="kept"}': 2,
        'handrail_otlp_spans_total{outcome="repeated"}': 0,
        'handrail_otlp_spans_total{outcome="rejected"}': 0,
        'handrail_otlp_log_records_total{outcome="kept"}': 3,
        'handrail_otlp_log_records_total{outcome="rejected"}': 0,
        'handrail_otlp_log_records_total{outcome="dropped"}': 1,
        "handrail_otlp_metric_points_total": 1,
        'handrail_otlp_exports_refused_total{status="400"}': 0,
        'handrail_otlp_exports_refused_total{status="401"}': 0,
        'handrail_otlp_exports_refused_total{status="403"}': 0,
        'handrail_otlp_exports_refused_total{status="413"}': 0,
        'handrail_otlp_exports_refused_total{status="415"}': 0,
    }


def counted(instance: Instance) -> dict[str, float]:
    """What the instance has counted of all that programs sent to it."""
    page = httpx.get(f"{address(instance)}/metrics").raise_for_status().text
    lines = [line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("handrail_otlp")]
    return {name: float(count) for name, count in lines}
