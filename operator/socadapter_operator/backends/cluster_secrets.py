"""The values of a pool's secrets in a cluster: Secrets of its namespace, read whenever they are asked for.

Where a pool names no signing key, it has one of its own (`generated_keys`).
"""

import base64
import binascii

from socadapter_api.errors import ObjectNotFound, SecretNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef
from socadapter_operator.backends import generated_keys
from socadapter_operator.backends.generated_keys import GeneratedKeys
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.resources import SECRET, Object


class ClusterSecrets:
    """`PoolSecrets` of a cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._generated = GeneratedKeys(client, self)

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
        """The PEM private key that signs what runs of `pool` publish, as it is: none is made.

        Raises:
            SecretNotFound: as `value`, and where `signing_key` has yet to make one.
            ForeignObject: as `signing_key`.
        """
        named = pool.spec.signing.key_secret_ref
        if named is not None:
            return self.value(pool, named)
        return _value(self._generated.find(pool), generated_keys.ref_of(pool)).strip()

    def signing_key(self, pool: SocServingPool) -> KeyRef:
        """Where the private key of `pool` is; made where the pool names none.

        Raises:
            SecretNotFound: the pool names one that is not there, and a pod would wait for it without a word; or the one
                that was made is gone, and versions need it.
            ForeignObject: the name of the Secret to make is taken by somebody else's.
        """
        named = pool.spec.signing.key_secret_ref
        if named is not None:
            self.value(pool, named)
            return named
        self._generated.make(pool)
        return generated_keys.ref_of(pool)


def _value(secret: Object, ref: KeyRef) -> str:
    held = (secret.get("data") or {}).get(ref.key)
    try:
        return base64.b64decode(held or "", validate=True).decode("utf-8") if held is not None else _missing(ref)
    except (binascii.Error, UnicodeDecodeError):
        raise SecretNotFound(f"key {ref.key!r} of Secret {ref.name!r} is no text") from None


def _missing(ref: KeyRef) -> str:
    raise SecretNotFound(f"Secret {ref.name!r} has no key {ref.key!r}: add it")
