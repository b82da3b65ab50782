"""Where `rag-owl serve` sends its traces: to a collector that speaks OTLP, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable

from rag_owl import __version__
from rag_owl.errors import InvalidSettings
from rag_owl.settings import Settings


def configure(settings: Settings) -> Callable[[], None]:
    """Set OpenTelemetry's global provider where that was asked for; what ends it, sending the rest.

    Its address, headers and sampling are OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_…`,
    `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`). Raises `InvalidSettings` without the extra.
    """
    if settings.traces == "none":
        return lambda: None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidSettings(
            f"setting traces: {error.name} is not installed; pip install 'rag-owl[otel]'"
        ) from None
    name = os.environ.get("OTEL_SERVICE_NAME", "rag-owl")
    named = Resource.create({"service.name": name, "service.version": __version__})
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown
