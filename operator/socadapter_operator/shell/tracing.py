"""Traces of reconciles by OpenTelemetry, where its packages are installed and an endpoint is set; else nothing at all.

The endpoint is OpenTelemetry's own variable, OTEL_EXPORTER_OTLP_ENDPOINT. Without it no package of it is imported, so
nothing is sent that the configuration does not name.
"""

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

Span = Callable[..., AbstractContextManager[Any]]


class Tracing:
    """Makes spans, which cost nothing while tracing is off."""

    def __init__(self, tracer: Any = None, flush: Callable[[], None] = lambda: None) -> None:
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
        return self._span(what, attributes)

    def stop(self) -> None:
        """Sends what is waiting."""
        self._flush()

    @contextmanager
    def _span(self, what: str, attributes: Mapping[str, str | int]) -> Iterator[None]:
        with self._tracer.start_as_current_span(what, attributes=dict(attributes)):
            yield


def configured(environment: Mapping[str, str] = os.environ, service: str = "socadapter-operator") -> Tracing:
    """Tracing as the environment asks for it."""
    if not environment.get(ENDPOINT):
        return Tracing()
    try:
        resources = importlib.import_module("opentelemetry.sdk.resources")
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        log.warning("tracing_off because=%s is set, and the package %s is missing", ENDPOINT, error.name)
        return Tracing()
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": service}))
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    return Tracing(provider.get_tracer("socadapter"), provider.shutdown)
