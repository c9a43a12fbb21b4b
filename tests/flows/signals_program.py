"""A program that sends all three signals of OpenTelemetry: its messages as logs, which leave before their span does."""

import logging
import sys

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
tracers = TracerProvider()
tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
loggers = LoggerProvider()
loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(compression=Compression.Gzip)))
meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])

tracer, logger, meter = (
    tracers.get_tracer("tests"),
    loggers.get_logger("tests"),
    meters.get_meter("tests"),
)
meter.create_counter("gen_ai.client.token.usage").add(1100)
with tracer.start_as_current_span("chat gpt-4o") as span:
    span.set_attributes(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 1000,
            "gen_ai.usage.output_tokens": 100,
        }
    )
    logger.emit(event_name="gen_ai.user.message", body={"content": "Where is my lamp?"})
    logger.emit(
        event_name="gen_ai.choice", body={"index": 0, "message": {"role": "assistant", "content": "On its way."}}
    )
    plain = logging.getLogger("shop")
    plain.addHandler(LoggingHandler(logger_provider=loggers))
    plain.warning("the shelf is empty")
    loggers.force_flush()
with tracer.start_as_current_span("execute_tool find") as span:
    span.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find"})
    loggers_of_tools = {"gen_ai.tool.call.arguments": '{"order": 7}', "gen_ai.tool.call.result": "shelf 3"}
    logger.emit(event_name="gen_ai.tool.call", attributes=loggers_of_tools)
tracers.force_flush()
for provider in (loggers, meters, tracers):
    provider.shutdown()
