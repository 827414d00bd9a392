"""A resource from `kubectl apply` to its end, on a real API server."""

from typing import Any

import pytest

from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL

pytestmark = pytest.mark.slow


def test_resources_become_a_served_version(site: Any) -> None:
    """Applied, trained, recorded with its owner, in the table, loaded, ready, and told so in every status."""
    site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    (version,) = site.versions()
    status = site.get()["status"]
    assert version["metadata"]["name"] == status["versions"]["stable"]["name"]
    assert [site.get()["metadata"]["uid"]] == [owner["uid"] for owner in version["metadata"]["ownerReferences"]]
    assert ("True", "Serving") == site.condition("Ready", "base", POOL)
    name = version["metadata"]["name"]
    for kind, expected in (("Verified", "True"), ("Evaluated", "True"), ("Serving", "True"), ("Revoked", "False")):
        assert expected == site.condition(kind, name, ADAPTER_VERSION)[0]
    assert 1 == status["observedGeneration"]


def test_nothing_is_written_at_rest(site: Any) -> None:
    """Full passes over a settled namespace leave every resourceVersion as it is."""
    operator = site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    site.until(operator.idle, "the queues are empty")
    before = [raw["metadata"]["resourceVersion"] for raw in (site.get(), site.get("base", POOL), *site.versions())]
    passes = operator.metrics.registry.get_sample_value(
        "socadapter_last_list_timestamp_seconds", {"kind": ADAPTER.kind}
    )
    site.until(
        lambda: (
            operator.metrics.registry.get_sample_value("socadapter_last_list_timestamp_seconds", {"kind": ADAPTER.kind})
            != passes
            and operator.idle()
        ),
        "another full pass",
    )
    assert before == [
        raw["metadata"]["resourceVersion"] for raw in (site.get(), site.get("base", POOL), *site.versions())
    ]


def test_a_bad_spec_over_a_good_one_keeps_what_serves_and_mends_by_itself(site: Any) -> None:
    """A schedule that never fires stalls; the version goes on serving; mended, nothing trains again."""
    site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    site.adapter(schedule={"cron": "0 2 30 2 *"})
    site.until(lambda: site.condition("Stalled") == ("True", "InvalidSpec"), "the bad spec is told")
    assert ("True", "Serving") == site.condition("Ready")
    site.adapter()
    site.until(lambda: site.condition("Stalled")[0] == "False", "the mended spec is taken")
    site.until_ready()
    assert 1 == len(site.versions())


def test_another_training_spec_and_back_trains_once_for_each(site: Any) -> None:
    """A, B and A again: the version of A serves again without a run."""
    site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    first = site.get()["status"]["versions"]["stable"]["name"]
    site.adapter(lora={"rank": 4})
    site.until(lambda: len(site.versions()) == 2, "the second version")
    site.until_ready()
    site.adapter()
    site.until(lambda: site.get()["status"]["versions"]["stable"]["name"] == first, "the first version serves")
    site.until_ready()
    assert 2 == len(site.versions())


def test_a_revoked_version_leaves_and_the_one_before_it_serves(site: Any) -> None:
    """The annotation on a version is enough."""
    site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    site.adapter(lora={"rank": 4})
    site.until(lambda: len(site.versions()) == 2, "the second version")
    site.until_ready()
    serving = site.get()["status"]["versions"]
    name = serving["stable"]["name"]
    revoke(site, name)
    site.until(
        lambda: site.get()["status"]["versions"]["stable"]["name"] == serving["previous"]["name"], "the one before it"
    )
    site.until(lambda: site.condition("Revoked", name, ADAPTER_VERSION) == ("True", "Revoked"), "the version says so")


def test_the_only_version_is_revoked(site: Any) -> None:
    """Nothing serves, which the adapter says; another spec gives it a version again."""
    site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    revoke(site, site.get()["status"]["versions"]["stable"]["name"])
    site.until(lambda: not site.get()["status"].get("versions"), "no version serves")
    assert ("False", "False") == (site.condition("Ready")[0], site.condition("Stalled")[0])
    site.adapter(lora={"rank": 4})
    site.until_ready()


def revoke(site: Any, name: str) -> None:
    """As `kubectl annotate` does."""
    held = {"name": name, "namespace": site.namespace, "annotations": {"socadapter.io/revoked": "leaks"}}
    site.client.apply(ADAPTER_VERSION, {"metadata": held}, manager="kubectl")


def test_an_operator_that_comes_later_finds_everything(site: Any) -> None:
    """Stopped while a run trains, started anew: the run goes on, and is not started twice."""
    site.play("hang", "publish")
    first = site.operate()
    site.pool()
    site.adapter()
    site.until(lambda: (site.get().get("status") or {}).get("run", {}).get("state") == "Running", "it trains")
    run_id = site.get()["status"]["run"]["runId"]
    site.until(lambda: "hanging" in list(site.backend.logs(run_id)), "it can be interrupted")
    first.stop()
    site.operate()
    site.backend.stop(run_id)
    site.until_ready()
    assert run_id == site.get()["status"]["lastRun"]["runId"]
    assert 1 == len(site.versions())


def test_deleted_resources_take_what_they_own_along(site: Any) -> None:
    """The adapter's versions go with it, and its route leaves the pool's table."""
    site.operate()
    site.pool()
    site.adapter()
    site.until_ready()
    held = site.get()["metadata"]
    site.client.delete(ADAPTER, site.namespace, "cloud", uid=held["uid"])
    site.until(lambda: not site.get() and not site.versions(), "all of it is gone")
    site.until(
        lambda: all(not report.get("loaded") for report in site.get("base", POOL)["status"].get("replicas", ())),
        "the replica has let it go",
    )
