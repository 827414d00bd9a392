"""Carries out what a plan asks for. Each action twice is as good as once."""

from contextlib import suppress

from socadapter_api.adapter import SocAdapter, VersionSpec
from socadapter_api.errors import AlreadyExists, ForeignObject, ObjectNotFound, PoolNotFound
from socadapter_operator.backends.protocol import Backend, BackendOf
from socadapter_operator.builders import labels
from socadapter_operator.domain.actions import (
    Action,
    ApplyTable,
    ForgetRun,
    ForgetVersion,
    RecordVersion,
    StartRun,
    StopRun,
)
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER_VERSION, Object, metadata, uid_of


class Hands:
    """Carries out the actions of an adapter's plan."""

    def __init__(self, client: Client, backend_of: BackendOf) -> None:
        self._client = client
        self._backend_of = backend_of

    def carry_out(self, action: Action, adapter: SocAdapter, backend: Backend) -> None:
        """Does `action` for `adapter`; `backend` is where its runs are.

        Raises:
            SocAdapterError: it was refused, or may be tried again.
        """
        match action:
            case StartRun(spec=spec, pool=pool):
                self._backend_of(pool).start(spec, pool)
            case StopRun(run_id=run_id):
                backend.stop(run_id)
            case RecordVersion(version=version):
                self._record(version, adapter)
            case ForgetVersion(name=name):
                self._forget(name, adapter)
            case ForgetRun(run_id=run_id):
                backend.forget(run_id)
            case ApplyTable():
                raise PoolNotFound("a serving table belongs to a pool's plan, not to an adapter's")

    def _record(self, version: VersionSpec, adapter: SocAdapter) -> None:
        namespace, uid = adapter.metadata.namespace, adapter.metadata.uid
        held = labels.metadata(version.version, adapter, labels.of_run(adapter, version.run_id))
        body: Object = {"metadata": held, "spec": version.model_dump(mode="json", exclude_none=True)}
        try:
            self._client.create(ADAPTER_VERSION, body)
        except AlreadyExists:
            there = self._client.get(ADAPTER_VERSION, namespace, version.version)
            digest = (there.get("spec") or {}).get("digest")
            if not owned_by(there, uid) or digest != version.digest:
                raise ForeignObject(
                    f"SocAdapterVersion {namespace}/{version.version} with digest {digest} is there and is not of this "
                    f"SocAdapter (uid {uid}): delete it, if nobody needs it, and the version is recorded"
                ) from None

    def _forget(self, name: str, adapter: SocAdapter) -> None:
        namespace = adapter.metadata.namespace
        there = self._client.find(ADAPTER_VERSION, namespace, name)
        if there is None or not owned_by(there, adapter.metadata.uid):
            return
        with suppress(ObjectNotFound):
            self._client.delete(ADAPTER_VERSION, namespace, name, uid=uid_of(there))


def owned_by(item: Object, uid: str) -> bool:
    """Whether the object `uid` controls `item`."""
    return any(ref.get("controller") and ref.get("uid") == uid for ref in metadata(item).get("ownerReferences") or ())
