"""`socadapter triage` against a service that keeps what it was sent."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Call = Callable[..., Result]
ANSWER = {
    "verdict": "false_positive",
    "confidence": 0.04,
    "summary": "A known scanner [e1].",
    "citations": ["e1"],
    "calls": [{"evidence_id": "e1", "tool": "assets", "args": {"host": "scan-1"}, "result": "role scanner"}],
    "version": "cloud-v1-00000000",
    "digest": "sha256:00",
    "role": "stable",
    "context": "cloud",
    "trajectory_id": "t-1",
}


class Service:
    """One endpoint on loopback: answers with `status` and `answer`, keeps headers and bodies."""

    def __init__(self) -> None:
        self.status, self.answer = 200, dict(ANSWER)
        self.seen: list[tuple[str, str | None, dict[str, Any]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.seen.append((self.path, self.headers.get("authorization"), body))
                self.send_response(service.status)
                self.end_headers()
                self.wfile.write(json.dumps(service.answer).encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's name
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.thread.start()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


def test_no_proxy_is_asked_for_what_runs_here(
    call: Call, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It could not reach this machine's service, and would get the token."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "alert.json"
    path.write_text('{"title": "t"}')
    assert 0 == call("triage", str(path), "--url", service.url).exit_code
    assert 1 == len(service.seen)


@pytest.mark.parametrize(
    ("held", "sent"),
    [
        pytest.param({"title": "t", "user": "u"}, {"alert": {"title": "t", "user": "u"}}, id="an alert's fields"),
        pytest.param(
            {
                "id": "c1",
                "alert": {"title": "t"},
                "label": "TP",
                "evidence": {"x": 1},
                "observed_at": "2026-01-01T00:00:00Z",
            },
            {"alert": {"title": "t"}, "observed_at": "2026-01-01T00:00:00Z"},
            id="a case, without its label and evidence",
        ),
    ],
)
def test_only_what_a_model_may_see_is_sent(held: Any, sent: Any, call: Call, service: Service, tmp_path: Path) -> None:
    """The answer is shown with verdict, evidence, version and trajectory."""
    (tmp_path / "alert.json").write_text(json.dumps(held))
    result = call("triage", "alert.json", "--url", service.url, "--context", "cloud", "--incident", "i-1")
    assert [("/v1/triage", None, {**sent, "context": "cloud", "incident_id": "i-1"})] == service.seen
    for word in ("false_positive", "0.04", "A known scanner", "assets", "cloud-v1-00000000", "t-1"):
        assert word in result.output
    assert result.exit_code == 0


def test_tools_answer_as_of_the_alerts_time(call: Call, service: Service) -> None:
    """Which an option names where the alert does not; without any it is said that they answer as of now."""
    told = "tools answer as of now"
    moment = "2026-01-01T00:00:00Z"
    named = call("triage", "-", "--url", service.url, "--observed-at", moment, stdin='{"title": "t"}')
    assert (moment, False) == (service.seen[0][2]["observed_at"], told in named.stderr)
    unnamed = call("triage", "-", "--url", service.url, stdin='{"title": "t"}')
    assert (False, True) == ("observed_at" in service.seen[1][2], told in unnamed.stderr)


@pytest.mark.parametrize(
    ("text", "several"),
    [
        pytest.param('{"title": "t"}\n{"title": "u"}', True, id="an alert a line"),
        pytest.param('{\n "title": "t",\n}\n', False, id="broken"),
    ],
)
def test_a_file_of_several_alerts_is_told(text: str, several: bool, call: Call) -> None:
    """They are no JSON together; what to give instead is said, and not of one alert that is broken."""
    result = call("triage", "-", "--url", "http://127.0.0.1:9", stdin=text)
    assert (2, several) == (result.exit_code, "give one line" in result.stderr)


def test_the_base_is_told_from_an_adapter(call: Call, service: Service) -> None:
    """By its own name, and as what it is."""
    told = "answered by the base cloud-v1-00000000 sha256:00 for"
    shown = call("triage", "-", "--url", service.url, stdin='{"title": "t"}').output
    service.answer["role"] = "base"
    assert (False, True) == (told in shown, told in call("triage", "-", "--url", service.url, stdin='{"a": 1}').output)


def test_the_token_comes_from_the_environment(call: Call, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the whole answer is there as JSON."""
    monkeypatch.setenv("SOCADAPTER_TOKEN", "a-long-enough-token")
    result = call("triage", "-", "--url", service.url, "--json", stdin='{"title": "t"}')
    assert "Bearer a-long-enough-token" == service.seen[0][1]
    assert json.loads(result.stdout) == ANSWER


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        pytest.param(401, 1, "ServingFailed", id="refused"),
        pytest.param(422, 1, "ServingFailed", id="wrong alert"),
        pytest.param(503, 3, "BackendUnavailable", id="busy"),
    ],
)
def test_a_refusal_is_told(status: int, code: int, reason: str, call: Call, service: Service) -> None:
    """With the service's own words."""
    service.status, service.answer = status, {"error": {"message": "no"}}
    result = call("triage", "-", "--url", service.url, stdin='{"title": "t"}')
    assert (code, True) == (
        result.exit_code,
        f"error[{reason}]" in result.stderr and '"message": "no"' in result.stderr,
    )


def test_no_service_is_told(call: Call) -> None:
    """Nobody there: worth another try later."""
    result = call("triage", "-", "--url", "http://127.0.0.1:9", stdin='{"title": "t"}')
    assert (3, True) == (result.exit_code, "error[BackendUnavailable]" in result.stderr)


def test_a_file_in_another_encoding_is_told(call: Call, tmp_path: Path) -> None:
    """With its name, before the service is asked."""
    (tmp_path / "alert.json").write_bytes('{"title": "Anmeldung für Müller"}'.encode("latin-1"))
    result = call("triage", "alert.json", "--url", "http://127.0.0.1:9")
    assert (2, True) == (result.exit_code, "error[InvalidSpec]: alert.json is not UTF-8" in result.stderr), (
        result.output
    )
