"""A run's spec as its pods find it: a file in a ConfigMap.

A ConfigMap and no Secret: the spec holds nothing that the SocAdapter and the pool do not show to whoever may read them
(keys and tokens are named in it, and mounted from their own Secrets), and whoever asks why a run did what it did can
read what it was told. It never changes; its name ends in its content's digest, so that a resumed attempt that is told
something else gets another one, and *already exists* means *is the same*.
"""

from typing import Any

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.training import KeyRef, RunSpec
from socadapter_operator.builders import labels, overlay, pods
from socadapter_operator.builders.installation import refuse_large

FOLDER = f"{overlay.OWN_FILES}/run"
FILE = "run.json"
SCRATCH = "/scratch"


def placed(spec: RunSpec, signing_key: KeyRef) -> RunSpec:
    """`spec` with what depends on the pods: where its scratch folder is, and which file holds its signing key."""
    return spec.model_copy(
        update={
            "scratch": f"{SCRATCH}/{spec.namespace}/{spec.run_id}",
            "signing_key": f"{signing_key.name}/{signing_key.key}",
        }
    )


def build(spec: RunSpec, adapter: SocAdapter) -> dict[str, Any]:
    """The ConfigMap of a run that was `placed`.

    Raises:
        SpecError: the spec does not fit into a ConfigMap.
    """
    text = digest.canonical_json(spec.model_dump(mode="json", exclude_defaults=True)).decode()
    name = f"{spec.run_id}-{digest.of_bytes(text.encode()).removeprefix('sha256:')[:10]}"
    made = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": dict(labels.metadata(name, adapter, labels.of_run(adapter, spec.run_id))),
        "immutable": True,
        "data": {FILE: text, pods.BOOTSTRAP_FILE: pods.BOOTSTRAP},
    }
    refuse_large(made, f"the spec of run {spec.run_id!r}")
    return made
