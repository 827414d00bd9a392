"""Serving as a RayService: applied whenever table or pool changed, and seen through KubeRay's word and the gateway's.

A new table changes `serveConfigV2` alone, which KubeRay hands to the cluster that serves. Whether it runs with the
present pool is told by an annotation, the digest of all the rest.
"""

import json
import secrets as random_tokens
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from socadapter_api import digest
from socadapter_api.errors import Forbidden, KindNotInstalled, ObjectNotFound, SocAdapterError
from socadapter_api.pool import SocServingPool
from socadapter_api.serving_table import ServingTable
from socadapter_operator.backends import kuberay_states, log_sources, pool_secrets, serve_config
from socadapter_operator.backends.cluster_objects import ClusterObjects
from socadapter_operator.backends.gateway import Gateways, Sight, base_digest
from socadapter_operator.backends.generated_keys import SIGNING_KEY
from socadapter_operator.backends.kuberay_states import Surroundings
from socadapter_operator.backends.pool_secrets import PoolSecrets
from socadapter_operator.builders import labels, objects, pods, rayservice
from socadapter_operator.builders.installation import Installation
from socadapter_operator.builders.objects import PoolObjects
from socadapter_operator.domain.observed import ServingState, ServingView
from socadapter_operator.domain.table import refuse_older
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import (
    NETWORK_POLICY,
    POD,
    RAY_SERVICE,
    SECRET,
    Kind,
    Object,
    key_of,
    metadata,
    uid_of,
    version_of,
)

SPEC_DIGEST = "socadapter.io/spec-digest"
_TABLE_FIELD = "serveConfigV2"
_TOKEN_BYTES = 32


class KubeRayServing:
    """The services of one namespace's pools."""

    def __init__(self, client: Client, secrets: PoolSecrets, installation: Installation) -> None:
        self._client = client
        self._secrets = secrets
        self._installation = installation
        self._objects = ClusterObjects(client)
        self._gateways = Gateways(secrets)

    def apply_table(self, pool: SocServingPool, table: ServingTable) -> None:
        """Applies the pool's objects; one that KubeRay gave up for good is deleted, and made anew by the next pass.

        Raises:
            SecretNotFound, InsecureBind, OverlayRefused, SpecError: the pool cannot be served as written.
            ForeignObject: a name is taken by an object of another owner.
            Conflict: another table was put there meanwhile.
            ClusterError, ClusterUnavailable: as `Client`.
        """
        self._secrets.signing_key(pool)
        made = self._built(pool, table, self._installation)
        found = self._find(pool)
        if found is not None:
            self._objects.refuse_foreign(RAY_SERVICE, found, pool.metadata.uid)
            if kuberay_states.served(found, rayservice.APP_NAME, answers=False).terminal:
                self._delete(RAY_SERVICE, found)
                return
            refuse_older(table, _table(found))
            made.service["metadata"]["resourceVersion"] = version_of(found)
        self._objects.apply(NETWORK_POLICY, made.policy)
        self._objects.create(SECRET, made.token)
        self._objects.create(SECRET, made.config)
        self._objects.apply(RAY_SERVICE, made.service)
        self._drop_old(pool, key_of(made.config).name)

    def serving(self, pool: SocServingPool) -> ServingView:
        """What is known about the pool's service; never raises."""
        try:
            return self._seen(pool)
        except SocAdapterError as error:
            return self._gateways.unseen(pool, error)

    def delete(self, pool: SocServingPool) -> None:
        """Deletes the pool's service, its configuration and its policy. Without KubeRay there is no service."""
        found = self._find(pool)
        if found is not None:
            self._objects.refuse_foreign(RAY_SERVICE, found, pool.metadata.uid)
            self._delete(RAY_SERVICE, found)
        for kind in (SECRET, NETWORK_POLICY):
            mine = f"{labels.POOL}={pool.metadata.name},{labels.COMPONENT}={labels.SERVING}"
            for item in self._client.list(kind, pool.metadata.namespace, labels=mine).items:
                # The signing key stays with its pool: what it signed is still trusted.
                if not key_of(item).name.endswith(SIGNING_KEY):
                    self._delete(kind, item)

    def logs(self, pool: SocServingPool, *, follow: bool = False) -> Iterator[str]:
        """What the containers of the pool's pods that have started printed; raises as `Client.log_lines`."""
        sources = [
            log_sources.Source(
                f"{key_of(pod).name} {container}",
                partial(self._client.log_lines, *key_of(pod), container=container, follow=follow),
            )
            for pod in sorted(self._around(pool).pods, key=lambda pod: key_of(pod).name)
            for container in _started(pod)
        ]
        return log_sources.lines(sources, follow=follow)

    def close(self) -> None:
        """Closes the connections to gateways."""
        self._gateways.close()

    def _seen(self, pool: SocServingPool) -> ServingView:
        found = self._client.find(RAY_SERVICE, pool.metadata.namespace, rayservice.service_name(pool))
        if found is None:
            return ServingView()
        self._objects.refuse_foreign(RAY_SERVICE, found, pool.metadata.uid)
        endpoint = rayservice.endpoint(pool)
        sight = self._sight(pool, endpoint)
        seen = kuberay_states.served(found, rayservice.APP_NAME, sight.answers)
        if seen.state in (ServingState.STARTING, ServingState.FAILED):
            seen = kuberay_states.served(found, rayservice.APP_NAME, sight.answers, self._around(pool))
        table = _table(found)
        return ServingView(
            state=seen.state,
            endpoint=endpoint if seen.state is ServingState.RUNNING else "",
            reports=sight.reports,
            table=table,
            base_digest=base_digest(sight.reports),
            outdated=self._outdated(pool, table, found),
            reason=seen.reason or sight.reason,
            message=seen.message if seen.reason else sight.message,
        )

    def _sight(self, pool: SocServingPool, endpoint: str) -> Sight:
        """What the gateway says; to one who looks from outside, where it has no such name, what it said last."""
        if self._installation.is_known:
            return self._gateways.look(pool, endpoint)
        return Sight(bool(pool.status.replicas), pool.status.replicas)

    def _built(self, pool: SocServingPool, table: ServingTable, installation: Installation) -> PoolObjects:
        config = serve_config.build(
            pool,
            state_dir=rayservice.STATE_DIR,
            cache_dir=pods.CACHE,
            trusted_keys=pool_secrets.trusted_keys(pool, self._secrets),
            tokens=pool_secrets.serving_tokens(pool, self._secrets),
        )
        token = random_tokens.token_hex(_TOKEN_BYTES)
        made = objects.of_pool(pool, table, config, installation, token=token)
        made.service["metadata"]["annotations"] = {SPEC_DIGEST: _spec_digest(made.service)}
        return made

    def _outdated(self, pool: SocServingPool, table: ServingTable | None, found: Object) -> bool:
        """Whether another pool, key or token was applied, or the present one cannot be: `apply_table` says why."""
        installation = self._installation
        if not installation.is_known:
            installation = replace(installation, serving_image=rayservice.image_of(found))
        try:
            wanted = _spec_digest(self._built(pool, table or ServingTable(), installation).service)
        except Forbidden:
            return installation is self._installation  # who only looks need not be let read Secrets
        except SocAdapterError:
            return True
        return bool((metadata(found).get("annotations") or {}).get(SPEC_DIGEST) != wanted)

    def _find(self, pool: SocServingPool) -> Object | None:
        try:
            return self._client.find(RAY_SERVICE, pool.metadata.namespace, rayservice.service_name(pool))
        except KindNotInstalled:
            return None

    def _drop_old(self, pool: SocServingPool, current: str) -> None:
        """Deletes former configurations but for the newest: a cluster that is being replaced still mounts it."""
        mine = f"{labels.POOL}={pool.metadata.name}"
        stem = f"{rayservice.service_name(pool)}-config-"
        listed = self._client.list(SECRET, pool.metadata.namespace, labels=mine).items
        former = [item for item in listed if key_of(item).name.startswith(stem) and key_of(item).name != current]
        for item in sorted(former, key=lambda secret: str(metadata(secret).get("creationTimestamp")))[:-1]:
            self._delete(SECRET, item)

    def _delete(self, kind: Kind, found: Object) -> None:
        with suppress(ObjectNotFound):
            self._client.delete(kind, *key_of(found), uid=uid_of(found))

    def _around(self, pool: SocServingPool) -> Surroundings:
        listed = self._client.list(POD, pool.metadata.namespace, labels=f"{labels.POOL}={pool.metadata.name}").items
        return Surroundings(pods=listed)


def _spec_digest(service: Object) -> str:
    """The digest of what makes the pods, and of the deployments without their table."""
    spec = {key: value for key, value in service["spec"].items() if key != _TABLE_FIELD}
    return digest.of_json([spec, _without_tables(json.loads(service["spec"][_TABLE_FIELD]))])


def _without_tables(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_tables(value) for key, value in config.items() if key != "user_config"}
    return [_without_tables(value) for value in config] if isinstance(config, list) else config


def _started(pod: Mapping[str, Any]) -> tuple[str, ...]:
    """The pod's containers that have, or had, a process."""
    told = (pod.get("status") or {}).get("containerStatuses") or ()
    return tuple(str(one["name"]) for one in told if {"running", "terminated"} & set(one.get("state") or ()))


def _table(service: Object) -> ServingTable | None:
    """The table in the service's own configuration; None where it cannot be read."""
    try:
        config = json.loads(service["spec"][_TABLE_FIELD])
        return ServingTable.model_validate(config["applications"][0]["deployments"][0]["user_config"])
    except (ValueError, LookupError, TypeError, ValidationError):
        return None
