"""How many of a set of investigations a tool's outage may take out before what is left says nothing of the model.

An outage passes, and a decision taken in it would last: beyond the limit a run ends with an error that is tried again.
Called by the grpo stage and by evaluation.
"""

from collections.abc import Sequence

from socadapter_api.errors import ToolOutage

MOST_PERCENT = 50.0
"""What may be out of a few investigations, such as those of one step, where a small share would be a single one."""


def too_many(outages: Sequence[bool], allowed_percent: float) -> bool:
    """Whether more than `allowed_percent` of the investigations had an outage; one entry each."""
    return 100 * sum(outages) > allowed_percent * len(outages)


def require_answers(outages: Sequence[bool], allowed_percent: float, what: str) -> None:
    """Does nothing where tools answered often enough in the investigations of `what`.

    Raises:
        ToolOutage: they did not.
    """
    if too_many(outages, allowed_percent):
        raise ToolOutage(
            f"a tool failed in {sum(outages)} of {len(outages)} investigations of {what}, and at most "
            f"{allowed_percent:g} % may: the rest decides nothing. Look at the tool servers in spec.tools; the next "
            "attempt goes on from the last checkpoint"
        )
