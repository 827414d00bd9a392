"""The range's command line: `export` cases, `serve` the tools over MCP, `check` the acceptance figures."""

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from socadapter_api.errors import SocAdapterError
from socadapter_range.dataset import export
from socadapter_range.faults import EVERY_TOOL, Faults
from socadapter_range.toolbox import RangeToolbox
from socadapter_range.world import World


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except SocAdapterError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}; name another path", file=sys.stderr)
    except sqlite3.Error as error:
        print(f"error: the telemetry cannot be read or written: {error}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it returns has a `run` that takes the arguments."""
    top = argparse.ArgumentParser(prog="python -m socadapter_range", description=__doc__)
    commands = top.add_subparsers(required=True)
    out = commands.add_parser("export", help="telemetry, trajectories, alerts and holdout as files")
    out.add_argument("--out", type=Path, required=True, help="folder to make; it may not hold an export already")
    out.add_argument("--seed", type=int, default=7, help="decides every byte; default %(default)s")
    out.add_argument("--train", type=_positive, default=320, help="training alerts per context; default %(default)s")
    out.add_argument("--holdout", type=_positive, default=96, help="held-out alerts per context; default %(default)s")
    out.add_argument(
        "--extra-alerts",
        type=_natural,
        default=0,
        help="more training alerts, in alerts_extra.jsonl; default %(default)s",
    )
    out.add_argument(
        "--drift", action="append", default=[], metavar="NAME[@DAY]", help="repeatable; default: nothing drifts"
    )
    out.set_defaults(run=_export)
    serve = commands.add_parser("serve", help="the eight tools as an MCP server")
    serve.add_argument("--db", type=Path, required=True, help="an export's telemetry.sqlite")
    serve.add_argument("--host", default="127.0.0.1", help="loopback addresses only; default %(default)s")
    serve.add_argument("--port", type=_port, default=0, help="0 takes a free one; default %(default)s")
    serve.add_argument("--stdio", action="store_true", help="one client over standard input and output, no port")
    serve.add_argument("--latency", type=float, default=0.0, help="seconds added to every call; default %(default)s")
    serve.add_argument(
        "--faults",
        default="{}",
        metavar="JSON",
        help='per tool, e.g. {"dns": {"outage": true}}; default %(default)s, no faults',
    )
    serve.add_argument("--admin", action="store_true", help="faults can be switched at run time: PUT /faults")
    serve.add_argument("--ready-file", type=Path, help="file to write the URL to once it answers; default: none")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="the acceptance figures of an export")
    check.add_argument("--dir", type=Path, required=True, help="folder of an export")
    check.add_argument(
        "--tokenizer", type=Path, help="folder of a tokenizer for the token counts; default: the built-in base's"
    )
    check.set_defaults(run=_check)
    return top


def _natural(text: str) -> int:
    return _at_least(0, text)


def _positive(text: str) -> int:
    return _at_least(1, text)


def _port(text: str) -> int:
    if (port := _at_least(0, text)) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is above 65535")
    return port


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is below {least}")
    return value


def _export(arguments: argparse.Namespace) -> int:
    started = time.perf_counter()
    world = World(arguments.seed, drift=arguments.drift)
    export(world, arguments.out, train=arguments.train, holdout=arguments.holdout, extra=arguments.extra_alerts)
    print(f"exported seed {arguments.seed} to {arguments.out} in {time.perf_counter() - started:.1f} s")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from socadapter_range.server import serve_http, serve_stdio

    latency = json.dumps({EVERY_TOOL: {"latency_s": arguments.latency}})
    faults = Faults(Faults.parse(latency) | Faults.parse(arguments.faults))
    toolbox = RangeToolbox(arguments.db)
    if arguments.stdio:
        serve_stdio(toolbox, faults)
    else:
        serve_http(
            toolbox,
            faults,
            host=arguments.host,
            port=arguments.port,
            admin=arguments.admin,
            ready_file=arguments.ready_file,
        )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from socadapter_range.acceptance import check

    report = check(arguments.dir, arguments.tokenizer)
    print(report.table())
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
