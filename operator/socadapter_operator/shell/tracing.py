"""Traces of reconciles by OpenTelemetry, sent by OTLP over HTTP where an endpoint is set; else nothing at all.

Everything is set by OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_HEADERS.
Without an endpoint no package of it is imported, so nothing is sent that the configuration does not name.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SERVICE_NAME = "OTEL_SERVICE_NAME"


class Tracing:
    """Makes spans, which cost nothing while tracing is off."""

    def __init__(self, tracer: "Tracer | None" = None, flush: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self._flush = flush

    @property
    def on(self) -> bool:
        """Whether spans go anywhere."""
        return self._tracer is not None

    def span(self, what: str, /, **attributes: str | int) -> AbstractContextManager[None]:
        """The work inside the block is one span, marked as failed by what it raises."""
        if self._tracer is None:
            return nullcontext()
        return _span(self._tracer, what, attributes)

    def stop(self) -> None:
        """Sends what is waiting."""
        self._flush()


@contextmanager
def _span(tracer: "Tracer", what: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
    with tracer.start_as_current_span(what, attributes=dict(attributes)):
        yield


def configured() -> Tracing:
    """Tracing as the process's environment, which is what OpenTelemetry reads, asks for it."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({SERVICE_NAME: os.environ.get(_SERVICE_NAME) or "socadapter-operator"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("socadapter"), provider.shutdown)
