"""The samples, the README's way through them, and the demo that is made from them: none is in another's way."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from socadapter_cli import demo_world
from socadapter_operator.backends import process
from socadapter_range import CONTEXTS, TOOL_SPECS
from socadapter_range.__main__ import parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_MOST_CALLS = 4
"""Of the range's expert on one alert."""


def test_the_readme_exports_what_the_samples_read() -> None:
    """Every alert file and the telemetry of the samples lie in the folder that the README's export makes."""
    (command,) = re.findall(r"python -m socadapter_range (export [^#\n]+)", README)
    out = str(parser().parse_args(shlex.split(command)).out)
    named = set(re.findall(r"\bbuild/[\w./-]+", "".join(p.read_text() for p in (ROOT / "manifests/samples").iterdir())))
    store = demo_world.sample("pool")["spec"]["store"]
    assert {store} == {path for path in named if not path.startswith(f"{out}/")}
    assert len(named) == 8


def test_the_demo_shares_neither_folder_nor_port_with_the_samples(tmp_path: Path) -> None:
    """Its resources name its own files only, so that the samples can be tried after it, or beside it."""
    files = demo_world.write_resources(tmp_path, tmp_path / "range", "http://127.0.0.1:1/mcp", None)
    sample = demo_world.sample("pool")["spec"]
    pool = yaml.safe_load(files[0].read_text())["spec"]
    assert [] == [path for path in files if "build/" in path.read_text()]
    assert (True, True) == (sample["port"] != demo_world.PORT, sample["port"] != pool["port"])
    assert str(sample["port"]) in README


@pytest.mark.parametrize("folder", ["samples", "ray-samples"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_budgets_forbid_asking_all_tools(folder: str, context: str) -> None:
    """Which tool is asked matters: the calls of a sample suffice for what the range's expert asks, and not for all of
    the tools that its pool offers."""
    adapter, pool = (
        yaml.safe_load((ROOT / "manifests" / folder / f"{name}.yaml").read_text())["spec"] for name in (context, "pool")
    )
    (server,) = pool["tools"]
    offered = server.get("allow", [spec.name for spec in TOOL_SPECS])
    assert _MOST_CALLS <= adapter["grpo"]["maxCalls"] < len(offered)


@pytest.mark.parametrize(
    ("cores", "each", "limit"),
    [pytest.param(1, 1, "180s", id="in turn"), pytest.param(2, 1, "360s", id="at once"), pytest.param(9, 4, "360s")],
)
def test_contexts_share_the_demos_minutes_only_where_they_train_in_turn(
    cores: int, each: int, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tenths of 20 minutes are reinforcement learning's: of each context, or divided among them."""
    monkeypatch.setattr(process, "usable_cores", lambda: cores)
    for path in demo_world.write_resources(tmp_path, tmp_path / "range", "http://127.0.0.1:1/mcp", 20)[1:]:
        spec = yaml.safe_load(path.read_text())["spec"]
        assert (each, limit) == (spec["compute"]["cpusPerWorker"], spec["grpo"]["timeLimit"])
