"""The serving table: which version answers for which context. Desired state, handed to Ray Serve as `user_config`.

Nothing outside the table reaches a loader.
"""

from typing import Annotated

from pydantic import Field, model_validator

from socadapter_api.model import ContextStr, Contract, DigestStr, Message, Uri, Word


class ServedVersion(Contract):
    """One adapter that may be loaded."""

    name: Annotated[str, Field(max_length=63)]
    uri: Uri = Field(description="The run's folder in the adapter store.")
    digest: DigestStr


class ContextRoute(Contract):
    """How one context's alerts are answered."""

    context: ContextStr
    match: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="CEL over `alert`; empty: only chosen explicitly."
    )
    stable: ServedVersion | None = None
    canary: ServedVersion | None = None
    canary_weight_percent: int = Field(default=0, ge=0, le=100)
    shadow: ServedVersion | None = None
    previous: ServedVersion | None = Field(
        default=None, description="Stays resident: a rollback is a flip of the table."
    )
    salt: Annotated[str, Field(max_length=64)] = ""
    callers: tuple[Annotated[str, Field(max_length=253)], ...] = Field(
        default=(), description="Callers that may use it; empty: all known ones."
    )

    @model_validator(mode="after")
    def _weight_needs_canary(self) -> "ContextRoute":
        if self.canary_weight_percent and self.canary is None:
            raise ValueError(f"context {self.context!r} gives weight {self.canary_weight_percent} to no canary")
        return self

    def versions(self) -> tuple[ServedVersion, ...]:
        """Every version that the route names, stable first, without repeats."""
        named = (self.stable, self.canary, self.shadow, self.previous)
        return tuple({version.name: version for version in named if version is not None}.values())


class ServingTable(Contract):
    """The whole table of one pool."""

    generation: int = Field(default=0, ge=0, description="Grows with every change; replicas report the one they hold.")
    base_digest: DigestStr | None = None
    routes: tuple[ContextRoute, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> "ServingTable":
        contexts = [route.context for route in self.routes]
        if twice := {context for context in contexts if contexts.count(context) > 1}:
            raise ValueError(f"contexts {sorted(twice)} are routed more than once")
        digests: dict[str, str] = {}
        for route in self.routes:
            for version in route.versions():
                if digests.setdefault(version.name, version.digest) != version.digest:
                    raise ValueError(f"version {version.name!r} is named with two digests")
        return self

    def versions(self) -> dict[str, ServedVersion]:
        """Every version in the table, by name."""
        return {version.name: version for route in self.routes for version in route.versions()}


LOADING = "Loading"
"""The reason of a version that is on its way into a replica."""


class LoadedVersion(Contract):
    """What one replica reports about one version."""

    name: Word = Field(description="The version's name.")
    digest: DigestStr = Field(description="The digest of what was loaded.")
    ready: bool = Field(description="Whether it can answer.")
    reason: Word = Field(default="", description="Why it cannot, or how it differs, in one word.")
    message: Message = Field(default="", description="The same in words.")

    @property
    def refused(self) -> bool:
        """It cannot answer, and not because it is still being loaded."""
        return not self.ready and self.reason not in ("", LOADING)


class ReplicaReport(Contract):
    """What one engine replica holds."""

    replica: Word = Field(description="The replica's id.")
    generation: int = Field(ge=0, description="Generation of the serving table that it holds.")
    loaded: tuple[LoadedVersion, ...] = Field(default=(), max_length=4096, description="What it has loaded.")
    base_digest: DigestStr | None = Field(default=None, description="Digest of the base that it serves, where known.")
