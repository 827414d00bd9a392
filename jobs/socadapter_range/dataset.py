"""Cases and expert trajectories of a world, and their export as files.

A case's recorded evidence holds what each of the eight tools says about the alert's own fields, so that the case can
be replayed without the range. Called by the command line, tests and benchmarks.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from socadapter_api.case import Case
from socadapter_api.errors import SpecError
from socadapter_api.trajectory import ExpertTrajectory
from socadapter_range.expert import FIELD_OF, expert
from socadapter_range.toolbox import RangeToolbox
from socadapter_range.tools import ARGUMENT_OF, TOOL_SPECS
from socadapter_range.vocabulary import CONTEXTS
from socadapter_range.world import CAPACITY, Incident, World

TELEMETRY_FILE: Final = "telemetry.sqlite"
WORLD_FILE: Final = "world.json"
"""The seed and the drifts of an export, so that its figures can be checked later."""
_FILES: Final = ("trajectories.jsonl", "alerts.jsonl", "alerts_extra.jsonl", "holdout.jsonl")


def range_cases(
    world: World, context: str, split: str, n: int, tools: RangeToolbox | None = None, skip: int = 0
) -> list[Case]:
    """`n` cases of `context` from `split` (`train` or `holdout`), leaving out the first `skip`.

    With `tools` each case carries its recorded evidence.

    Raises:
        SpecError: no such context or split, or more alerts than the world holds.
    """
    incidents = world.incidents(context, split)
    _check_capacity(split, skip + n)
    return [_case(world, incident, tools) for incident in incidents[skip : skip + n]]


def _check_capacity(split: str, n: int) -> None:
    if n > CAPACITY[split]:
        raise SpecError(f"{n} {split} alerts were asked for; a world holds {CAPACITY[split]} a context, ask for fewer")


def _case(world: World, incident: Incident, tools: RangeToolbox | None) -> Case:
    entity = incident.entity
    alert = {
        "title": incident.story.kind.title,
        "severity": incident.severity,
        "sensor": incident.context.partition("-")[0],
        "user": entity.user,
        "host": entity.host,
        "indicator": incident.indicator,
        "detail": incident.detail,
    }
    evidence = {}
    if tools is not None:
        for spec in TOOL_SPECS:
            args = {ARGUMENT_OF[spec.name]: alert[FIELD_OF[spec.name]]}
            evidence[spec.name] = tools.answer(spec.name, args, incident.observed_at).text
    return Case(
        id=incident.id,
        context=incident.context,
        alert=alert,
        evidence=evidence,
        label=incident.story.truth,
        observed_at=incident.observed_at,
        entities=(entity.user, entity.host),
        group=incident.story.family,
        source=f"range seed {world.seed}",
    )


def solve(world: World, cases: Sequence[Case], tools: RangeToolbox) -> list[ExpertTrajectory]:
    """The expert's investigations of `cases`, under the policy that held on each alert's day."""
    return [expert(case, tools, world.policy_on(case.context, case.observed_at)) for case in cases]


def export(world: World, out: Path, *, train: int = 320, holdout: int = 96, extra: int = 0) -> None:
    """Telemetry, and per context trajectories, training alerts and holdout, as files under `out`.

    Raises:
        SpecError: `out` holds an export already, or more alerts are asked for than the world has.
    """
    _check_capacity("train", train + extra)
    _check_capacity("holdout", holdout)
    out.mkdir(parents=True, exist_ok=True)
    world.write(out / TELEMETRY_FILE)
    about = {"seed": world.seed, "drift": [drift.text for drift in world.drifts]}
    (out / WORLD_FILE).write_text(json.dumps(about) + "\n", encoding="utf-8")
    tools = RangeToolbox(out / TELEMETRY_FILE)
    try:
        for context in CONTEXTS:
            alerts = range_cases(world, context, "train", train, tools)
            parts: tuple[Iterable[BaseModel], ...] = (
                solve(world, alerts, tools),
                alerts,
                range_cases(world, context, "train", extra, tools, skip=train),
                range_cases(world, context, "holdout", holdout, tools),
            )
            folder = out / context
            folder.mkdir(exist_ok=True)
            for name, rows in zip(_FILES, parts, strict=True):
                if name != "alerts_extra.jsonl" or extra:
                    _write_lines(folder / name, rows)
    finally:
        tools.close()


def world_of(folder: Path) -> World:
    """The world that the export in `folder` was made from.

    Raises:
        SpecError: `folder` holds no export.
    """
    try:
        about = json.loads((folder / WORLD_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{folder} holds no {WORLD_FILE}: make it with `python -m socadapter_range export`") from None
    return World(about["seed"], drift=about["drift"])


def _write_lines(path: Path, rows: Iterable[BaseModel]) -> None:
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
