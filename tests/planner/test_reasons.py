"""Every reason that a condition, a run or an event may carry is explained in the runbook."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.backends import transcript
from tests.runbook import QUIET_WORDS, SECTIONS

from socadapter_operator.backends import kuberay_states
from socadapter_operator.backends.kuberay_states import Surroundings

ROOT = Path(__file__).parents[2]
OPERATOR = ROOT / "operator" / "socadapter_operator"
SAYS = (
    *(OPERATOR / "domain").glob("*.py"),
    *(OPERATOR / "backends").glob("*.py"),
    *(OPERATOR / "local").glob("*.py"),
    OPERATOR / "shell" / "endings.py",
    OPERATOR / "shell" / "refusals.py",
)
"""The modules that make conditions, runs' reasons and events."""

WORD = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")
LOOKS_UP = ("get", "_part", "_holds")
"""Functions whose arguments are names in what others wrote."""

NO_REASONS = frozenset(
    {
        "Ready", "Reconciling",  # types of conditions, where they are named apart from one
        "Spec", "Request", "Tick",  # causes of a run
        "None", "Success", "Unreadable",  # what a store holds
        "ContainerCreating", "PodInitializing",  # of the kubelet, and never passed on
        "Opaque", "SocAdapterVersion", "Kind", "Delete",  # kinds, types and verbs
    }
)  # fmt: skip


def words(path: Path) -> Iterator[str]:
    """The words in capitals that a module writes: no types of conditions or keys, nothing compared or looked up."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = list(ast.walk(tree))
    others = {id(part) for node in nodes for name in _names(node) for part in ast.walk(name)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in others:
            yield from (node.value,) if WORD.fullmatch(node.value) else ()


def _names(node: ast.AST) -> Iterable[ast.AST]:
    match node:
        case ast.Dict(keys=keys):
            return [key for key in keys if key is not None]
        case ast.Compare(left=left, comparators=comparators):
            return [left, *comparators]
        case ast.Subscript(slice=place):
            return [place]
        case ast.keyword(arg="type", value=named):
            return [named]
        case ast.Call(func=ast.Name(id="_made"), args=[_, named, *_]):
            return [named]
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=arguments) if name in LOOKS_UP:
            return arguments
        case _:
            return []


@pytest.mark.parametrize("path", [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in sorted(SAYS)])
def test_reasons_of_a_module_are_explained(path: Path) -> None:
    """Each has a section, or asks for nothing and stands in the table of such words."""
    assert set() == set(words(path)) - NO_REASONS - set(SECTIONS) - QUIET_WORDS


def test_what_is_left_out_is_no_reason_elsewhere() -> None:
    """The list above has no word that the runbook explains, and none that no module has any more."""
    said = {word for path in SAYS for word in words(path)}
    assert set() == NO_REASONS & set(SECTIONS)
    assert set() == NO_REASONS - said


SCENES = sorted(path.stem for path in transcript.FOLDER.glob("*.json"))


@pytest.mark.parametrize("scene", SCENES)
def test_reasons_that_kuberay_and_the_kubelet_gave_are_explained(scene: str) -> None:
    """Whatever was recorded of a real KubeRay, each reason that the operator makes of it has its section."""
    found = set()
    for _, there in transcript.read(scene).states():
        pods = [item for (kind, _), item in there.items() if kind == "Pod"]
        clusters = [None, *(item for (kind, _), item in there.items() if kind == "RayCluster")]
        for (kind, _), item in there.items():
            for around in (Surroundings(None, cluster, pods) for cluster in clusters):
                if kind == "RayJob":
                    found.add(kuberay_states.run(item, around).reason)
                elif kind == "RayService":
                    found.add(kuberay_states.served(item, "socadapter", answers=False, around=around).reason)
    assert set() == found - {""} - set(SECTIONS)


def test_reasons_of_a_run_that_waits_are_explained() -> None:
    """Those of Kueue and the kubelet that the page on backends names."""
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    told = re.search(r"\*\*Why is it not running\?\*\*(.*?)\n\n", page, flags=re.DOTALL)
    assert told is not None
    named = re.findall(r"`(\w+)`", told[1])
    assert "ImagePullBackOff" in named
    assert set() == set(named) - set(SECTIONS)


@pytest.mark.parametrize("reason", sorted(SECTIONS))
def test_sections_say_something(reason: str) -> None:
    """More than the heading does."""
    assert len(SECTIONS[reason].split()) >= 20
