"""What the demo leaves behind as figures."""

import io
import json
from pathlib import Path

from rich.console import Console

from socadapter_api import digest
from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool
from socadapter_cli import demo_figures
from socadapter_operator.local.reconciler import Pass
from socadapter_store import layout

FOUND = {"cloud": {"base": None, "adapter": {"balanced_accuracy": 0.9, "fnr": 0.1, "n": 80}, "version": "v1"}}


def test_a_run_that_finds_nothing_new_leaves_the_result_as_it_is(tmp_path: Path) -> None:
    """The seconds are those of the run that trained, not of one that only served again."""
    path = tmp_path / "out" / "result.json"
    demo_figures.write(path, FOUND, 1195.04)
    demo_figures.write(path, FOUND, 5.0)
    assert {"seconds": 1195.0, "contexts": FOUND} == json.loads(path.read_text())


def test_new_figures_and_what_cannot_be_read_are_replaced(tmp_path: Path) -> None:
    """Another version, or a file that was cut short, is written anew."""
    path = tmp_path / "result.json"
    for before in ('{"seconds": 9, "contexts": {}}', '{"seconds": 9,', "[]", ""):
        path.write_text(before)
        demo_figures.write(path, FOUND, 7.0)
        assert {"seconds": 7.0, "contexts": FOUND} == json.loads(path.read_text())


def last(store: Path, **status: object) -> Pass:
    """A pass that ends with an adapter of this status."""
    metadata = {"namespace": "soc"}
    pool = {"base": {"uri": "builtin://tiny"}, "store": str(store)}
    adapter = {"context": "cloud", "servingPoolRef": {"name": "base"}, "data": {"alerts": [{"uri": "a.jsonl"}]}}
    return Pass(
        pools=(SocServingPool.model_validate({"metadata": {"name": "base", **metadata}, "spec": pool}),),
        adapters=(
            SocAdapter.model_validate({"metadata": {"name": "cloud", **metadata}, "spec": adapter, "status": status}),
        ),
        requeue_after=None,
    )


def test_each_report_has_the_other_adapter_beside_its_own(tmp_path: Path) -> None:
    """Figures of another run are its own; the demo's pages are written when all runs have ended."""
    arm = {"metrics": {"balanced_accuracy": 0.9, "fnr": 0.1, "n": 83}}
    ended = last(tmp_path)
    adapters = []
    for context in ("cloud", "network"):
        run_id = f"{context}-1-a"
        run = tmp_path / "soc" / context / run_id
        run.mkdir(parents=True)
        (run / layout.REPORT).touch()
        (run / layout.EVALUATION).write_text(json.dumps({"context": context, "arms": {"candidate": arm}}))
        held = {"runId": run_id, "state": "Succeeded", "trainingHash": digest.of_bytes(b"training"), "number": 1}
        one = ended.adapters[0].model_dump(mode="json")
        one["spec"]["context"] = one["metadata"]["name"] = context
        one["status"] = {"lastRun": held}
        adapters.append(SocAdapter.model_validate(one))
    seen = Pass(pools=ended.pools, adapters=tuple(adapters), requeue_after=None)
    demo_figures.tell_reports(seen, tmp_path, Console(file=io.StringIO()))
    for context, other in (("cloud", "network"), ("network", "cloud")):
        page = (tmp_path / f"report-{context}.html").read_text()
        assert f"<h1>{context}" in page
        assert f"Adapter of {other}" in page


def test_no_report_is_named_that_is_not_there(tmp_path: Path) -> None:
    """Where a run broke or none ended, it is said instead; where there is a page, its path is told."""
    broken = {
        "runId": "cloud-1-a",
        "state": "Failed",
        "trainingHash": digest.of_bytes(b"training"),
        "number": 1,
        "reason": "OneClass",
        "message": "all alerts are attacks",
    }

    def told(seen: Pass) -> str:
        console = Console(file=io.StringIO(), width=200)
        with console.capture() as capture:
            demo_figures.tell_reports(seen, tmp_path, console)
        return capture.get().splitlines()[1]

    assert "report of cloud: none, since no run has ended yet" == told(last(tmp_path))
    expected = "report of cloud: none, run cloud-1-a ended as OneClass: all alerts are attacks"
    assert expected == told(last(tmp_path, lastRun=broken))
    run = tmp_path / "soc" / "cloud" / "cloud-1-a"
    run.mkdir(parents=True)
    (run / layout.REPORT).touch()
    assert f"report of cloud: {run / layout.REPORT}" == told(last(tmp_path, lastRun=broken))
    (run / layout.EVALUATION).write_text(json.dumps({"context": "cloud"}))
    assert f"report of cloud: {tmp_path / 'report-cloud.html'}" == told(last(tmp_path, lastRun=broken))
    assert "<h1>cloud" in (tmp_path / "report-cloud.html").read_text()


def test_figures_fit_a_narrow_terminal(tmp_path: Path) -> None:
    """Names stay whole; a base that says nothing readable is explained, and so is what was not published."""
    figures = {"balanced_accuracy": 0.92, "fnr": 0.03, "n": 83}
    mute = {"balanced_accuracy": 0.0, "fnr": 1.0, "n": 83}
    held = {"base": mute, "adapter": figures, "other_adapter": None, "digest": ""}
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        demo_figures.show(
            {"cloud-infrastructure": held | {"version": "v1"}, "corporate-network": held | {"version": ""}}, console
        )
    told = capture.get()
    with console.capture() as capture:
        demo_figures.show({"cloud": held | {"base": figures, "version": "v1"}}, console)
    assert "no misprint" not in capture.get()
    assert "cloud-infrastructure │ 0.00 / 1.00 │ 0.92 / 0.03 │ -" in told
    assert "0.00 is no misprint" in told
    assert ["cloud-infrastructure: v1", "corporate-network: not published"] == told.splitlines()[-2:]
