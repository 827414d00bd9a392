"""A small Ray with dashboard and token on loopback, which ends with this process's input.

``python small_ray.py CPUS DASHBOARD AGENT CLIENT GCS``, the last four being ports: ``ray start`` and not ``ray.init``,
since only that can be told all of them, and several Rays share this machine. Its folder is its own, too, or a job would
join the cluster that was started last. Token and whatever jobs shall inherit stand in the environment.
"""

import os
import select
import shutil
import sys
import tempfile
from pathlib import Path

from socadapter_operator.backends import process

_END_S = 10.0
_LOOK_EVERY_S = 0.5


def main() -> int:
    """Runs Ray until it ends, or standard input is closed, by whoever started this or by their death."""
    cpus, dashboard, agent, client, gcs = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray puts sockets into it
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "num-cpus": cpus,
        "object-store-memory": str(128 * 2**20),
        "temp-dir": folder,
    }
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command = [*ray, *(f"--{name}={value}" for name, value in options.items())]
    running = process.launch(command, os.environ, Path("ray.log"), Path("ray.json"))
    try:
        while running.alive and not select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
            pass
    finally:
        running.end(_END_S)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
