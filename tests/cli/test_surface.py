"""The command line's surface: names, helps, speed, and how errors look."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from socadapter_cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
ADAPTER = "{kind: SocAdapter, metadata: {name: a}, spec: {context: a, servingPoolRef: {name: b}, data: {}"
HEAVY = ("pydantic", "torch", "ray", "transformers", "numpy", "httpx", "rich")

Call = Callable[..., Result]


def test_help_answers_at_once() -> None:
    """`socadapter --help` imports nothing that takes time, and uses less than 0.3 s of processor."""
    code = (
        "import sys, time, click.testing\n"
        "from socadapter_cli.main import cli\n"
        "result = click.testing.CliRunner().invoke(cli, ['--help'])\n"
        "import json\n"
        "print(json.dumps([result.exit_code, sorted(sys.modules), time.process_time()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, modules, seconds = json.loads(done.stdout)
    assert exit_code == 0
    assert [] == [name for name in HEAVY if name in modules]
    assert seconds < 0.3


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, call: Call) -> None:
    """Each command loads, and says what it does in the words of the list."""
    result = call(name, "--help")
    assert (0, True) == (result.exit_code, "Usage:" in result.output), result.output


def test_an_unknown_command_is_refused(call: Call) -> None:
    """With the usual exit code of a wrong command line."""
    assert call("no-such-command").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        pytest.param(("get", "nonsense"), 2, "error[InvalidSpec]: kind 'nonsense'", id="wrong kind"),
        pytest.param(("describe", "nobody"), 2, "error[ObjectNotFound]: state folder", id="no such resource"),
        pytest.param(("up",), 2, "error[InvalidSpec]: state folder", id="nothing to drive"),
        pytest.param(("triage", "missing.json"), 2, "error[InvalidSpec]: missing.json", id="no such alert"),
        pytest.param(("triage", "-"), 2, "error[MalformedRow]", id="alert is not JSON"),
        pytest.param(("verify", "missing"), 2, "error[SecretNotFound]", id="no key to verify with"),
        pytest.param(("train", "nobody"), 2, "error[ObjectNotFound]", id="no such adapter"),
        pytest.param(("train",), 2, "Usage:", id="nothing to train"),
    ],
)
def test_errors_are_told_in_one_line(arguments: tuple[str, ...], code: int, told: str, call: Call) -> None:
    """`error[Reason]: text` and the exit code of its kind; no traceback."""
    result = call(*arguments, stdin="not json")
    assert code == result.exit_code
    assert told in result.stderr
    assert "Traceback" not in result.output


def test_debug_shows_where(call: Call) -> None:
    """With --debug an error of the tree keeps its traceback."""
    result = call("--debug", "get", "nonsense")
    assert type(result.exception).__name__ == "SpecError"


@pytest.mark.parametrize(
    ("document", "told"),
    [
        pytest.param("kind: SocAdaptor", "kind 'SocAdaptor' is none of", id="wrong kind"),
        pytest.param("kind: [", "is not YAML", id="not YAML"),
        pytest.param("- 1", "holds list where a resource", id="no resource"),
        pytest.param("", "hold no SocServingPool", id="empty"),
        pytest.param(
            f"{ADAPTER}, lora: {{rank: 0}}}}}}",
            "spec.lora.rank: Input should be greater than or equal to 1 (got 0)",
            id="value out of bounds",
        ),
        pytest.param(
            f"{ADAPTER}, loar: {{}}}}}}",
            "spec.loar: Extra inputs are not permitted",
            id="unknown field",
        ),
    ],
)
def test_a_wrong_file_names_itself_and_the_field(document: str, told: str, call: Call, tmp_path: Path) -> None:
    """Nothing is started for a file that is wrong, and the error says where."""
    (tmp_path / "bad.yaml").write_text(document)
    result = call("up", "--wait", "-f", "bad.yaml")
    assert (2, True) == (result.exit_code, told in result.stderr), result.stderr
    assert not (tmp_path / ".socadapter" / "runs").exists()


def test_packaged_samples_are_those_of_the_manifests() -> None:
    """The demo's resources are the samples that a cluster takes."""
    packaged, published = ROOT / "operator/socadapter_cli/samples", ROOT / "manifests/samples"
    names = {path.name for path in published.glob("*.yaml")}
    assert names == {path.name for path in packaged.glob("*.yaml")}
    for name in names:
        assert (published / name).read_text() == (packaged / name).read_text(), f"copy manifests/samples/{name} again"
