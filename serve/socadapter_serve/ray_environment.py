"""What Ray, and the libraries under it, read from the environment. Set before Ray is imported: it looks only once.

Replicas inherit it. Called by ``python -m socadapter_serve``.
"""

import os
import secrets
from pathlib import Path

TOKEN_FILE = "ray.token"  # noqa: S105  a file's name


def prepare(state_dir: Path) -> None:
    """A Ray of this process's own, whose every interface asks for a token, and that reports to no one."""
    token = state_dir / TOKEN_FILE
    if not token.exists():
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = token.with_name(f".{TOKEN_FILE}.{os.getpid()}")
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_hex(32))
        partial.replace(token)
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Off, Ray takes 127.0.0.1 for this node's address instead of replacing it, and its servers bind to nothing else.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    # Ray Serve looks after its deployments ten times a second, whether or not anything happens: 3 % of a processor.
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    for foreign in ("RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        os.environ.pop(foreign, None)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
