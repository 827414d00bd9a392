"""A backend in this process: a run publishes when it starts, a service holds what its table names.

For tests that need hundreds of runs and no word about processes; keys, secrets, artifacts and checks are real.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.local.stand_in_job import BASE_DIGEST, publish_version

from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import LoadedVersion, ReplicaReport, ServingTable
from socadapter_api.training import RunSpec
from socadapter_operator.backends import pool_secrets, serve_config
from socadapter_operator.backends.composed import ComposedBackend
from socadapter_operator.backends.credentials import Credentials
from socadapter_operator.domain.observed import EndedRun, ServingState, ServingView
from socadapter_operator.domain.state import BackendRun, RunState
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder


class InProcessRuns:
    """The runs that were started, each once for each start."""

    def __init__(self) -> None:
        self.started: list[RunSpec] = []
        self._lock = threading.Lock()

    def start(self, spec: RunSpec, scratch: Path) -> None:
        with self._lock:
            self.started.append(spec)
        folder = RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))
        if folder.read_result() is None:
            publish_version(spec, folder, scratch)

    def of(self, adapter: str) -> list[str]:
        """The ids of the adapter's runs, in the order of their starts."""
        with self._lock:
            return [spec.run_id for spec in self.started if spec.adapter == adapter]

    def observe(self, run_id: str) -> BackendRun:
        with self._lock:
            known = any(spec.run_id == run_id for spec in self.started)
        return BackendRun(RunState.SUCCEEDED) if known else BackendRun()

    def stop(self, run_id: str) -> None: ...

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        return ()

    def forget(self, run_id: str) -> None: ...

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        return iter(())


class InProcessServing:
    """Each pool with the table and the configuration that it was given last."""

    def __init__(self, secrets: Credentials) -> None:
        self._secrets = secrets
        self._given: dict[tuple[str, str], tuple[ServingTable, dict[str, Any]]] = {}

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        self._secrets.signing_key(pool)
        tokens = pool_secrets.serving_tokens(pool, self._secrets)
        keys = pool_secrets.trusted_keys(pool, self._secrets)
        made = serve_config.build(pool, state_dir="/state", cache_dir="/cache", trusted_keys=keys, tokens=tokens)
        self._given[_key(pool)] = table, made

    def spec_of(self, pool: SocServingPool) -> dict[str, Any]:
        """The spec that the pool's service was given."""
        spec: dict[str, Any] = self._given[_key(pool)][1]["pool"]["spec"]
        return spec

    def serving(self, pool: SocServingPool) -> ServingView:
        if _key(pool) not in self._given:
            return ServingView(base_digest=BASE_DIGEST)
        table, config = self._given[_key(pool)]
        held = tuple(LoadedVersion(name=v.name, digest=v.digest, ready=True) for v in table.versions().values())
        reports = (
            ReplicaReport(replica=f"r{at}", generation=table.generation, loaded=held)
            for at in range(pool.spec.replicas)
        )
        return ServingView(
            ServingState.RUNNING,
            endpoint=f"http://127.0.0.1:{pool.spec.port}",
            reports=tuple(reports),
            table=table,
            base_digest=BASE_DIGEST,
            outdated=config["pool"] != serve_config.pool_document(pool),
        )

    def delete(self, pool: SocServingPool) -> None:
        self._given.pop(_key(pool), None)

    def logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]:
        return iter(())


class InProcessBackend(ComposedBackend[InProcessRuns, InProcessServing]):
    """`Backend` for every pool of a test."""

    def __init__(self, state: Path) -> None:
        self.credentials = Credentials(state)
        self._scratch = state / "scratch"
        super().__init__(InProcessRuns(), InProcessServing(self.credentials), self.credentials)

    def start(self, spec: RunSpec, pool: SocServingPool) -> None:
        key = str(self.credentials.signing_key(pool))
        self.runs.start(spec.model_copy(update={"signing_key": key}), self._scratch / spec.run_id)

    def keep_secret(self, name: str, *keys: str) -> None:
        """Makes a secret whose every key holds a private key, which does for a token, too."""
        from socadapter_store.signatures import new_private_key

        text = new_private_key()
        for key in keys:
            path = self.credentials.secrets / name / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="ascii")


def _key(pool: SocServingPool) -> tuple[str, str]:
    return pool.metadata.namespace, pool.metadata.name
