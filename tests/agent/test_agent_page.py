"""The page on the agent says what the code does: its example runs, its turns parse, its words are the code's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from socadapter_agent.protocol import Malformed, parse_turn
from socadapter_agent.tools import MAX_RESULT_CHARACTERS, GuardedToolbox
from socadapter_api.trajectory import CallOutcome, Trajectory

PAGE = (Path(__file__).parents[2] / "docs/agent.md").read_text()


@pytest.mark.parametrize(
    "text", re.findall(r"<!-- turn -->\n```json\n(.*?)```", PAGE, re.DOTALL), ids=["call", "answer"]
)
def test_the_turns_on_the_page_are_turns(text: str) -> None:
    """What the page shows as a turn, the parser takes."""
    assert not isinstance(parse_turn(text), Malformed)


@pytest.mark.slow
def test_the_example_runs(base_dir: Path, tmp_path: Path) -> None:
    """The example, on a tiny base in place of the built-in one, prints a trajectory."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code.replace("builtin://smollm2-135m-instruct", str(base_dir)))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert Trajectory.model_validate_json(done.stdout).verdict == "invalid"


def test_the_outcomes_are_those_that_calls_have() -> None:
    """The table names every outcome that a toolbox can give, and which of them are the environment's fault."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| .* \| is (scored|unscorable) \|$", PAGE, re.MULTILINE)
    told = {name: scored for names, scored in rows for name in re.findall(r"`(\w+)`", names)}
    models_own = {CallOutcome.UNKNOWN_TOOL, CallOutcome.INVALID_ARGUMENTS, CallOutcome.REPEATED}
    assert told.keys() == {outcome.value for outcome in CallOutcome} - {outcome.value for outcome in models_own}
    failed = {outcome for outcome in CallOutcome if outcome.environment_failed} | {CallOutcome.REPLAY_MISS}
    assert {name for name, scored in told.items() if scored == "unscorable"} == {outcome.value for outcome in failed}


def test_the_figures_are_the_codes() -> None:
    """Limits on the page are the defaults."""
    assert f"{MAX_RESULT_CHARACTERS:,} characters" in PAGE
    defaults = GuardedToolbox.__dataclass_fields__
    assert (defaults["failures_to_open"].default, defaults["open_s"].default) == (5, 30.0)
    assert "failed five times in a row: not asked for 30 seconds" in PAGE


def test_the_counters_are_the_records() -> None:
    """Each counter on the page is a field of the record, by the name that it has in JSON."""
    fields = {str(field.alias or name) for name, field in Trajectory.model_fields.items()}
    table = PAGE.split("| the model |")[1].split("\n\n")[0]
    counters = set(re.findall(r"\| `(\w+)` \|$", table, re.MULTILINE))
    assert counters == {"malformed", "unknownTools", "repeats", "ungrounded", "stop"}
    assert counters <= fields
