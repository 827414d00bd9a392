"""Serving on a Ray cluster that exists: one Serve application per pool, through the Serve REST API.

The application is named ``socadapter.<namespace>.<pool>`` and answers below ``/<namespace>/<pool>``. Its serving table
is each deployment's `user_config`, so that a new table reaches the replicas without a restart; a changed pool, key or
token is a new configuration, and Ray then replaces replica after replica.
"""

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydantic import ValidationError

from socadapter_api import digest
from socadapter_api.errors import SocAdapterError, SpecError
from socadapter_api.pool import SocServingPool, is_loopback, refuse_insecure_bind
from socadapter_api.serving_table import ServingTable
from socadapter_operator.backends import log_sources, pool_secrets, ray_applications, ray_states, serve_config
from socadapter_operator.backends.gateway import Gateways, Sight, base_digest
from socadapter_operator.backends.pool_secrets import PoolSecrets
from socadapter_operator.backends.ray_applications import Deployed, Document
from socadapter_operator.backends.ray_dashboard import RayDashboard, said
from socadapter_operator.domain.addresses import EVERYWHERE
from socadapter_operator.domain.observed import ServingState, ServingView
from socadapter_operator.domain.table import refuse_older

_APPLICATIONS = "/api/serve/applications/"

_writing: dict[str, threading.Lock] = defaultdict(threading.Lock)
"""By address: two writers of one cluster's document would undo each other."""


class RayServing:
    """The applications of one Ray cluster. `workdir` is the folder on its nodes for feedback and caches."""

    def __init__(self, dashboard: RayDashboard, secrets: PoolSecrets, workdir: str) -> None:
        self._dashboard = dashboard
        self._secrets = secrets
        self._workdir = workdir.rstrip("/")
        self._gateways = Gateways(secrets)

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Hands `table` to the pool's application, deployed, or deployed anew for a changed pool, where needed.

        Raises:
            SecretNotFound: the pool names a secret that is not there.
            SpecError: nobody could reach the gateway, or more could than the pool says.
            ForeignObject: another application has its name.
            Conflict: another table was put there meanwhile.
            RayTokenRefused, BackendUnavailable: as `RayDashboard.send`.
        """
        if pool.spec.replicas == 0:  # Ray Serve knows no deployment without any
            self.delete(pool)
            return
        self._refuse_unreachable(pool)
        self._secrets.signing_key(pool)
        config, config_digest = self._config(pool)
        with _writing[str(self._dashboard.url)]:
            details = self._details()
            refuse_insecure_bind(pool.spec.model_copy(update={"host": _host(details, pool)}))
            before = ray_applications.find(details, _name(pool))
            if before is not None:
                refuse_older(table, _table(before))
            starts = 1
            if before is not None and before.digest == config_digest:
                starts = before.starts + (before.status == ray_states.AppStatus.DEPLOY_FAILED)
            wanted = ray_applications.application(
                _name(pool), _route(pool), config, config_digest, table.model_dump(mode="json"), starts
            )
            self._write(details, pool, wanted)

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's application; never raises."""
        try:
            details = self._details()
            found = ray_applications.find(details, _name(pool))
        except SocAdapterError as error:
            return self._gateways.unseen(pool, error)
        if found is None:
            return ServingView()
        endpoint = _endpoint(details, pool, str(self._dashboard.url.host))
        deleting = found.status == ray_states.AppStatus.DELETING
        sight = Sight() if deleting else self._gateways.look(pool, endpoint)
        state = ray_states.serving(found.status, sight.answers)
        view = ServingView(
            state=state,
            endpoint=endpoint if state is ServingState.RUNNING else "",
            reports=sight.reports,
            table=_table(found),
            base_digest=base_digest(sight.reports),
            outdated=self._outdated(pool, found),
            reason=sight.reason,
            message=sight.message,
        )
        return _failed(view, found) if ray_states.is_broken(found.status) else view

    def logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]:
        """What Ray says about the application where it gave it up, and what its replicas printed.

        Raises:
            RayTokenRefused, BackendUnavailable, SpecError, ForeignObject: as `apply_table`.
        """
        found = ray_applications.find(self._details(), _name(pool))
        if found is None:
            return
        if ray_states.is_broken(found.status):
            yield from found.message.strip().splitlines()
        # A worker's standard error has Serve's own log and that of our code.
        told = f"/api/v0/logs/{'stream' if follow else 'file'}?suffix=err&lines=-1&actor_id="
        read = partial(self._dashboard.lines, follow=follow)
        sources = [
            log_sources.Source(replica.name, partial(read, f"{told}{replica.actor_id}"))
            for replica in found.replicas
            if replica.actor_id
        ]
        yield from log_sources.lines(sources, follow=follow)

    def delete(self, pool: SocServingPool) -> None:
        """Takes the pool's application away; raises as `RayDashboard.send`, and `ForeignObject`."""
        with _writing[str(self._dashboard.url)]:
            details = self._details()
            found = ray_applications.find(details, _name(pool))
            if found is not None and found.status != ray_states.AppStatus.DELETING:
                self._write(details, pool, None)

    def close(self) -> None:
        """Closes the connections to gateways."""
        self._gateways.close()

    def _details(self) -> Mapping[str, Any]:
        found = self._dashboard.get(_APPLICATIONS)
        if not isinstance(found, dict):
            raise SpecError(f"ray.address {self._dashboard.url} knows no Serve: is ray[serve] installed there?")
        return found

    def _write(self, details: Mapping[str, Any], pool: SocServingPool, wanted: Document | None) -> None:
        options = {"host": pool.spec.host, "port": pool.spec.port}
        document = ray_applications.replaced(details, _name(pool), wanted, options)
        answer = self._dashboard.send("PUT", _APPLICATIONS, document)
        if answer.is_error:
            raise SpecError(f"Ray at {self._dashboard.url} refused the application {_name(pool)!r}: {said(answer)}")

    def _config(self, pool: SocServingPool) -> tuple[str, str]:
        """The application's configuration and its digest."""
        document = serve_config.build(
            pool,
            state_dir=f"{self._workdir}/serving/{pool.metadata.namespace}/{pool.metadata.name}",
            cache_dir=f"{self._workdir}/cache",
            trusted_keys=pool_secrets.trusted_keys(pool, self._secrets),
            tokens=pool_secrets.serving_tokens(pool, self._secrets),
        )
        content = digest.canonical_json(document)
        return content.decode(), digest.of_bytes(content)

    def _outdated(self, pool: SocServingPool, found: Deployed) -> bool:
        """Whether another configuration was deployed, or the present one cannot be made: `apply_table` says why."""
        try:
            return found.digest != self._config(pool)[1]
        except SocAdapterError:
            return True

    def _refuse_unreachable(self, pool: SocServingPool) -> None:
        if is_loopback(pool.spec.host) and not is_loopback(str(self._dashboard.url.host)):
            raise SpecError(
                f"host {pool.spec.host!r} of pool {pool.metadata.name!r} is loopback on the Ray cluster at "
                f"{self._dashboard.url}, where nobody could ask it: set host to 0.0.0.0 and name callers"
            )


def _name(pool: SocServingPool) -> str:
    return f"socadapter.{pool.metadata.namespace}.{pool.metadata.name}"


def _route(pool: SocServingPool) -> str:
    return f"/{pool.metadata.namespace}/{pool.metadata.name}"


def _host(details: Mapping[str, Any], pool: SocServingPool) -> str:
    """Where Serve listens: as it was started, whoever did; else as the pool says."""
    return str((details.get("http_options") or {}).get("host", pool.spec.host))


def _endpoint(details: Mapping[str, Any], pool: SocServingPool, cluster_host: str) -> str:
    options = details.get("http_options") or {}
    host = _host(details, pool)
    shown = cluster_host if host in EVERYWHERE else host
    scheme = "https" if options.get("ssl_certfile") else "http"
    bracketed = f"[{shown}]" if ":" in shown else shown
    return f"{scheme}://{bracketed}:{options.get('port', pool.spec.port)}{options.get('root_path') or ''}{_route(pool)}"


def _table(found: Deployed) -> ServingTable | None:
    try:
        return ServingTable.model_validate(found.table)
    except ValidationError:
        return None


def _failed(view: ServingView, found: Deployed) -> ServingView:
    """The view of an application that Ray gave up, with what it said and since when."""
    lines = found.message.strip().splitlines() or [found.status]
    return replace(
        view,
        reason=ray_states.trouble(found.status, bool(view.reports)),
        failures=found.starts,
        failed_at=datetime.fromtimestamp(found.deployed_at, UTC) if found.deployed_at else None,
        message=f"Ray reports {found.status}: {lines[-1][:1000]}",
    )
