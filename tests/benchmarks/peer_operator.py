"""The peer of the operator's benchmark: a bare kopf operator that makes the RayJob of each new SocAdapter, and no more.

Run by kopf. PEER_RAYJOB names a file with the RayJob to make, without its name.
"""

import json
import os
from pathlib import Path
from typing import Any

import kopf

from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import discover
from socadapter_operator.kube.resources import RAY_JOB

TEMPLATE = json.loads(Path(os.environ["PEER_RAYJOB"]).read_text("utf-8"))
CLIENT = Client(discover())


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """As its documentation advises where only some kinds are served."""
    settings.scanning.disabled = True
    settings.posting.enabled = False


@kopf.on.create("socadapter.io", "v1alpha1", "socadapters")
def created(body: kopf.Body, name: str, namespace: str | None, **_: Any) -> None:
    """Makes the RayJob."""
    job = {**TEMPLATE, "metadata": {**TEMPLATE["metadata"], "name": f"{name}-peer", "namespace": namespace}}
    kopf.append_owner_reference(job, owner=body)
    CLIENT.create(RAY_JOB, job)
