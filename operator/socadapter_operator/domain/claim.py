"""What others need to know of an adapter: which context it claims, where, and what answers it."""

from dataclasses import dataclass
from typing import Self

from socadapter_api.adapter import SocAdapter, VersionRef
from socadapter_api.training import DataSource


@dataclass(frozen=True, slots=True)
class Claim:
    """An adapter's claim to a context: a fiftieth of the adapter's size, since thousands are looked at together.

    `pool` is the one that it names, `served_by` the one where its alerts are answered; `created` as the API server
    writes it, empty in local mode; `trained`: a run was ever started for it.
    """

    name: str
    uid: str
    context: str
    match: str
    pool: str
    served_by: str
    created: str
    trained: bool
    stable: VersionRef | None
    previous: VersionRef | None
    holdout: DataSource | None

    @classmethod
    def of(cls, adapter: SocAdapter) -> Self:
        """The claim that `adapter` makes."""
        held, spec, status = adapter.metadata, adapter.spec, adapter.status
        return cls(
            name=held.name,
            uid=held.uid,
            context=spec.context,
            match=spec.match,
            pool=spec.serving_pool_ref.name,
            served_by=status.serving_pool or spec.serving_pool_ref.name,
            created=held.creation_timestamp,
            trained=status.last_number > 0,
            stable=status.versions.stable,
            previous=status.versions.previous,
            holdout=spec.data.holdout[0] if spec.data.holdout else None,
        )
