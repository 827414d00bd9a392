"""The digest of a base, which a process of its own fetches or unpacks where it is not here yet.

In this process a download of gigabytes would go on after Ctrl-C: the hub's threads are waited for at exit. The other
one ends with this one, and the next one goes on where it was. Called by local mode, through its backend.
"""

import atexit
import json
import subprocess
import sys

from socadapter_api import errors
from socadapter_api.training import BaseModelRef

FETCH = (sys.executable, "-m", "socadapter_cli.bases")


def resolve_base(ref: BaseModelRef) -> str:
    """The digest of a base.

    Raises:
        BaseNotFound, BaseMismatch, DiskFull: as `socadapter_agent.base_model.resolve_base`.
        BackendUnavailable: the process that fetches it ended without a word.
    """
    from socadapter_agent import base_model

    if base_model.is_here(ref):
        return base_model.resolve_base(ref).digest
    with subprocess.Popen(
        (*FETCH, ref.model_dump_json()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as fetching:
        atexit.register(fetching.kill)
        said, complaint = fetching.communicate()
        atexit.unregister(fetching.kill)
    return _digest_in(said, f"base {ref.uri!r}: what fetches it ended with status {fetching.returncode}", complaint)


def _digest_in(said: str, what: str, complaint: str) -> str:
    """The digest that the process told, or the error that it told, raised."""
    try:
        told = json.loads(said.splitlines()[-1])
        digest, reason, message = told["digest"], told["reason"], told["message"]
    except (ValueError, IndexError, KeyError, TypeError):
        last = (complaint.strip().splitlines() or ["nothing"])[-1][:500]
        raise errors.BackendUnavailable(f"{what}, and it said: {last}") from None
    if digest:
        return str(digest)
    raise errors.by_reason().get(reason, errors.BackendUnavailable)(message)


def main() -> None:
    """Resolves the base that the only argument names, as JSON; its last line of output tells what came of it."""
    from socadapter_agent.base_model import resolve_base as resolve

    told = {"digest": "", "reason": "", "message": ""}
    try:
        told["digest"] = resolve(BaseModelRef.model_validate_json(sys.argv[1])).digest
    except errors.SocAdapterError as error:
        told |= {"reason": error.reason, "message": str(error)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
