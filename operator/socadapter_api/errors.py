"""Every error that SocAdapter raises on purpose.

::

    SocAdapterError
    ├── SpecError                 what was asked for cannot be done as written
    │   ├── BaseNotFound          the base model is not where the spec says
    │   ├── BaseMismatch          the adapter belongs to another base
    │   ├── RankTooHigh           the rank exceeds the pool's limit
    │   ├── PrecisionMismatch     served on the base in another number format than it was judged in
    │   ├── UnsupportedStrategy   e.g. ZeRO-3 with the tool loop
    │   ├── TemplateUnsupported   the chat template cannot carry a tool conversation
    │   ├── ToolSchemaMismatch    tools differ from those that the adapter was trained with
    │   ├── ContextConflict       two adapters claim one context
    │   ├── PoolNotFound          the serving pool does not exist
    │   ├── InsecureBind          an address other than loopback without a caller token
    │   ├── OverlayRefused        a pod template would break what its pods must keep to
    │   ├── SecretNotFound        a referenced secret or key file is missing
    │   ├── RayTokenRefused       the Ray cluster does not accept the token that it is shown
    │   └── ForeignObject         something of that name is there and belongs to somebody else
    ├── DataError                 the data cannot be trained on or scored
    │   ├── MalformedRow          a row is not what its format says
    │   ├── UnknownLabel          a label outside the vocabulary
    │   ├── EmptyData             no usable row
    │   ├── OneClass              a single class where two are needed
    │   ├── TooFewAlerts          too few for one GRPO step
    │   ├── TruncatedVerdict      a trajectory loses its verdict at the token limit
    │   ├── LabelLeak             a field alone predicts the label
    │   ├── HoldoutOverlap        an alert of the holdout is in training too
    │   └── AlertTooLarge         an alert beyond the size limit
    ├── ArtifactError             stored bytes must not be used
    │   ├── DigestMismatch        content is not what the manifest or table names
    │   ├── SignatureInvalid      unsigned, or not signed by a trusted key
    │   ├── UnsafeFormat          pickle or code where only safetensors may be
    │   ├── ForeignFile           a file that the manifest does not list
    │   ├── ManifestInvalid       the manifest cannot be read
    │   └── AlreadyPublished      the run's folder already holds a result
    ├── TrainingError             the run broke one of its own guarantees
    │   ├── ZeroSteps             the trainer finished without one optimizer step
    │   ├── BaseChanged           the frozen base's weights changed
    │   ├── ResumeMismatch        the adapter after a resume is not the one that was saved
    │   └── RunInterrupted        stopped on request; resumable
    ├── ToolError                 a tool call did not give a usable answer
    │   ├── ToolTimeout           no answer in time
    │   ├── ToolOutage            the tool's server failed or cannot be reached
    │   ├── ToolGarbage           the answer is not text or JSON of a sane size
    │   ├── CircuitOpen           the tool failed too often and is not asked for now
    │   └── ReplayMiss            nothing recorded for that call
    ├── ServingError              a request cannot be served
    │   ├── UnknownVersion        an id outside the serving table
    │   ├── Unauthorized          no token, or a wrong one
    │   ├── CallerForbidden       the caller may not use that context
    │   └── EngineUnavailable     no engine could answer
    ├── ClusterError              the Kubernetes API answered, and said no
    │   ├── ClusterNotConfigured  no usable kubeconfig or service account
    │   ├── LoginRefused          the API server does not know the bearer of the credentials
    │   ├── ObjectNotFound        no object of that name
    │   ├── KindNotInstalled      the API server does not serve that kind
    │   ├── AlreadyExists         an object of that name is there
    │   ├── Conflict              the object changed since it was read, or another manager owns a field
    │   ├── Expired               the version asked for is no longer kept
    │   ├── Forbidden             a role, a quota or an admission rule says no
    │   ├── ObjectInvalid         the object is not what its kind allows
    │   └── LeadershipLost        another operator may lead by now
    ├── InternalError             a defect of ours: code met what it does not expect
    └── TransientError            the same call may succeed later
        ├── StoreUnavailable      the artifact store cannot be reached
        ├── DiskFull              no space left where the run writes
        ├── BackendUnavailable    Ray, or the control plane's backend, cannot be reached
        └── ClusterUnavailable    the Kubernetes API cannot be reached, is overloaded or failed

Each class carries its `reason` (the same word as the condition's reason and the heading in ``docs/runbook.md``) and
whether trying again can help. The text of an error says what was wrong, the value, where it came from, and what to do.
"""

import errno
import os
from typing import ClassVar

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SocAdapterError(Exception):
    """The root of the tree."""

    reason: ClassVar[str] = "Error"
    retryable: ClassVar[bool] = False


class SpecError(SocAdapterError):
    """What was asked for cannot be done as written."""

    reason = "InvalidSpec"


class BaseNotFound(SpecError):
    reason = "BaseNotFound"


class BaseMismatch(SpecError):
    reason = "BaseMismatch"


class RankTooHigh(SpecError):
    reason = "RankTooHigh"


class PrecisionMismatch(SpecError):
    reason = "PrecisionMismatch"


class UnsupportedStrategy(SpecError):
    reason = "UnsupportedStrategy"


class TemplateUnsupported(SpecError):
    reason = "TemplateUnsupported"


class ToolSchemaMismatch(SpecError):
    reason = "ToolSchemaMismatch"


class ContextConflict(SpecError):
    reason = "ContextConflict"


class PoolNotFound(SpecError):
    reason = "PoolNotFound"


class InsecureBind(SpecError):
    reason = "InsecureBind"


class OverlayRefused(SpecError):
    reason = "OverlayRefused"


class SecretNotFound(SpecError):
    reason = "SecretNotFound"


class RayTokenRefused(SpecError):
    reason = "RayTokenRefused"


class ForeignObject(SpecError):
    reason = "ForeignObject"


class DataError(SocAdapterError):
    """The data cannot be trained on or scored."""

    reason = "InvalidData"


class MalformedRow(DataError):
    reason = "MalformedRow"


class UnknownLabel(DataError):
    reason = "UnknownLabel"


class EmptyData(DataError):
    reason = "EmptyData"


class OneClass(DataError):
    reason = "OneClass"


class TooFewAlerts(DataError):
    reason = "TooFewAlerts"


class TruncatedVerdict(DataError):
    reason = "TruncatedVerdict"


class LabelLeak(DataError):
    reason = "LabelLeak"


class HoldoutOverlap(DataError):
    reason = "HoldoutOverlap"


class AlertTooLarge(DataError):
    reason = "AlertTooLarge"


class ArtifactError(SocAdapterError):
    """Stored bytes must not be used."""

    reason = "InvalidArtifact"


class DigestMismatch(ArtifactError):
    reason = "DigestMismatch"


class SignatureInvalid(ArtifactError):
    reason = "SignatureInvalid"


class UnsafeFormat(ArtifactError):
    reason = "UnsafeFormat"


class ForeignFile(ArtifactError):
    reason = "ForeignFile"


class ManifestInvalid(ArtifactError):
    reason = "ManifestInvalid"


class AlreadyPublished(ArtifactError):
    reason = "AlreadyPublished"


class TrainingError(SocAdapterError):
    """The run broke one of its own guarantees."""

    reason = "TrainingFailed"


class ZeroSteps(TrainingError):
    reason = "ZeroSteps"


class BaseChanged(TrainingError):
    reason = "BaseChanged"


class ResumeMismatch(TrainingError):
    reason = "ResumeMismatch"


class RunInterrupted(TrainingError):
    reason = "RunInterrupted"
    retryable = True


class ToolError(SocAdapterError):
    """A tool call did not give a usable answer."""

    reason = "ToolFailed"
    retryable = True


class ToolTimeout(ToolError):
    reason = "ToolTimeout"


class ToolOutage(ToolError):
    reason = "ToolOutage"


class ToolGarbage(ToolError):
    reason = "ToolGarbage"


class CircuitOpen(ToolError):
    reason = "CircuitOpen"


class ReplayMiss(ToolError):
    reason = "ReplayMiss"
    retryable = False


class ServingError(SocAdapterError):
    """A request cannot be served."""

    reason = "ServingFailed"


class UnknownVersion(ServingError):
    reason = "UnknownVersion"


class Unauthorized(ServingError):
    reason = "Unauthorized"


class CallerForbidden(ServingError):
    reason = "CallerForbidden"


class EngineUnavailable(ServingError):
    reason = "EngineUnavailable"
    retryable = True


class ClusterError(SocAdapterError):
    """The Kubernetes API answered, and said no."""

    reason = "ClusterError"


class ClusterNotConfigured(ClusterError):
    reason = "ClusterNotConfigured"


class LoginRefused(ClusterError):
    reason = "LoginRefused"
    retryable = True


class ObjectNotFound(ClusterError):
    reason = "ObjectNotFound"


class KindNotInstalled(ClusterError):
    reason = "KindNotInstalled"
    retryable = True


class AlreadyExists(ClusterError):
    reason = "AlreadyExists"


class Conflict(ClusterError):
    reason = "Conflict"
    retryable = True


class Expired(ClusterError):
    reason = "Expired"
    retryable = True


class Forbidden(ClusterError):
    reason = "Forbidden"
    retryable = True


class ObjectInvalid(ClusterError):
    reason = "ObjectInvalid"


class LeadershipLost(ClusterError):
    reason = "LeadershipLost"


class InternalError(SocAdapterError):
    """A defect of ours: code met what it does not expect."""

    reason = "InternalError"
    retryable = True


class TransientError(SocAdapterError):
    """The same call may succeed later."""

    reason = "Unavailable"
    retryable = True


class StoreUnavailable(TransientError):
    reason = "StoreUnavailable"


class DiskFull(TransientError):
    reason = "DiskFull"

    @staticmethod
    def is_behind(error: BaseException | None) -> bool:
        """Whether no space, quota or file size was left: by the system's number, or its words where that is hidden."""
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno in _FULL
        return error is not None and any(os.strerror(number) in str(error) for number in _FULL)


class BackendUnavailable(TransientError):
    reason = "BackendUnavailable"


class ClusterUnavailable(TransientError):
    """`retry_after_s`: how long the API server asked to be left alone; None where it did not say."""

    reason = "ClusterUnavailable"
    retry_after_s: float | None = None


def by_reason() -> dict[str, type[SocAdapterError]]:
    """Every class of the tree, those of other packages included, by its reason; the one nearest the root for each."""
    found: dict[str, type[SocAdapterError]] = {}
    waiting: list[type[SocAdapterError]] = [SocAdapterError]
    while waiting:
        kind = waiting.pop(0)
        found.setdefault(kind.reason, kind)
        waiting += kind.__subclasses__()
    return found
