"""What the operator was installed with, as far as manifests depend on it; read from its environment by others."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from socadapter_api import digest
from socadapter_api.errors import SpecError

OBJECT_LIMIT_BYTES = 1_000_000
"""Kubernetes takes 1 MiB in a Secret or ConfigMap, and 1.5 MiB in any object: room for what the API server adds."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Pods that network policies let in: those of `namespace` that bear `labels`; no labels, all of them."""

    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Installation:
    """The images where a resource names none, and the operators (this one, and KubeRay's) that reach Ray's dashboards.

    Without KubeRay's among them a network policy keeps it from submitting and watching jobs.
    """

    training_image: str
    serving_image: str
    operators: tuple[Peer, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether things can be made for it; `UNKNOWN` is only looked at."""
        return bool(self.training_image and self.serving_image)


UNKNOWN = Installation("", "")
"""That of an operator which is elsewhere: its images are those of what it made."""


def refuse_large(manifest: Mapping[str, object], what: str) -> None:
    """Refuses an object that the API server would not store.

    Raises:
        SpecError: it is too large.
    """
    size = len(digest.canonical_json(manifest))
    if size > OBJECT_LIMIT_BYTES:
        raise SpecError(
            f"{what} takes {size} bytes, more than the {OBJECT_LIMIT_BYTES} that fit into a Kubernetes object: name "
            "folders in place of single files, fewer keys, or split the pool"
        )
