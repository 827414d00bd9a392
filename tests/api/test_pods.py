"""What a cluster's pods are given: kept apart from what a run is told, and bounded where its form is free."""

import pytest
from pydantic import ValidationError

from socadapter_api.adapter import AdapterSpec
from socadapter_api.compute import ClusterCompute
from socadapter_api.pods import PodTemplate, Volume
from socadapter_api.training import ComputeSpec


def test_run_is_told_no_kubernetes() -> None:
    """A run's own compute holds what it must know, whatever pods it runs in."""
    compute = ClusterCompute.model_validate(
        {"workers": 2, "gpusPerWorker": 1, "placement": "Spread", "scratch": {"claimName": "c"}, "image": "train:1"}
    )
    told = compute.of_run()
    assert type(told) is ComputeSpec
    assert told == ComputeSpec.model_validate({"workers": 2, "gpusPerWorker": 1, "placement": "Spread"})


def test_defaults_need_nothing() -> None:
    """An adapter that says nothing of pods gets deadlines, a memory limit and one machine."""
    compute = AdapterSpec.model_validate({"context": "cloud", "servingPoolRef": {"name": "pool"}, "data": {}}).compute
    assert (compute.memory_per_worker, compute.placement.value) == ("8Gi", "Together")
    assert compute.pre_running_deadline_seconds < compute.active_deadline_seconds
    assert compute.pod_template == PodTemplate()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"name": "v"}, id="no source"),
        pytest.param({"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}, id="two sources"),
        pytest.param({"name": "v", "csi": {"attributes": "x" * 40_000}}, id="too large"),
    ],
)
def test_volume_has_one_source(fields: dict[str, object]) -> None:
    """A volume is of one kind, and of a sane size."""
    with pytest.raises(ValidationError, match="volume 'v'"):
        Volume.model_validate(fields)


def test_pod_template_is_bounded() -> None:
    """An overlay cannot fill an object: above its limit it is refused with both sizes."""
    with pytest.raises(ValidationError, match=r"podTemplate takes 4\d+ bytes, more than the 32768"):
        PodTemplate.model_validate({"spec": {"hostname": "x" * 40_000}})
