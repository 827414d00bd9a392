"""Traces: nothing without an endpoint; with one, spans that say what they are about arrive there."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tests.controlplane.processes import free_port
from tests.loopback import Loopback

from socadapter_operator.shell import tracing


@dataclass(frozen=True, slots=True)
class Collector:
    """An OTLP collector: what was posted to it, by path and content type."""

    url: str
    posted: list[tuple[str, str]] = field(default_factory=list)
    resources: list[Any] = field(default_factory=list)

    def spans(self) -> list[Span]:
        return [span for told in self.resources for scope in told.scope_spans for span in scope.spans]

    def services(self) -> set[str]:
        return {attributes(told.resource)["service.name"] for told in self.resources}


def attributes(told: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in told.attributes}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*tracing.ENDPOINTS, "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.posted.append((self.path, self.headers["Content-Type"]))
            made.resources.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = Loopback(Handler)
    made = Collector(server.url)
    yield made
    server.close()


def test_off_without_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable no span goes anywhere and nothing of OpenTelemetry is looked for."""
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    off = tracing.configured()
    with off.span("reconcile", name="a"):
        pass
    off.stop()
    assert not off.on


def test_spans_reach_the_collector(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """A span arrives at the endpoint's path for traces, with what it is about, and failed by what was raised inside."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    on = tracing.configured()
    with on.span("reconcile socadapter", resource="soc/cloud"):
        pass
    with pytest.raises(ZeroDivisionError), on.span("reconcile socadapter", resource="soc/network"):
        raise ZeroDivisionError
    on.stop()
    assert {("/v1/traces", "application/x-protobuf")} == set(collector.posted)
    assert {"socadapter-operator"} == collector.services()
    well, badly = collector.spans()
    assert "reconcile socadapter" == well.name == badly.name
    assert [{"resource": "soc/cloud"}, {"resource": "soc/network"}] == [attributes(span) for span in (well, badly)]
    assert (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR) == (well.status.code, badly.status.code)


def test_endpoint_of_traces_alone_and_name_of_the_service(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry's variable for traces alone is a whole address, and its name for the service wins over ours."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/own/path")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "soc-vienna")
    on = tracing.configured()
    with on.span("reconcile socservingpool"):
        pass
    on.stop()
    assert ["/own/path"] == [path for path, _ in collector.posted]
    assert {"soc-vienna"} == collector.services()


def test_missing_collector_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where nobody listens, work goes on and the log says that spans were lost."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    on = tracing.configured()
    with on.span("reconcile socadapter"):
        pass
    on.stop()
    assert "Failed to export spans" in caplog.text
