"""Folders of manifests are bases of kustomize, and can be applied as folders all the same."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.controlplane.cluster import Cluster
from tests.controlplane.fixtures import program

from socadapter_operator.local import resource_files

MANIFESTS = Path(__file__).parents[2] / "manifests"
SAMPLES = ("samples", "cluster-samples", "ray-samples")


def identities(text: str) -> list[tuple[str, str]]:
    """Kind and name of every object."""
    return sorted((found["kind"], found["metadata"]["name"]) for found in yaml.safe_load_all(text) if found)


@pytest.mark.parametrize("folder", ["crds", *SAMPLES])
def test_a_base_has_every_file_of_its_folder(folder: str) -> None:
    """`kubectl kustomize` makes of a folder what its files hold, and forgets none of them."""
    files = [path.read_text("utf-8") for path in (MANIFESTS / folder).glob("*.yaml")]
    made = subprocess.run(
        [program("kubectl"), "kustomize", MANIFESTS / folder], check=True, capture_output=True, text=True
    )
    assert identities("\n---\n".join(files)) == identities(made.stdout)


def test_samples_of_a_machine_are_read_as_a_folder() -> None:
    """`socadapter up -f` of the folder takes resources only: what kustomize needs is not in its way."""
    pools, adapters = resource_files.load([MANIFESTS / "samples"])
    assert {"pool", *(adapter.metadata.name for adapter in adapters)} == {
        path.stem for path in (MANIFESTS / "samples").glob("*.yaml")
    }
    assert len(pools) == 1


@pytest.mark.slow
@pytest.mark.parametrize("folder", SAMPLES)
def test_samples_are_taken_both_ways(folder: str, cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    """The API server takes a folder of samples by `apply -k` and by `apply -f`, and makes the same of them."""
    shutil.copytree(MANIFESTS / folder, tmp_path / folder)
    for path in (tmp_path / folder).glob("*.yaml"):
        path.write_text(re.sub(r"namespace: soc\b", f"namespace: {namespace}", path.read_text("utf-8")), "utf-8")
    by_kustomize, by_folder = (
        sorted(cluster.kubectl("apply", "--dry-run=server", option, tmp_path / folder).splitlines())
        for option in ("-k", "-f")
    )
    assert by_kustomize == by_folder
    assert len(by_folder) > 2
