"""A program in the place of ``python -m socadapter_serve``: reads its configuration, watches the table, reports.

It loads nothing; every version in the table counts as loaded. A file ``broken`` beside the table ends it at once.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> int:
    """Serves until it is terminated."""
    config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    state = Path(config["stateDir"])
    if (state / "broken").exists():
        print("InsecureBind: told to break", file=sys.stderr)
        return 1
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    write(state / "endpoint.json", {"url": f"http://127.0.0.1:{config['pool']['spec']['port']}", "pid": os.getpid()})
    while not ended.wait(0.02):
        write(state / "replicas.json", [report(json.loads((state / "table.json").read_text()))])
    return 0


def report(table: dict[str, Any]) -> dict[str, Any]:
    """What the one replica holds."""
    named = [route.get(role) for route in table["routes"] for role in ("stable", "canary", "shadow", "previous")]
    versions = {version["name"]: version for version in named if version}
    loaded = [{"name": name, "digest": version["digest"], "ready": True} for name, version in versions.items()]
    return {"replica": "r0", "generation": table["generation"], "loaded": loaded}


def write(path: Path, value: object) -> None:
    """Replaces `path`."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value))
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
