"""Keys and tokens of local mode: files below the state folder, named as Secrets are in a cluster.

``secrets/<name>/<key>`` holds a value each. Where a pool names no signing key, one is made below ``keys/``.
"""

from collections.abc import Iterable
from pathlib import Path

from socadapter_api.errors import SecretNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef

SECRETS = "secrets"
KEYS = "keys"


class Credentials:
    """The credentials below one state folder."""

    def __init__(self, state: Path) -> None:
        self.secrets = state / SECRETS
        self.keys = state / KEYS

    def path(self, ref: KeyRef) -> Path:
        """The file that holds `ref`.

        Raises:
            SecretNotFound: there is no such file.
        """
        found = self.secrets / ref.name / ref.key
        if not found.is_file():
            raise SecretNotFound(f"secret {ref.name!r} has no key {ref.key!r}: put its value into {found}")
        return found

    def signing_key(self, pool: SocServingPool) -> Path:
        """The private key that signs what runs of `pool` publish; made where the pool names none.

        Raises:
            SecretNotFound: the pool names a key that is not there.
        """
        ref = pool.spec.signing.key_secret_ref
        if ref is not None:
            return self.path(ref)
        from socadapter_store.signatures import make_key

        return make_key(self.keys).private

    def trusted_keys(self, pool: SocServingPool) -> tuple[str, ...]:
        """The public keys whose signatures `pool` accepts: those of its spec, and that of its signing key."""
        from socadapter_store.signatures import public_key_of

        return tuple(dict.fromkeys((*pool.spec.trust.public_keys, public_key_of(self.signing_key(pool)))))

    def tokens(self, pool: SocServingPool) -> dict[str, str]:
        """The value of every secret that `pool`'s spec names for serving, by ``name/key``."""
        return {f"{ref.name}/{ref.key}": self.path(ref).read_text(encoding="utf-8").strip() for ref in _refs(pool)}


def _refs(pool: SocServingPool) -> Iterable[KeyRef]:
    spec = pool.spec
    yield from (caller.token_secret_ref for caller in spec.callers)
    yield from (server.token_secret_ref for server in spec.tools if server.token_secret_ref)
    yield from (ref for ref in (spec.feedback_store.url_secret_ref, spec.ray.token_secret_ref) if ref)
