"""Keeps what is made from other files as it should be: the chart's definitions and README, and ``manifests/operator``.

``python charts/generate.py`` writes them, ``--check`` says what differs. Rendering takes the Helm that ``make kube``
builds (or that HELM names); a check without it leaves the rendered manifests to the tests, and says so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "socadapter"
CRDS = ROOT / "manifests" / "crds"
OPERATOR = ROOT / "manifests" / "operator" / "operator.yaml"
NAMESPACE = "socadapter-system"

_DOCUMENTED = "# -- "
_HELM_MADE = "app.kubernetes.io/managed-by: Helm"


@dataclass(frozen=True, slots=True)
class Value:
    """One value of the chart: its path, such as ``image.tag``, what it is without being set, and what it is for."""

    path: str
    default: Any
    text: str


def values(text: str) -> Iterator[Value]:
    """The documented values of a ``values.yaml``: comments that begin with two dashes, each above its key."""
    defaults = yaml.safe_load(text)
    above: list[tuple[int, str]] = []
    comment = ""
    for line in text.splitlines():
        bare = line.strip()
        indent = len(line) - len(line.lstrip())
        if bare.startswith(_DOCUMENTED):
            comment = bare.removeprefix(_DOCUMENTED)
        elif bare and not bare.startswith(("#", "-")):
            above = [entry for entry in above if entry[0] < indent] + [(indent, bare.partition(":")[0])]
            if comment:
                path = [key for _, key in above]
                yield Value(".".join(path), _at(defaults, path), comment)
                comment = ""


def _at(held: Any, path: list[str]) -> Any:
    for key in path:
        held = held[key]
    return held


def readme(text: str) -> str:
    """The chart's page, from its ``values.yaml``."""
    rows = [f"| `{value.path}` | `{_shown(value.default)}` | {value.text} |" for value in values(text)]
    return _README.format(table="\n".join(rows))


def _shown(default: Any) -> str:
    return yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def rendered(helm: Path) -> str:
    """What the chart makes without the definitions, as one who never uses Helm applies it."""
    command = [str(helm), "template", "socadapter", str(CHART), "--namespace", NAMESPACE, "--skip-tests"]
    with tempfile.TemporaryDirectory() as folder:
        places = dict.fromkeys(("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), folder)
        done = subprocess.run(
            [*command, "--set", "crds.enabled=false"], env=places, check=True, capture_output=True, text=True
        )
    lines = [line for line in done.stdout.splitlines() if not line.strip().startswith("helm.sh/chart:")]
    body = "\n".join(lines).replace(_HELM_MADE, "app.kubernetes.io/managed-by: kustomize")
    return f"# Rendered from charts/socadapter by `make chart`. Do not edit.\n{body.strip()}\n"


def find_helm() -> Path | None:
    """The Helm to render with; None where there is none."""
    if named := os.environ.get("HELM"):
        return Path(named)
    sys.path.insert(0, str(ROOT))
    from tests.controlplane import binaries

    try:
        return binaries.find("helm")
    except binaries.ProgramMissing:
        return None


def wanted(helm: Path | None) -> dict[Path, str]:
    """Every file that is made from others, and what it should hold."""
    files = {CHART / "files" / "crds" / path.name: path.read_text("utf-8") for path in sorted(CRDS.glob("*.yaml"))}
    files[CHART / "README.md"] = readme((CHART / "values.yaml").read_text("utf-8"))
    return files | ({OPERATOR: rendered(helm)} if helm else {})


def main() -> int:
    """Writes the files, or says which of them differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file differs")
    check = parser.parse_args().check
    helm = find_helm()
    files = wanted(helm)
    extra = set((CHART / "files" / "crds").glob("*")) - files.keys()
    differing = [path for path, text in files.items() if not path.is_file() or path.read_text("utf-8") != text]
    if helm is None:
        print(f"there is no Helm (`make kube` builds it): {OPERATOR.relative_to(ROOT)} was left alone", file=sys.stderr)
    if check:
        for path in (*differing, *sorted(extra)):
            print(f"{path.relative_to(ROOT)} is not what it is made from: `make chart`", file=sys.stderr)
        return int(bool(differing or extra))
    for path in extra:
        path.unlink()
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    return 0


_README = """\
<!-- Made from values.yaml by `make chart`. Do not edit. -->
# The chart socadapter

Installs the SocAdapter operator: definitions, roles, two replicas of which one leads, network policies. Helm 4 (Helm 3
works), Kubernetes 1.31 or newer. [docs/install.md](../../docs/install.md) goes through an installation.

```sh
helm install socadapter charts/socadapter --namespace socadapter-system --create-namespace
helm test socadapter --namespace socadapter-system
```

Unknown values are refused. With `crds.keep`, the default, uninstalling leaves the definitions and every resource.

## Values

| value | without being set | what for |
|---|---|---|
{table}
"""


if __name__ == "__main__":
    sys.exit(main())
