"""``socadapter triage``: one alert, asked of the running service."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click
import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from socadapter_api.errors import BackendUnavailable, MalformedRow, ServingError, SpecError
from socadapter_api.pool import SocServingPool, is_loopback
from socadapter_cli.workspace import state_option
from socadapter_operator.local.state_folder import StateFolder

TOKEN_VARIABLE = "SOCADAPTER_TOKEN"  # noqa: S105  a variable's name
_TIMEOUT_S = 300.0


@click.command()
@click.argument("alert", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--url", help="The service's address. Default: the pool's in the state folder.")
@click.option("--context", help="The business context. Default: found by the adapters' match expressions.")
@click.option("--incident", help="Alerts of one incident are answered by one version.")
@click.option("--observed-at", help="When the alert was raised, such as 2026-03-02T14:00:00Z: tools answer as of then.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer as JSON.")
@state_option
def triage(
    alert: Path,
    url: str | None,
    context: str | None,
    incident: str | None,
    observed_at: str | None,
    as_json: bool,
    state: Path,
) -> None:
    """Ask the running service about one alert. ALERT: a JSON file, or - for standard input.

    The file holds the alert's fields, or a case with an `alert` and perhaps an `observed_at` in it. A token, where the
    service asks for one, is taken from SOCADAPTER_TOKEN.
    """
    body = request_body(_read(alert), context, incident)
    if observed_at:
        body["observed_at"] = observed_at
    if "observed_at" not in body:
        click.echo("no time is told of the alert: tools answer as of now (--observed-at names another)", err=True)
    answer = ask(url or endpoint(state), body)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        show(answer, Console())


def request_body(held: dict[str, Any], context: str | None = None, incident: str | None = None) -> dict[str, Any]:
    """What ``POST /v1/triage`` takes, from an alert's fields or from a case; of a case only what a model may see."""
    body: dict[str, Any] = {"alert": held}
    if isinstance(held.get("alert"), dict):
        body = {"alert": held["alert"]}
        if held.get("observed_at"):
            body["observed_at"] = held["observed_at"]
    if context:
        body["context"] = context
    if incident:
        body["incident_id"] = incident
    return body


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The service's answer.

    Raises:
        BackendUnavailable: nothing answers there, or not now.
        ServingError: the service refused.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        proxied = not is_loopback(httpx.URL(url).host)
        answer = httpx.post(
            f"{url.rstrip('/')}/v1/triage", json=body, headers=headers, timeout=_TIMEOUT_S, trust_env=proxied
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BackendUnavailable(
            f"no service answers at {url}: {error}; `socadapter get pools` says how it is"
        ) from error
    if answer.status_code >= httpx.codes.BAD_REQUEST:
        text = f"the service at {url} answered {answer.status_code}: {answer.text.strip()[:500]}"
        raise BackendUnavailable(text) if answer.status_code in (429, 502, 503, 504) else ServingError(text)
    value = answer.json()
    if not isinstance(value, dict):
        raise ServingError(f"the service at {url} answered with a {type(value).__name__}")
    return value


def endpoint(state: Path) -> str:
    """The address of the one pool that serves from the state folder.

    Raises:
        SpecError: none does, or several do.
    """
    urls = [pool.status.endpoint for pool in StateFolder(state).list(SocServingPool) if pool.status.endpoint]
    if len(urls) != 1:
        what = "no pool serves" if not urls else f"{len(urls)} pools serve"
        raise SpecError(
            f"{what} from state folder {state}: name the service with --url, or another folder with --state"
        )
    return urls[0]


def show(answer: dict[str, Any], console: Console) -> None:
    """Prints an answer for a person."""
    confidence = answer.get("confidence")
    sure = f" (probability of an attack {confidence:.2f})" if isinstance(confidence, int | float) else ""
    console.print(Text(f"{answer.get('verdict')}{sure}", style="bold"))
    for line in (answer.get("reason"), answer.get("summary")):
        if line:
            console.print(Text(str(line)), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for head in ("ID", "TOOL", "ARGUMENTS", "RESULT"):
        table.add_column(head, overflow="fold")
    for call in answer.get("calls") or ():
        cells = (call.get("evidence_id"), call.get("tool"), json.dumps(call.get("args")), call.get("result"))
        table.add_row(*(Text(str(cell)) for cell in cells))
    if table.row_count:
        console.print(table)
    cited = ", ".join(answer.get("citations") or ()) or "nothing"
    version = f"{'the base ' if answer.get('role') == 'base' else ''}{answer.get('version')}"
    told = (
        f"cites {cited}; answered by {version} {answer.get('digest') or ''} for context {answer.get('context') or '-'}"
    )
    console.print(Text(told, style="dim"), soft_wrap=True)
    console.print(Text(f"trajectory {answer.get('trajectory_id')}", style="dim"), soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path} is not UTF-8 text ({error}): save the alert as UTF-8") from error
    try:
        held = json.loads(text)
    except ValueError as error:
        several = "; of a file with an alert a line, give one line" if _is_json(text.partition("\n")[0]) else ""
        raise MalformedRow(f"{path} is not JSON: {error}{several}") from error
    if not isinstance(held, dict):
        raise MalformedRow(f"{path} holds a {type(held).__name__} where an alert's fields should be")
    return held


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
