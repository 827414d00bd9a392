"""Names that are made, not chosen: a run's id from what caused it, so that planning twice starts one run."""

import re

from socadapter_api import digest
from socadapter_api.names import RunId

MAX_LENGTH = 47
"""KubeRay's limit for the name of a RayJob."""

_HASH_LENGTH = 10
_STEM_LENGTH = MAX_LENGTH - _HASH_LENGTH - 1


def run_id(name: str, uid: str, training_hash: str, cause: str) -> RunId:
    """The id of the run of adapter `name` that `cause` asks for: a DNS-1035 label of at most 47 characters.

    Equal arguments give equal ids; a resumed attempt keeps its id.
    """
    identity = digest.of_json([uid or name, training_hash, cause]).removeprefix("sha256:")[:_HASH_LENGTH]
    stem = re.sub(r"[^a-z0-9-]", "-", name.lower())
    if not stem[:1].isalpha():
        stem = f"r-{stem}"
    return RunId(f"{stem[:_STEM_LENGTH].rstrip('-')}-{identity}")
