"""docs/pods.md says what is so: its example is taken, its table of ports and its names are those of the builders."""

import re
from pathlib import Path

import yaml
from tests.builders.resources import make_adapter, make_pool, pool_objects, run_objects

from socadapter_operator.builders import overlay, pods

PAGE = (Path(__file__).parents[2] / "docs" / "pods.md").read_text("utf-8")


def test_example_is_taken() -> None:
    """The example's every field reaches the RayJob."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    compute = yaml.safe_load(block)["compute"]
    spec = run_objects(make_adapter(**compute), make_pool()).job["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["template"]["spec"]["runtimeClassName"] == "nvidia"
    assert (spec["suspend"], spec["activeDeadlineSeconds"]) == (True, 21600)
    assert compute.keys() <= type(make_adapter().spec.compute).model_json_schema()["properties"].keys()


def test_names_are_those_of_the_builders() -> None:
    """The objects, ports and folders that the page names are the ones that are made."""
    made = run_objects(make_adapter(), make_pool())
    assert made.config["metadata"]["name"].startswith("cloud-0123456789-")
    served = pool_objects(make_pool())
    assert served.token["metadata"]["name"] == "soc-base-ray-token"
    assert served.config["metadata"]["name"].startswith("soc-base-config-")
    assert {str(port) for port in (pods.DASHBOARD_PORT, pods.GCS_PORT, pods.CLIENT_PORT, pods.METRICS_PORT)} <= set(
        re.findall(r"\b\d{4,5}\b", PAGE)
    )
    assert f"`{overlay.OWN_FILES}`" in PAGE
    assert f"`{pods.STORE_CREDENTIALS}`" in PAGE
    assert f"`{overlay.RAY_CONTAINER}`" in PAGE
