"""What a pool's spec names by reference: keys and tokens, wherever the backend's values of Secrets come from."""

from collections.abc import Iterable
from typing import Protocol

from socadapter_api.errors import SecretNotFound
from socadapter_api.pool import SocServingPool
from socadapter_api.training import KeyRef


class PoolSecrets(Protocol):
    """Where the values of a pool's secrets come from: files in local mode, Secrets of its namespace in a cluster."""

    def value(self, pool: SocServingPool, ref: KeyRef) -> str:
        """The value of `ref`, without surrounding white space.

        Raises:
            SecretNotFound: there is no such secret, or it has no such key.
        """
        ...

    def private_key(self, pool: SocServingPool) -> str:
        """The PEM private key that signs what runs of `pool` publish. A look: none is made.

        Raises:
            SecretNotFound: it is not there.
        """
        ...

    def signing_key(self, pool: SocServingPool) -> object:
        """Where that key is; made where the pool names none. Asked by what starts a run or a service, and nothing else.

        Raises:
            SecretNotFound: the pool names a key that is not there, or had one that cannot be replaced.
        """
        ...


def trusted_keys(pool: SocServingPool, secrets: PoolSecrets) -> tuple[str, ...]:
    """The public keys whose signatures `pool` accepts: those of its spec, and that of its signing key.

    Raises:
        SecretNotFound: the signing key is missing, or no EC private key.
    """
    from socadapter_store.signatures import public_key_of_pem

    ref = pool.spec.signing.key_secret_ref
    where = f"of secret {ref.name!r}, key {ref.key!r}" if ref else f"of pool {pool.metadata.name!r}"
    own = public_key_of_pem(secrets.private_key(pool), where)
    return tuple(dict.fromkeys((*pool.spec.trust.public_keys, own)))


def serving_tokens(pool: SocServingPool, secrets: PoolSecrets) -> dict[str, str]:
    """The value of every secret that the service of `pool` needs, by ``name/key``.

    Raises:
        SecretNotFound: one of them is missing.
    """
    return _values(pool, _of_serving(pool), secrets)


def tool_tokens(pool: SocServingPool, secrets: PoolSecrets) -> dict[str, str]:
    """The bearer tokens of the tool servers of `pool`, by ``name/key``; all that a run needs besides its signing key.

    Raises:
        SecretNotFound: one of them is missing.
    """
    return _values(pool, _of_tools(pool), secrets)


def caller_headers(pool: SocServingPool, secrets: PoolSecrets, context: str) -> dict[str, str]:
    """The headers of a caller that may see `context`; none where the pool asks for none.

    Raises:
        SecretNotFound: the caller's token is missing.
    """
    for caller in pool.spec.callers:
        if not caller.contexts or context in caller.contexts:
            return {"authorization": f"Bearer {secrets.value(pool, caller.token_secret_ref)}"}
    return {}


def caller_tokens(pool: SocServingPool, secrets: PoolSecrets) -> tuple[str, ...]:
    """The tokens of every caller whose Secret is there; none where the pool asks for none.

    Raises:
        SecretNotFound: the pool has callers, and not one of their tokens is there.
    """
    found, missing = list[str](), None
    for caller in pool.spec.callers:
        try:
            found.append(secrets.value(pool, caller.token_secret_ref))
        except SecretNotFound as error:
            missing = error
    if missing is not None and not found:
        raise missing
    return tuple(found)


def _values(pool: SocServingPool, refs: Iterable[KeyRef], secrets: PoolSecrets) -> dict[str, str]:
    return {f"{ref.name}/{ref.key}": secrets.value(pool, ref) for ref in refs}


def _of_tools(pool: SocServingPool) -> Iterable[KeyRef]:
    return (server.token_secret_ref for server in pool.spec.tools if server.token_secret_ref)


def _of_serving(pool: SocServingPool) -> Iterable[KeyRef]:
    yield from (caller.token_secret_ref for caller in pool.spec.callers)
    yield from _of_tools(pool)
    if pool.spec.feedback_store.url_secret_ref:
        yield pool.spec.feedback_store.url_secret_ref
