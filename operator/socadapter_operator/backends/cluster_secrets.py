"""The values of a pool's secrets in a cluster: Secrets of its namespace, read whenever they are asked for.

Where a pool names no signing key, one is made once, in a Secret of the pool's own.
"""

import base64
import binascii

from socadapter_api.errors import AlreadyExists, ForeignObject, ObjectNotFound, SecretNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef
from socadapter_operator.builders import labels
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import SECRET, Object, metadata

SIGNING_KEY = "-signing-key"
"""The end of the name of a Secret with a key that was made here."""

_KEY_FILE = "key.pem"


class ClusterSecrets:
    """`PoolSecrets` of a cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def value(self, pool: SocServingPool, ref: KeyRef) -> str:
        """The value of `ref` in the pool's namespace.

        Raises:
            SecretNotFound: there is no such Secret, or it has no such key.
            ClusterError, ClusterUnavailable: as `Client.get`.
        """
        namespace = pool.metadata.namespace
        try:
            return _value(self._client.get(SECRET, namespace, ref.name), ref).strip()
        except ObjectNotFound:
            raise SecretNotFound(
                f"there is no Secret {ref.name!r} in namespace {namespace!r}, which pool {pool.metadata.name!r} names: "
                f"create it with the key {ref.key!r}"
            ) from None

    def private_key(self, pool: SocServingPool) -> str:
        """The PEM private key that signs what runs of `pool` publish; raises as `signing_key` and `value`."""
        return self.value(pool, self.signing_key(pool))

    def signing_key(self, pool: SocServingPool) -> KeyRef:
        """Where the private key of `pool` is; made where the pool names none.

        Raises:
            SecretNotFound: the pool names one that is not there: a pod would wait for it without a word.
            ForeignObject: the name of the Secret to make is taken by somebody else's.
        """
        named = pool.spec.signing.key_secret_ref
        if named is not None:
            self.value(pool, named)
            return named
        ref = KeyRef(name=f"{pool.metadata.name}{SIGNING_KEY}", key=_KEY_FILE)
        found = self._client.find(SECRET, pool.metadata.namespace, ref.name) or self._made(pool, ref)
        owners = metadata(found).get("ownerReferences") or ()
        if all(owner.get("uid") != pool.metadata.uid for owner in owners):
            raise ForeignObject(
                f"Secret {ref.name!r} in namespace {pool.metadata.namespace!r} does not belong to pool "
                f"{pool.metadata.name!r}, which would keep its signing key there: name a key in signing.keySecretRef"
            )
        return ref

    def _made(self, pool: SocServingPool, ref: KeyRef) -> Object:
        from socadapter_store.signatures import new_private_key

        data = {ref.key: base64.b64encode(new_private_key().encode()).decode()}
        made = {"metadata": dict(labels.metadata(ref.name, pool, labels.of_pool(pool))), "type": "Opaque", "data": data}
        try:
            return self._client.create(SECRET, made)
        except AlreadyExists:  # another operator was first; its key is as good
            return self._client.get(SECRET, pool.metadata.namespace, ref.name)


def _value(secret: Object, ref: KeyRef) -> str:
    held = (secret.get("data") or {}).get(ref.key)
    try:
        return base64.b64decode(held or "", validate=True).decode("utf-8") if held is not None else _missing(ref)
    except (binascii.Error, UnicodeDecodeError):
        raise SecretNotFound(f"key {ref.key!r} of Secret {ref.name!r} is no text") from None


def _missing(ref: KeyRef) -> str:
    raise SecretNotFound(f"Secret {ref.name!r} has no key {ref.key!r}: add it")
