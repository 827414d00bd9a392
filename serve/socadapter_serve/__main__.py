"""``python -m socadapter_serve --config FILE``: serves one pool on this machine until SIGTERM."""

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from socadapter_api.errors import SocAdapterError
from socadapter_serve import ray_environment
from socadapter_serve.auth import Callers
from socadapter_serve.config import ServeConfig, read_config
from socadapter_serve.engines import prepare
from socadapter_serve.feedback import database_of
from socadapter_serve.local import FAILURE, LocalServing, write_json


def main(arguments: list[str] | None = None) -> int:
    """Runs the local serving process; the exit status is 0 after a wanted stop, 1 after an error of ours."""
    parser = argparse.ArgumentParser(prog="python -m socadapter_serve", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="serving configuration (JSON)")
    path = parser.parse_args(arguments).config.resolve()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = read_config(path)
        _refuse_unstartable(config)
        ray_environment.prepare(config.state_dir)
        from socadapter_serve.local_ray import LocalServe

        stopping = threading.Event()
        serve = LocalServe(config, path, on_ray_started=lambda: _stop_on_signals(stopping))
        LocalServing(config, serve, stopping).run()
    except SocAdapterError as error:
        print(f"{error.reason}: {error}", file=sys.stderr)
        said = {"reason": error.reason, "message": str(error), "retryable": error.retryable}
        write_json(path.parent / FAILURE, said)
        return 1
    return 0


def _refuse_unstartable(config: ServeConfig) -> None:
    """Finds here, by name, what would otherwise be found by every replica, again and again."""
    Callers(config.spec.callers, config.caller_tokens())
    config.tool_tokens()
    database_of(config)
    prepare(config)


def _stop_on_signals(stopping: threading.Event) -> None:
    """Ray sets handlers of its own as it starts, which would end the process without a clean stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


if __name__ == "__main__":
    sys.exit(main())
