"""What an adapter's rank and reach cost and gain: accuracy, minutes and size of SFT variants (`make bench-rank`).

One context of the range, one seed, the same investigations and epochs for each variant; only the adapter's shape
differs. The scale, alpha / rank, is the same for all. Variants that are finished are kept.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from tests.benchmarks import arms
from tests.benchmarks.ledger import Ledger, keep, require_same_settings, run_with_model

from socadapter_api.training import EvaluationSpec, GrpoSpec, LoraSpec
from socadapter_jobs.data.case_files import read_cases, read_trajectories
from socadapter_jobs.scoring.metrics import summarize
from socadapter_range.dataset import TELEMETRY_FILE, export
from socadapter_range.vocabulary import CONTEXTS
from socadapter_range.world import World

VARIANTS = ("1", "4", "16", "4:10", "16:10", "16:4")
EVALUATION = EvaluationSpec()
_TRAINING_S, _JUDGING_S = 480.0, 100.0


@dataclass(frozen=True, slots=True)
class Variant:
    """An adapter's rank, and how many of the last layers it adapts (None: all)."""

    rank: int
    top_layers: int | None

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """``RANK`` or ``RANK:TOP_LAYERS``."""
        rank, _, top = text.partition(":")
        return cls(int(rank), int(top) if top else None)

    @property
    def name(self) -> str:
        return f"rank-{self.rank}" + (f"-top-{self.top_layers}" if self.top_layers else "")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="rank.py", description=__doc__)
    found.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        default=list(VARIANTS),
        metavar="RANK[:TOP_LAYERS],...",
        help="comma-separated",
    )
    found.add_argument("--context", default=CONTEXTS[0])
    found.add_argument("--scale", type=int, default=4, help="alpha / rank")
    found.add_argument("--train", type=int, default=320)
    found.add_argument("--holdout", type=int, default=112)
    found.add_argument("--seed", type=int, default=7)
    found.add_argument("--out", type=Path, default=Path("build/bench"))
    arms.add_training_options(found)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and judges the variants that are not done yet; writes ``rank.json`` and ``rank.md``."""
    options = parser().parse_args(argv)
    work = options.out / "rank"
    left_out = {"out", "variants", "rank", "alpha", "top_layers"}
    settings = {name: value for name, value in vars(options).items() if name not in left_out}
    require_same_settings(work / "settings.json", settings)
    world = work / "range"
    if not world.exists():
        partial = work / "range.partial"
        shutil.rmtree(partial, ignore_errors=True)
        export(World(options.seed), partial, train=options.train, holdout=options.holdout)
        partial.rename(world)
    bench = arms.Bench.on(options.base, work)
    variants = [Variant.parse(text) for text in options.variants]
    ledger = Ledger(
        {f"{v.name} {what}": s for v in variants for what, s in (("SFT", _TRAINING_S), ("judged", _JUDGING_S))}
    )
    rows = []
    for variant in variants:
        rows.append(run_variant(bench, variant, world, work / variant.name, options, ledger))
        keep(options.out / "rank.json", {"variants": rows, "settings": settings})
        (options.out / "rank.md").write_text(markdown(rows))
    print(markdown(rows))
    return 0


def run_variant(
    bench: arms.Bench, variant: Variant, world: Path, folder: Path, options: argparse.Namespace, ledger: Ledger
) -> dict[str, Any]:
    """One variant's training and what it reached on the held-out alerts."""
    tools = arms.RangeTools(world / TELEMETRY_FILE)
    data = world / options.context
    ground = arms.Ground(
        train=(),
        development=(),
        experts=read_trajectories(str(data / "trajectories.jsonl")),
        specs=tools.specs,
        toolbox_of=tools.guarded(),
        lora=LoraSpec(rank=variant.rank, alpha=options.scale * variant.rank, top_layers=variant.top_layers),
        seed=options.seed,
    )
    _begin(ledger, f"{variant.name} SFT", folder / arms.DONE)
    facts = arms.supervised(bench, ground, folder, arms.sft_of(options), report=ledger.at)
    ledger.finish()
    path = folder / "scores.json"
    _begin(ledger, f"{variant.name} judged", path)
    holdout = read_cases(str(data / "holdout.jsonl"))
    with arms.Examining(bench, tools.guarded(), GrpoSpec(max_turn_tokens=options.max_turn_tokens)) as examining:
        work = arms.Judging(path, holdout, variant.name, folder / arms.ADAPTER_FOLDER)
        rows = arms.judged(examining, work, ledger.at)
    ledger.finish()
    figures = summarize(rows, weights=EVALUATION.utility)
    counts = facts["parameters"]
    return {
        "variant": variant.name,
        "rank": variant.rank,
        "top_layers": variant.top_layers,
        "adapter_parameters": counts["adapter"],
        "percent_of_base": 100.0 * counts["adapter"] / counts["base"],
        "mb": facts["adapter_mb"],
        "minutes": facts["seconds"] / 60.0,
        "loss": facts["loss"],
        "n": figures.n,
        "balanced_accuracy": figures.balanced_accuracy,
        "fnr": figures.fnr,
        "auc": figures.auc,
        "utility": figures.utility,
    }


def _begin(ledger: Ledger, task: str, finished: Path) -> None:
    if finished.is_file():
        ledger.skip(task)
    else:
        ledger.begin(task)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The variants as a table for people."""
    lines = [
        "| rank | layers | parameters | of the base | MB | minutes | balanced accuracy | FNR | AUC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        layers = f"top {row['top_layers']}" if row["top_layers"] else "all"
        reached = (_number(row[name]) for name in ("balanced_accuracy", "fnr", "auc"))
        lines.append(
            f"| {row['rank']} | {layers} | {row['adapter_parameters']:,} | {row['percent_of_base']:.2f} % | "
            f"{row['mb']:.1f} | {row['minutes']:.1f} | {' | '.join(reached)} |"
        )
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(run_with_model(main))
