"""The signing keys of pools that name none: one of its own for each pool, in a Secret that goes with it.

A key is made by what starts a pool's first service or run, never by a look. One that is gone is not replaced while a
version is recorded that only it can have signed: with another key nobody would trust that version any more.
"""

import base64
from collections.abc import Iterator

from pydantic import ValidationError

from socadapter_api.errors import AlreadyExists, ForeignObject, SecretNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef
from socadapter_operator.backends import pool_secrets
from socadapter_operator.backends.pool_secrets import PoolSecrets
from socadapter_operator.builders import labels
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, SECRET, Object, key_of, metadata, uid_of

SIGNING_KEY = "-signing-key"
"""The end of the name of a Secret with a key that was made here."""

_KEY_FILE = "key.pem"


def ref_of(pool: SocServingPool) -> KeyRef:
    """Where the key of `pool` is, or would be."""
    return KeyRef(name=f"{pool.metadata.name}{SIGNING_KEY}", key=_KEY_FILE)


class GeneratedKeys:
    """The keys of a cluster's pools. `secrets` knows every pool's key, those included that are named."""

    def __init__(self, client: Client, secrets: PoolSecrets) -> None:
        self._client = client
        self._secrets = secrets

    def find(self, pool: SocServingPool) -> Object:
        """The Secret with the key of `pool`.

        Raises:
            SecretNotFound: there is none.
            ForeignObject: the Secret of that name is another's.
        """
        found = self._client.find(SECRET, pool.metadata.namespace, ref_of(pool).name)
        if found is None:
            raise SecretNotFound(
                f"Secret {ref_of(pool).name!r} with the signing key of pool {pool.metadata.name!r} is not in namespace "
                f"{pool.metadata.namespace!r}: it is made with the pool's first service or run; if it was there "
                "before, restore it"
            )
        return _own(found, pool)

    def make(self, pool: SocServingPool) -> None:
        """Sees to it that `pool` has its key.

        Raises:
            SecretNotFound: it had one that is gone, and versions that are signed with it are still recorded.
            ForeignObject: as `find`.
        """
        namespace, ref = pool.metadata.namespace, ref_of(pool)
        found = self._client.find(SECRET, namespace, ref.name)
        if found is None:
            self._refuse_to_replace(pool)
            try:
                found = self._client.create(SECRET, _made(pool, ref))
            except AlreadyExists:  # another operator was first; its key is as good
                found = self._client.get(SECRET, namespace, ref.name)
        _own(found, pool)

    def _refuse_to_replace(self, pool: SocServingPool) -> None:
        signed = dict(self._signed(pool))
        known = self._known(pool) if signed else frozenset()
        orphans = {version: by for version, by in signed.items() if by not in known}
        if not orphans:
            return
        version, by = sorted(orphans.items())[-1]
        raise SecretNotFound(
            f"Secret {ref_of(pool).name!r} with the signing key of pool {pool.metadata.name!r} is gone from namespace "
            f"{pool.metadata.namespace!r}, and recorded versions, such as {version!r}, are signed with it (public key "
            f"{by}): restore it; or name another key in signing.keySecretRef and the lost one's public key in "
            "trust.publicKeys"
        )

    def _signed(self, pool: SocServingPool) -> Iterator[tuple[str, str]]:
        """The versions of the adapters that `pool` trains or serves, and the fingerprints of the keys that signed."""
        namespace = pool.metadata.namespace
        adapters = {
            uid_of(adapter)
            for adapter in self._client.list(ADAPTER, namespace).items
            if pool.metadata.name in _pools_of(adapter)
        }
        for version in self._client.list(ADAPTER_VERSION, namespace).items if adapters else ():
            by = (version.get("spec") or {}).get("signedBy")
            if by and any(owner.get("uid") in adapters for owner in metadata(version).get("ownerReferences") or ()):
                yield key_of(version).name, str(by)

    def _known(self, pool: SocServingPool) -> frozenset[str]:
        """The fingerprints of the keys that `pool` is told to trust, and of those of the other pools: an adapter may
        have come from there.
        """
        from socadapter_store.signatures import fingerprint

        keys = list(pool.spec.trust.public_keys)
        for raw in self._client.list(POOL, pool.metadata.namespace).items:
            if uid_of(raw) != pool.metadata.uid:
                try:
                    keys += pool_secrets.trusted_keys(SocServingPool.model_validate(raw), self._secrets)
                except (ValidationError, SecretNotFound, ForeignObject):
                    continue  # that pool has no key either, and its own pass says so
        return frozenset(fingerprint(key) for key in keys)


def _pools_of(adapter: Object) -> tuple[str, ...]:
    """The names of the pools that train and serve the adapter."""
    spec, status = adapter.get("spec") or {}, adapter.get("status") or {}
    return str((spec.get("servingPoolRef") or {}).get("name")), str(status.get("servingPool"))


def _made(pool: SocServingPool, ref: KeyRef) -> Object:
    from socadapter_store.signatures import new_private_key

    data = {ref.key: base64.b64encode(new_private_key().encode()).decode()}
    return {"metadata": dict(labels.metadata(ref.name, pool, labels.of_pool(pool))), "type": "Opaque", "data": data}


def _own(found: Object, pool: SocServingPool) -> Object:
    if all(owner.get("uid") != pool.metadata.uid for owner in metadata(found).get("ownerReferences") or ()):
        raise ForeignObject(
            f"Secret {key_of(found).name!r} in namespace {pool.metadata.namespace!r} does not belong to pool "
            f"{pool.metadata.name!r}, which would keep its signing key there: name a key in signing.keySecretRef"
        )
    return found
