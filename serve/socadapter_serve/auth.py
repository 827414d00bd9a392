"""Who is calling, and which contexts the caller may use. Pure; the gateway asks before anything else happens.

Without configured callers the application serves loopback only, and everyone there is `ANYONE`.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from socadapter_api.errors import CallerForbidden, SpecError, Unauthorized
from socadapter_api.pool import Caller
from socadapter_api.serving_table import ContextRoute

MIN_TOKEN_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller that was recognised. No contexts: every one."""

    name: str
    contexts: frozenset[str] = frozenset()

    def may_use(self, route: ContextRoute) -> bool:
        """Whether both the caller's own list and the route's let it use the context."""
        own = not self.contexts or route.context in self.contexts
        return own and (not route.callers or self.name in route.callers)

    def require(self, route: ContextRoute) -> None:
        """Refuses a context that is not the caller's.

        Raises:
            CallerForbidden: either list leaves the caller out.
        """
        if not self.may_use(route):
            raise CallerForbidden(
                f"caller {self.name!r} may not use context {route.context!r}: "
                "name it among the pool's callers and in the context's route"
            )


ANYONE = Identity("local")


class Callers:
    """The callers of one pool, by token."""

    def __init__(self, callers: tuple[Caller, ...], tokens: Mapping[str, str]) -> None:
        """Takes each caller's token by its name.

        Raises:
            SpecError: a token is too short to be one, or two callers share one.
        """
        self._known = [
            (tokens[caller.name].encode(), Identity(caller.name, frozenset(caller.contexts))) for caller in callers
        ]
        for token, identity in self._known:
            if len(token) < MIN_TOKEN_CHARACTERS:
                raise SpecError(
                    f"the token of caller {identity.name!r} is shorter than {MIN_TOKEN_CHARACTERS} characters: "
                    "make a longer one"
                )
        if len({token for token, _ in self._known}) < len(self._known):
            raise SpecError("two callers share one token: give each its own")

    @property
    def required(self) -> bool:
        """Whether a request needs a token at all."""
        return bool(self._known)

    def identify(self, authorization: str | None) -> Identity:
        """The caller behind an ``Authorization`` header; compares with every token, in constant time.

        Raises:
            Unauthorized: no bearer token, or one that no caller has.
        """
        if not self._known:
            return ANYONE
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthorized("no bearer token: send 'Authorization: Bearer TOKEN'")
        token = given.strip().encode()
        found = [identity for known, identity in self._known if hmac.compare_digest(known, token)]
        if not found:
            raise Unauthorized("the bearer token belongs to no caller of this pool")
        return found[0]
