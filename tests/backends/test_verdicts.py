"""The analysts' verdicts of a pool, as its service tells them."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.loopback import Loopback

from socadapter_api.pool import SocServingPool
from socadapter_api.training import FeedbackSpec
from socadapter_operator.backends import verdicts
from socadapter_operator.backends.credentials import Credentials

POOL = SocServingPool.model_validate({"metadata": {"name": "base"}, "spec": {"base": {"uri": "b"}, "store": "s"}})


class Service:
    """Holds two verdicts, of two contexts, and notes since when it was asked for them."""

    def __init__(self) -> None:
        self.since: list[float] = []
        self.records = [json.dumps({"context": context}) for context in ("cloud", "mail")]
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.since.append(float(parse_qs(urlsplit(self.path).query)["since"][0]))
                body = "".join(f"{record}\n" for record in service.records).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.loopback = Loopback(Handler)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.loopback.close()


@pytest.mark.parametrize("window", ["24h", "99999999h", "99999999999999999999999999999h"])
def test_every_window_of_the_contract_can_be_asked_for(window: str, service: Service, tmp_path: Path) -> None:
    """The verdicts of one context; of a window that is longer than there are dates, all of them."""
    asked = FeedbackSpec(window=window).window
    found = verdicts.fetch(POOL, service.loopback.url, "cloud", asked, Credentials(tmp_path))
    assert ('{"context": "cloud"}',) == found
    assert (window != "24h") == (service.since[0] == 0)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\f"])
def test_a_record_may_hold_what_ends_a_line_elsewhere(separator: str, service: Service, tmp_path: Path) -> None:
    """A separator in a log line or in a comment parts no record in two."""
    service.records = [json.dumps({"context": "cloud", "comment": f"a{separator}b"}, ensure_ascii=separator == "\f")]
    assert tuple(service.records) == verdicts.fetch(POOL, service.loopback.url, "cloud", "24h", Credentials(tmp_path))


def test_a_service_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    """Nobody can say how many there are."""
    assert verdicts.fetch(POOL, "http://127.0.0.1:9", "cloud", "24h", Credentials(tmp_path)) is None


def test_no_proxy_is_asked(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would get the caller's token, and the night its answer."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert verdicts.fetch(POOL, service.loopback.url, "cloud", "24h", Credentials(tmp_path)) is not None
