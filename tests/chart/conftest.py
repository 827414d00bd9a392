"""The chart, rendered and installed by the real Helm."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.controlplane.fixtures import program

CHART = Path(__file__).parents[2] / "charts" / "socadapter"

Manifest = dict[str, Any]


class HelmFailed(RuntimeError):
    """Helm ended with an error; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm with a home of its own, so that nothing of the machine's takes part."""

    program: Path
    home: Path

    def __call__(self, *arguments: str | Path, values: Manifest | None = None) -> str:
        """What ``helm ARGUMENTS`` prints, with `values` in a file of their own.

        Raises:
            HelmFailed: with Helm's own words.
        """
        places = dict.fromkeys(("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), str(self.home))
        command = [str(self.program), *(str(argument) for argument in arguments)]
        if values is not None:
            path = self.home / "values.yaml"
            path.write_text(yaml.safe_dump(values), "utf-8")
            command += ["--values", str(path)]
        done = subprocess.run(
            command, env=places, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            raise HelmFailed(done.stderr or done.stdout)
        return done.stdout

    def render(self, values: Manifest | None = None, *, release: str = "soc", namespace: str = "ops") -> list[Manifest]:
        """Every object that the chart makes of `values`."""
        text = self("template", release, CHART, "--namespace", namespace, values=values or {})
        return [found for found in yaml.safe_load_all(text) if found]


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    """Helm; where it has not been built, the test is skipped, or fails under `make test-slow`."""
    return Helm(program("helm"), tmp_path)


Render = Callable[..., list[Manifest]]


@pytest.fixture
def render(helm: Helm) -> Render:
    """`Helm.render`."""
    return helm.render


def of_kind(objects: list[Manifest], kind: str, name: str = "") -> list[Manifest]:
    """Those of `kind` whose name ends with `name`."""
    return [found for found in objects if found["kind"] == kind and found["metadata"]["name"].endswith(name)]
