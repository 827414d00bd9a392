"""The results and reasons by which runs are known to end, so that a counter of each exists before the first one."""

from collections.abc import Iterable

from socadapter_api import errors
from socadapter_api.errors import SocAdapterError
from socadapter_api.manifest import Outcome
from socadapter_operator.backends import kuberay_states, ray_states
from socadapter_operator.domain.state import ARTIFACT_MISSING, RUN_LOST

_TREES = (
    errors.SpecError,
    errors.DataError,
    errors.ArtifactError,
    errors.TrainingError,
    errors.ToolError,
    errors.TransientError,
)
"""What a run raises, or a look at what it left; the rest of the tree is about serving and the Kubernetes API."""

_WELL = (Outcome.PUBLISHED, Outcome.GATE_FAILED, Outcome.SKIPPED)


def known() -> tuple[tuple[str, str], ...]:
    """Pairs of result and reason."""
    raised = (error.reason for root in _TREES for error in _with_children(root))
    failures = {Outcome.FAILED.value, SocAdapterError.reason, RUN_LOST, ARTIFACT_MISSING, *raised}
    failures |= kuberay_states.ENDS | ray_states.ENDS
    return (*((end.value, end.value) for end in _WELL), *((Outcome.FAILED.value, why) for why in sorted(failures)))


def _with_children(root: type[SocAdapterError]) -> Iterable[type[SocAdapterError]]:
    yield root
    for child in root.__subclasses__():
        yield from _with_children(child)
