"""What pods keep to beyond the restricted Pod Security Standard, their owner's own containers included.

No credentials for the API server, a read-only root file system, and cores and memory that are asked for and bounded.
"""

import re
from collections.abc import Iterator

from socadapter_operator.builders.pod_security import Violation
from socadapter_operator.builders.raw import Part, map_at, maps_at

_API_AUDIENCE = re.compile(r"(https?://)?kubernetes(\.default.*)?|https?://container\.googleapis\.com/.*|api|k3s")
"""What API servers take for a token of theirs unless they are told otherwise."""
_API_SIGNER = "kubernetes.io/kube-apiserver-client"


def violations(template: Part) -> tuple[Violation, ...]:
    """Where the PodTemplateSpec `template` breaks the above, by path; empty where it holds."""
    spec = map_at(template, "spec")
    found = [*_credentials(spec)]
    for field in ("containers", "initContainers"):
        for container in maps_at(spec, field):
            found += _container(container, f"spec.{field}[{container.get('name')}]")
    for container in maps_at(spec, "ephemeralContainers"):
        path = f"spec.ephemeralContainers[{container.get('name')}]"
        found.append(Violation(path, container.get("image"), "is added to a pod that runs, and in no template"))
    return tuple(found)


def _credentials(spec: Part) -> Iterator[Violation]:
    mounted = spec.get("automountServiceAccountToken")
    if mounted is not False:
        yield Violation("spec.automountServiceAccountToken", mounted, "must stay false: no API token")
    for volume in maps_at(spec, "volumes"):
        path = f"spec.volumes[{volume.get('name')}].projected"
        for source in maps_at(map_at(volume, "projected"), "sources"):
            if source.get("serviceAccountToken") is not None:
                audience = map_at(source, "serviceAccountToken").get("audience")
                if not isinstance(audience, str) or not audience or _API_AUDIENCE.fullmatch(audience):
                    reason = (
                        "must be another's than the API server's, such as sts.amazonaws.com: no API token is mounted"
                    )
                    yield Violation(f"{path}.serviceAccountToken.audience", audience, reason)
            signer = map_at(source, "podCertificate").get("signerName")
            if str(signer).startswith(_API_SIGNER):
                reason = "must be another's than the API server's: a certificate of it is an API token"
                yield Violation(f"{path}.podCertificate.signerName", signer, reason)


def _container(container: Part, path: str) -> Iterator[Violation]:
    read_only = map_at(container, "securityContext").get("readOnlyRootFilesystem")
    if read_only is not True:
        reason = "must be true: mount a volume, such as an emptyDir, where it writes"
        yield Violation(f"{path}.securityContext.readOnlyRootFilesystem", read_only, reason)
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            if not map_at(map_at(container, "resources"), kind).get(resource):
                yield Violation(f"{path}.resources.{kind}.{resource}", None, "must be set")
