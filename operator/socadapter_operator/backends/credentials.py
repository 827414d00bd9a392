"""Keys and tokens of local mode: files below the state folder, named as Secrets are in a cluster.

``secrets/<name>/<key>`` holds a value each. Where a pool names no signing key, one is made below ``keys/``.
"""

from pathlib import Path

from socadapter_api.errors import SecretNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef

SECRETS = "secrets"
KEYS = "keys"


class Credentials:
    """The credentials below one state folder: `PoolSecrets` of this machine."""

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

    def value(self, pool: SocServingPool, ref: KeyRef) -> str:
        """The value of `ref`; all pools of a state folder share its secrets.

        Raises:
            SecretNotFound: there is no such file.
        """
        return self.path(ref).read_text(encoding="utf-8").strip()

    def private_key(self, pool: SocServingPool) -> str:
        """The PEM private key that signs what runs of `pool` publish; none is made.

        Raises:
            SecretNotFound: the pool names a key that is not there, or `signing_key` has yet to make one.
        """
        from socadapter_store.signatures import PRIVATE_KEY

        ref = pool.spec.signing.key_secret_ref
        found = self.path(ref) if ref is not None else self.keys / PRIVATE_KEY
        try:
            return found.read_text(encoding="ascii")
        except FileNotFoundError:
            raise SecretNotFound(
                f"there is no signing key {found}: it is made with the first service or run; if it was there before, "
                "restore it"
            ) from None
