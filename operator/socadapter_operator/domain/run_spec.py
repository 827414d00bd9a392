"""The run spec of an adapter's next run, and the version that a published run makes."""

from itertools import islice

from socadapter_api.adapter import RunStatus, SocAdapter, VersionSpec
from socadapter_api.pool import SocServingPool
from socadapter_api.training import MAX_OTHER_CONTEXTS, ComputeSpec, ParentRef, Precision, RunSpec
from socadapter_operator.domain.claim import Claim
from socadapter_operator.domain.observed import Observed
from socadapter_operator.domain.state import Evidence, Verification


def build(adapter: SocAdapter, pool: SocServingPool, observed: Observed, run: RunStatus) -> RunSpec:
    """Everything that run is told. The backend adds what only it knows: where scratch and keys lie."""
    spec, others = adapter.spec, _others(adapter, observed)
    return RunSpec(
        run_id=run.run_id,
        namespace=adapter.metadata.namespace,
        adapter=adapter.metadata.name,
        context=spec.context,
        version_number=run.number,
        training_hash=run.training_hash,
        base=pool.spec.base,
        max_rank=pool.spec.max_lora_rank,
        store=pool.spec.store,
        data=spec.data,
        other_contexts={other.context: other.holdout for other in others if other.holdout is not None},
        other_runs=tuple(other.stable.uri for other in others if other.stable is not None),
        tools=pool.spec.tools,
        lora=spec.lora,
        sft=spec.sft,
        grpo=spec.grpo,
        compute=_compute(adapter, pool),
        evaluation=spec.evaluation,
        trusted_keys=pool.spec.trust.public_keys,
        parent=_parent(adapter),
        continue_from=spec.continue_from,
        seed=spec.seed,
    )


def next_number(adapter: SocAdapter, observed: Observed) -> int:
    """A version number that no version of the context has had."""
    return 1 + max([adapter.status.last_number, *(version.spec.number for version in observed.versions)])


def version(adapter: SocAdapter, run: RunStatus, evidence: Evidence, verification: Verification) -> VersionSpec | None:
    """The version that a published and verified run makes; None where the evidence does not hold together."""
    result, manifest = evidence.result, evidence.manifest
    if result is None or manifest is None or result.digest is None or manifest.adapter_digest != result.digest:
        return None
    if (result.run_id, manifest.run_id, manifest.context) != (run.run_id, run.run_id, adapter.spec.context):
        return None
    return VersionSpec(
        version=manifest.version,
        context=manifest.context,
        number=manifest.number,
        digest=manifest.adapter_digest,
        uri=evidence.uri,
        run_id=run.run_id,
        parent=manifest.parent,
        base_digest=manifest.base_digest,
        training_hash=run.training_hash,
        inputs=manifest.inputs,
        config_digest=manifest.config_digest,
        code_digest=manifest.code_digest,
        metrics=result.metrics or manifest.metrics,
        signed_by=verification.signed_by,
    )


def _compute(adapter: SocAdapter, pool: SocServingPool) -> ComputeSpec:
    """The adapter's own. Where it leaves the number format open, the run judges in the one that the pool serves in."""
    compute = adapter.spec.compute.of_run()
    if compute.precision is not Precision.AUTO:
        return compute
    return compute.model_copy(update={"precision": pool.spec.engine.precision})


def _parent(adapter: SocAdapter) -> ParentRef | None:
    stable = adapter.status.versions.stable
    return ParentRef(name=stable.name, uri=stable.uri, digest=stable.digest) if stable else None


def _others(adapter: SocAdapter, observed: Observed) -> tuple[Claim, ...]:
    """The pool's other contexts that a run can be measured on; of more than it may be told, the first by name."""
    held = {
        other.context: other
        for other in sorted(observed.claims, key=lambda claim: claim.name)
        if other.context != adapter.spec.context
        and other.pool == adapter.spec.serving_pool_ref.name
        and other.holdout is not None
    }
    return tuple(islice(held.values(), MAX_OTHER_CONTEXTS))
