"""Resources that the tests of the control plane apply."""

from pathlib import Path
from typing import Any

import pytest
import yaml

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"


@pytest.fixture
def samples(namespace: str) -> dict[str, dict[str, Any]]:
    """The sample manifests by file name, moved into the test's namespace."""
    loaded = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted(SAMPLES.glob("*.yaml"))}
    for manifest in loaded.values():
        manifest["metadata"]["namespace"] = namespace
    return loaded
