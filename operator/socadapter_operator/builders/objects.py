"""Everything that a run, or a pool, needs in a cluster, in the order in which it must be created.

Policies come first: no pod is ever there without one. Called by the KubeRay backend.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_api.training import KeyRef, RunSpec
from socadapter_operator.builders import network, rayjob, rayservice, run_config, secrets
from socadapter_operator.builders.installation import Installation

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunObjects:
    """The objects of one run. None holds a secret's value."""

    policy: Json
    config: Json
    job: Json

    def __iter__(self) -> Iterator[Json]:
        return iter((self.policy, self.config, self.job))


@dataclass(frozen=True, slots=True)
class PoolObjects:
    """The objects of one pool. `token` and `config` hold secrets' values."""

    policy: Json
    token: Json
    config: Json
    service: Json

    def __iter__(self) -> Iterator[Json]:
        return iter((self.policy, self.token, self.config, self.service))


def of_run(
    spec: RunSpec,
    adapter: SocAdapter,
    pool: SocServingPool,
    installation: Installation,
    *,
    signing_key: KeyRef,
) -> RunObjects:
    """The objects of the run that `spec` describes, owned by `adapter`.

    `signing_key` is the key in a Secret of the namespace that signs what is published.

    Raises:
        OverlayRefused, SpecError: as `rayjob.build`.
    """
    config = run_config.build(run_config.placed(spec, signing_key), adapter)
    job = rayjob.build(
        spec,
        adapter,
        pool,
        installation,
        config_map=config["metadata"]["name"],
        signing_key=signing_key,
    )
    return RunObjects(
        policy=network.of_run(spec.run_id, adapter, pool, installation),
        config=config,
        job=job,
    )


def of_pool(
    pool: SocServingPool, table: ServingTable, config: Mapping[str, Any], installation: Installation, *, token: str
) -> PoolObjects:
    """The objects that serve `pool` with `table`, owned by it.

    `config` is `backends.serve_config.build` with `rayservice.STATE_DIR` and `pods.CACHE`; `token` is the cluster's.

    Raises:
        InsecureBind, OverlayRefused, SpecError: as `rayservice.build`.
    """
    service = rayservice.service_name(pool)
    held = secrets.serving_config(service, config, pool)
    made = rayservice.build(
        pool,
        table,
        installation,
        config_secret=held["metadata"]["name"],
        token_secret=secrets.token_name(service),
    )
    return PoolObjects(
        policy=network.of_pool(service, pool, installation),
        token=secrets.ray_token(service, token, pool),
        config=held,
        service=made,
    )
