"""The rules of the tree: what must never be in it, and that its pages lead somewhere."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 600
SOURCES = ("operator", "jobs", "serve")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
UNFINISHED = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error")))
MACHINE_PATH = re.compile(r"(?<![\w.{}$~-])/(root|home|Users|work)/[a-z]")


def files(*suffixes: str) -> Iterator[Path]:
    """Files of the tree with one of `suffixes`, without what is built, cached or installed."""
    for folder in (*SOURCES, "tests", "docs", "manifests", "requirements", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path
    yield from (path for path in sorted(ROOT.iterdir()) if path.is_file() and path.suffix in suffixes)


def modules() -> Iterator[Path]:
    yield from (path for path in files(".py") if path.relative_to(ROOT).parts[0] in SOURCES)


def test_operator_folder_shadows_nothing() -> None:
    """`operator/` holds packages only: a module of its own would take the place of the standard library's."""
    assert [path.name for path in (ROOT / "operator").iterdir() if path.is_file()] == []
    assert not list((ROOT / "operator").rglob("conftest.py"))
    assert not list((ROOT / "operator").rglob("test_*.py"))
    assert not (ROOT / "tests" / "operator").exists()


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("import operator; operator.itemgetter", id="operator"),
        pytest.param("import collections, json, socadapter_api", id="what needs operator"),
    ],
)
def test_standard_operator_imports_from_the_root(statement: str) -> None:
    """An interpreter that is started in the root, and has it on its path, finds the standard library's `operator`."""
    code = f"import sys; sys.path.insert(0, ''); {statement}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_packages_are_declared() -> None:
    """Every package of the tree is in the wheel, has a docstring and its types."""
    declared = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    found = {
        str(folder.relative_to(ROOT)) for source in SOURCES for folder in (ROOT / source).iterdir() if folder.is_dir()
    }
    assert found - {f"{source}/__pycache__" for source in SOURCES} == declared
    for package in declared:
        assert (ROOT / package / "__init__.py").read_text("utf-8").startswith('"""'), package
        assert (ROOT / package / "py.typed").is_file(), package


def test_modules_say_what_they_are_and_stay_small() -> None:
    """Every module begins with a docstring and ends before it is too long to be read in one go."""
    for path in modules():
        text = path.read_text("utf-8")
        assert text.startswith(('"""', 'r"""')), f"{path} has no docstring"
        assert text.count("\n") <= MAX_MODULE_LINES, f"{path} is too long: split it by nouns"


def test_modules_are_nouns() -> None:
    """No module is a drawer for what has no place."""
    drawers = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
    assert [path for path in modules() if path.stem in drawers] == []


def test_nothing_is_left_unfinished() -> None:
    """No marker of unfinished work is committed."""
    found = [path for path in files(".py", ".md", ".yaml", ".toml") if UNFINISHED.search(path.read_text("utf-8"))]
    assert found == []


def test_nothing_names_a_machine() -> None:
    """No page, manifest or setting names a path of the machine that it was written on."""
    found = [path for path in files(".md", ".yaml", ".toml") if MACHINE_PATH.search(path.read_text("utf-8"))]
    assert found == []


def test_locks_name_no_host_and_check_every_file() -> None:
    """The locks work with any package index: no address is in them, and each requirement has its hashes."""
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text("utf-8")
        assert "://" not in text, path
        assert "index" not in re.sub(r"#.*", "", text), path
    for name in ("all.txt", "operator.txt", "build.txt", "checkov.txt"):
        text = (ROOT / "requirements" / name).read_text("utf-8")
        for requirement in re.split(r"\n(?=\S)", text):
            if not requirement.startswith("#"):
                assert "--hash=sha256:" in requirement, requirement


def test_operator_image_has_no_training_stack() -> None:
    """What the operator's image installs contains neither torch nor ray, nor anything that brings them."""
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "operator.txt").read_text("utf-8"), re.MULTILINE)
    assert not {"torch", "ray", "transformers", "trl", "peft", "deepspeed", "vllm"} & set(locked)
    assert {"kopf", "pydantic"} <= set(locked)


def test_lock_covers_what_is_declared() -> None:
    """Every dependency that pyproject.toml declares for the default environment is in the lock."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + [
        line for extra in ("operator", "train", "serve", "dev") for line in extras[extra]
    ]
    names = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in wanted}
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "all.txt").read_text("utf-8"), re.MULTILINE)
    assert names - set(locked) == set()


def test_every_dependency_has_a_reason() -> None:
    """docs/dependencies.md says of each declared dependency why it and not its rival."""
    extras = PROJECT["project"]["optional-dependencies"]
    declared = PROJECT["project"]["dependencies"] + [line for lines in extras.values() for line in lines]
    names = {re.split(r"[\[<>=~! ]", line)[0] for line in declared}
    explained = set(
        re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "dependencies.md").read_text("utf-8"), re.MULTILINE)
    )
    assert names == explained


def test_links_lead_somewhere() -> None:
    """Every relative link of every page leads to a file of the tree."""
    broken = []
    for page in files(".md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_pages_name_targets_that_exist() -> None:
    """Every `make` target that a page names is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in files(".md"):
        named = set(re.findall(r"`make ([a-z-]+)", page.read_text("utf-8")))
        named |= set(re.findall(r"^make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page


def test_adrs_are_numbered_and_listed() -> None:
    """Decisions are numbered without a gap, and the list of them names each."""
    folder = ROOT / "docs" / "adr"
    numbers = [int(path.name[:4]) for path in sorted(folder.glob("[0-9]*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    listed = (folder / "README.md").read_text("utf-8")
    assert all(f"({path.name})" in listed for path in folder.glob("[0-9]*.md"))


def test_pages_name_commands_that_exist() -> None:
    """Every `socadapter` command that a page names is one of the program's."""
    from socadapter_cli.main import COMMANDS

    for page in files(".md"):
        named = set(re.findall(r"(?:`|bin/|kubectl )socadapter ([a-z]+)", page.read_text("utf-8")))
        assert named <= set(COMMANDS), page


def test_packaged_samples_are_the_manifests() -> None:
    """The samples that the installed program carries are those of `manifests/samples`."""
    packaged = ROOT / "operator" / "socadapter_cli" / "samples"
    named = {path.name: path.read_bytes() for path in (ROOT / "manifests" / "samples").glob("*.yaml")}
    assert {path.name: path.read_bytes() for path in packaged.glob("*.yaml")} == named
