"""The loop of local mode: files in, processes started, a signed version served, statuses out."""

import os
import signal
import time
from typing import Any

import pytest

from socadapter_api.adapter import TRAIN_REQUESTED_AT, SocAdapterVersion
from socadapter_api.errors import SpecError
from socadapter_operator.backends.process import Process
from socadapter_operator.domain.state import RunState
from socadapter_operator.local.driver import Interrupts, drive, stop_runs

pytestmark = pytest.mark.slow  # dozens of child processes, each importing what signs and verifies


def running(seen: Any) -> bool:
    run = seen.adapters[0].status.run
    return run is not None and run.state == RunState.RUNNING and run.progress is not None


def process_of(bench: Any) -> Process:
    found = Process.read(bench.root / "state" / "runs" / bench.get().status.run.run_id / "process.json")
    assert found is not None
    return found


def test_resources_become_a_served_version(bench: Any) -> None:
    """One `up`: trained, verified, recorded, in the table, loaded, ready."""
    bench.apply()
    seen = bench.drive()
    assert seen.ready, bench.told(seen)
    (version,) = bench.state.list(SocAdapterVersion)
    assert bench.get().status.versions.stable.name == version.spec.version
    assert version.spec.signed_by.startswith("sha256:")
    assert ("http://127.0.0.1:8123", version.spec.version) == (
        seen.pools[0].status.endpoint,
        seen.pools[0].status.replicas[0].loaded[0].name,
    )


def test_at_rest_nothing_is_written(bench: Any) -> None:
    """A settled folder is read, not written: the same bytes, the same times."""
    bench.apply()
    bench.drive()
    resources = sorted((bench.root / "state" / "soc").rglob("*.json"))
    before = [(path, path.stat().st_mtime_ns) for path in resources]
    for _ in range(3):
        bench.reconciler.pass_once()
    assert before == [(path, path.stat().st_mtime_ns) for path in resources]


def test_a_second_up_serves_again_without_training(bench: Any) -> None:
    """After everything was stopped, the version is served again by the run that there was."""
    bench.apply()
    bench.drive()
    run_id = bench.get().status.last_run.run_id
    bench.end()
    assert bench.backend.serving(bench.reconciler.pools()[0]).state == "Absent"
    bench.restart()
    bench.apply()
    assert bench.drive().ready
    assert bench.attempts(run_id) == 1


def test_a_lost_state_folder_is_made_again_from_the_store(bench: Any) -> None:
    """Statuses gone, store kept: the same run is found, the version recorded again, and nothing trains."""
    bench.apply()
    bench.drive()
    run_id = bench.get().status.last_run.run_id
    version = bench.get().status.versions.stable
    bench.end()
    for path in (bench.root / "state" / "soc").rglob("*.json"):
        path.unlink()
    bench.restart()
    bench.apply()
    assert bench.drive().ready
    assert (version, 1) == (bench.get().status.versions.stable, bench.attempts(run_id))


def test_a_killed_run_is_resumed_under_its_id(bench: Any) -> None:
    """SIGKILL of the run's process: the next attempt has the same id and the same scratch, and its version counts."""
    bench.play("hang", "publish")
    bench.apply()
    bench.drive(running)
    run_id = bench.get().status.run.run_id
    os.kill(process_of(bench).pid, signal.SIGKILL)
    bench.drive(lambda seen: seen.adapters[0].status.run.state == RunState.FAILED)
    assert ("RunLost", run_id) == (bench.get().status.run.reason, bench.get().status.run.run_id)
    bench.now = bench.now.replace(minute=1)
    assert bench.drive().ready
    assert (run_id, 2) == (bench.get().status.last_run.run_id, bench.attempts(run_id))


def test_an_up_that_was_killed_finds_its_run_again(bench: Any) -> None:
    """The run goes on when the process that started it dies; the next one watches it and starts no second."""
    bench.play("hang", "publish")
    bench.apply()
    bench.drive(running)
    pid = process_of(bench).pid
    bench.restart()
    bench.apply()
    seen = bench.drive(running)
    assert (pid, True) == (process_of(bench).pid, process_of(bench).alive)
    assert bench.attempts(seen.adapters[0].status.run.run_id) == 1


def test_an_interrupt_checkpoints_and_the_next_up_resumes(bench: Any) -> None:
    """Ctrl-C reaches the run as SIGINT; it is no failure and costs no retry."""
    bench.play("hang", "publish")
    bench.apply()
    interrupts = Interrupts()

    def interrupt_once_running(seen: Any) -> None:
        if running(seen):
            interrupts.add()

    drive(bench.reconciler, interrupts, until=lambda _: False, seen=interrupt_once_running)
    run_id = bench.get().status.run.run_id
    stopped: list[str] = []
    stop_runs(bench.backend, interrupts, stopped.append)
    assert [run_id] == stopped
    bench.restart()
    bench.apply()
    assert bench.drive().ready
    last = bench.get().status.last_run
    assert (run_id, 0, 2) == (last.run_id, last.attempt, bench.attempts(run_id))


def test_a_second_interrupt_kills(bench: Any) -> None:
    """A run that does not stop in time dies when it is asked again."""
    bench.play("hang")
    bench.apply()
    bench.drive(running)
    found = process_of(bench)
    os.kill(found.pid, signal.SIGSTOP)  # it cannot answer a SIGINT now
    interrupts = Interrupts()

    def again(_run_id: str) -> None:
        interrupts.add()

    started = time.monotonic()
    stop_runs(bench.backend, interrupts, again)
    assert not found.alive
    assert time.monotonic() - started < 10


def test_one_run_at_a_time_and_the_other_waits(bench: Any) -> None:
    """Two adapters, one machine: the second run is queued, with a reason, and both are served in the end."""
    bench.adapter("office")
    bench.play("hang", "publish")
    bench.apply()
    bench.drive(lambda seen: {a.status.run.state for a in seen.adapters if a.status.run} == {"Running", "Queued"})
    (queued,) = [a for a in bench.reconciler.adapters() if a.status.run.state == "Queued"]
    assert queued.status.run.reason == "MachineBusy"
    assert len(bench.backend.runs.live()) == 1
    bench.play("publish")
    found = next(a for a in bench.reconciler.adapters() if a.status.run.state == "Running")
    bench.backend.stop(found.status.run.run_id)
    assert bench.drive().ready
    assert len(bench.state.list(SocAdapterVersion)) == 2


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        pytest.param({"cpusPerWorker": 2}, "of 4 CPU cores here 4 are taken, and this run asks for 2", id="cores"),
        pytest.param({"workers": 2}, "of 4 CPU cores here 4 are taken, and this run asks for 2", id="workers"),
    ],
)
def test_as_many_runs_train_as_have_room(bench: Any, compute: dict[str, Any], told: str) -> None:
    """Four cores and three runs of two: two train at once, and the third says what it waits for."""
    bench.cpus = 4
    bench.restart()
    for name in ("cloud", "lab", "office"):
        bench.adapter(name, compute=compute)
    bench.play("hang", "hang", "publish")
    bench.apply()
    bench.drive(lambda _: len(bench.backend.runs.live()) == 2)
    runs = {a.metadata.name: a.status.run for a in bench.drive(_one_waits).adapters}
    (waits,) = [run for run in runs.values() if run.state == "Queued"]
    assert waits.reason == "MachineBusy"
    assert told in waits.message
    bench.play("publish")
    for run_id in bench.backend.runs.live():
        bench.backend.stop(run_id)
    assert bench.drive().ready
    assert len(bench.state.list(SocAdapterVersion)) == 3


def _one_waits(seen: Any) -> bool:
    return sorted(a.status.run.state for a in seen.adapters if a.status.run) == ["Queued", "Running", "Running"]


def test_runs_that_want_gpus_train_one_at_a_time(bench: Any) -> None:
    """How many there are is not known here."""
    bench.cpus = 4
    bench.restart()
    bench.adapter(compute={"gpusPerWorker": 1})
    bench.adapter("office", compute={"gpusPerWorker": 1})
    bench.play("hang", "publish")
    bench.apply()
    seen = bench.drive(lambda seen: any(a.status.run and a.status.run.state == "Queued" for a in seen.adapters))
    assert ["Queued", "Running"] == sorted(a.status.run.state for a in seen.adapters)
    bench.play("publish")
    for run_id in bench.backend.runs.live():
        bench.backend.stop(run_id)
    assert bench.drive().ready


def test_an_edited_file_trains_again_and_serves_on(bench: Any) -> None:
    """The files are read again while `up` runs; the old version answers until the new one is loaded."""
    bench.apply()
    bench.drive()
    before = bench.get()
    bench.adapter(lora={"rank": 4})
    readiness = []

    def settled_anew(seen: Any) -> bool:
        readiness.append(seen.ready)
        return bool(seen.settled and seen.adapters[0].metadata.generation == 2)

    bench.drive(settled_anew)
    after = bench.get().status.versions
    assert (True, before.status.versions.stable) == (all(readiness), after.previous)
    assert after.stable.name.startswith("cloud-v2-")


def test_a_file_that_became_wrong_changes_nothing(bench: Any) -> None:
    """While a file cannot be read, what it said before goes on."""
    bench.apply()
    bench.drive()
    (bench.files / "cloud.yaml").write_text("kind: SocAdapter\nspec: [")
    assert bench.reconciler.pass_once().ready


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param("gate-failed", "GateFailed", id="gate failed"),
        pytest.param("broken", "OneClass", id="failed for good"),
    ],
)
def test_a_run_without_a_version_leaves_the_old_one_serving(line: str, reason: str, bench: Any) -> None:
    """`Trained` tells it, `Ready` stays, and mending the spec recovers without another hand."""
    bench.apply()
    bench.drive()
    good = bench.get().status.versions.stable
    bench.play(line)
    bench.adapter(lora={"rank": 4})
    seen = bench.drive(lambda seen: seen.settled and seen.adapters[0].metadata.generation == 2)
    assert (seen.ready, good) == (True, bench.get().status.versions.stable)
    assert (("False", reason), ("True", reason)) == (bench.condition("Trained"), bench.condition("Stalled"))
    bench.adapter()
    seen = bench.drive(lambda seen: seen.settled and seen.adapters[0].metadata.generation == 3)
    assert (seen.ready, good, ("False", "Settled")) == (
        True,
        bench.get().status.versions.stable,
        bench.condition("Stalled"),
    )


def test_a_passing_failure_is_tried_again_in_the_same_folder(bench: Any) -> None:
    """The failure that the first attempt left in the store is taken back, and the second one's result counts."""
    bench.play("passing", "publish")
    bench.apply()
    bench.drive(lambda seen: seen.adapters[0].status.run and seen.adapters[0].status.run.reason == "DiskFull")
    run_id = bench.get().status.run.run_id
    bench.now = bench.now.replace(minute=1)
    assert bench.drive().ready
    assert (run_id, 2) == (bench.get().status.last_run.run_id, bench.attempts(run_id))


def test_a_run_that_ends_well_and_leaves_nothing_has_failed(bench: Any) -> None:
    """Exit code 0 counts for nothing."""
    bench.play("vanish")
    bench.apply()
    bench.drive(lambda seen: seen.adapters[0].status.run and seen.adapters[0].status.run.reason == "ArtifactMissing")
    assert bench.get().status.versions.stable is None


def test_a_tampered_adapter_is_not_recorded(bench: Any) -> None:
    """Bytes changed between publishing and recording: refused, with the reason, and nothing serves them."""
    bench.apply()
    bench.drive()
    (bench.root / "state" / "soc" / "SocAdapter" / "cloud.json").unlink()
    for path in (bench.root / "state" / "soc" / "SocAdapterVersion").iterdir():
        path.unlink()
    (weights,) = (bench.root / "store").rglob("adapter_model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    bench.restart()
    bench.apply()
    seen = bench.drive()
    assert not seen.ready
    assert (("False", "DigestMismatch"), None) == (bench.condition("Trained"), bench.get().status.versions.stable)


def test_failed_runs_are_tried_again_by_a_new_up(bench: Any) -> None:
    """Data mended at the same place: the next `up` trains, without an edit to the spec."""
    bench.play("broken")
    bench.apply()
    bench.drive()
    assert bench.condition("Ready") == ("False", "OneClass")
    bench.play("publish")
    bench.now = bench.now.replace(hour=13)
    bench.restart()
    bench.apply()
    bench.reconciler.retry_failed()
    assert bench.drive().ready


def test_a_missing_secret_is_told_and_found_when_it_is_there(bench: Any) -> None:
    """`SecretNotFound` names the file that is expected; putting it there is all that is needed."""
    bench.pool(signing={"keySecretRef": {"name": "signing"}})
    bench.apply()
    bench.drive(lambda seen: bench.condition("Stalled")[1] == "SecretNotFound" if seen.requeue_after else False)
    from socadapter_store.signatures import make_key

    made = make_key(bench.root / "key")
    expected = bench.root / "state" / "secrets" / "signing" / "key.pem"
    expected.parent.mkdir(parents=True)
    expected.write_bytes(made.private.read_bytes())
    assert bench.drive(lambda seen: seen.settled and seen.ready).ready


def test_serving_that_died_is_started_again(bench: Any) -> None:
    """The pool comes back by itself, on the same table."""
    bench.apply()
    bench.drive()
    (record,) = (bench.root / "state" / "serving").rglob("process.json")
    found = Process.read(record)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    bench.drive(lambda seen: not seen.ready)
    bench.now = bench.now.replace(year=2030)
    assert bench.drive().ready
    after = Process.read(record)
    assert after is not None
    assert after != found


def test_serving_that_refuses_to_start_stalls_with_its_reason(bench: Any) -> None:
    """What the application said last is the pool's reason."""
    folder = bench.root / "state" / "serving" / "soc" / "base"
    folder.mkdir(parents=True)
    (folder / "broken").touch()
    bench.apply()
    seen = bench.drive()
    told = next(c for c in seen.pools[0].status.conditions if c.type == "Stalled")
    assert ("True", "InsecureBind", "told to break") == (told.status.value, told.reason, told.message)


def test_a_changed_pool_restarts_its_service(bench: Any) -> None:
    """A new port is served; the adapters are not trained for it."""
    bench.apply()
    bench.drive()
    bench.pool(port=8124)
    bench.drive(lambda seen: seen.settled and seen.pools[0].status.endpoint == "http://127.0.0.1:8124")
    assert bench.attempts(bench.get().status.last_run.run_id) == 1


def test_a_pool_that_serves_keeps_its_port(bench: Any) -> None:
    """A newcomer with the same one is never started, although its name sorts first, until it has another."""
    bench.apply()
    bench.drive()
    bench.pool("aaa")
    newcomer, base = bench.drive(lambda seen: seen.settled and len(seen.pools) == 2).pools
    told = next(c for c in newcomer.status.conditions if c.type == "Stalled")
    assert ("True", True, "") == (told.status.value, "'soc/base'" in told.message, newcomer.status.endpoint)
    assert ([False, True], "http://127.0.0.1:8123") == (
        [bench.backend.services.running(pool) for pool in (newcomer, base)],
        base.status.endpoint,
    )
    bench.pool("aaa", port=8124)
    assert ["http://127.0.0.1:8124", "http://127.0.0.1:8123"] == [
        pool.status.endpoint for pool in bench.drive(lambda seen: seen.settled and seen.ready).pools
    ]


def test_the_base_of_a_pool_is_immutable(bench: Any) -> None:
    """Once it is resolved: adapters were made for it."""
    bench.apply()
    bench.drive()
    bench.pool(base={"uri": "builtin://other"})
    with pytest.raises(SpecError, match="immutable"):
        bench.apply()


def test_a_request_reaches_the_planner(bench: Any) -> None:
    """`socadapter train NAME` leaves a time; the loop takes it up once."""
    bench.apply()
    bench.drive()
    first = bench.get().status.versions.stable
    bench.state.request("soc", "cloud", bench.now)
    bench.drive(lambda seen: seen.settled and seen.adapters[0].status.versions.previous == first)
    assert bench.get().status.train_requested_at == "2026-03-01T12:00:00Z"
    assert len(bench.state.list(SocAdapterVersion)) == 2


def test_a_request_is_not_hidden_by_an_annotation_of_another_zone(bench: Any) -> None:
    """Times are compared, not texts: five hours east of here it is 13 o'clock when it is 8."""
    bench.apply()
    bench.drive()
    adapter = bench.get()
    annotations = {TRAIN_REQUESTED_AT: "2026-03-01T13:00:00+05:00"}
    bench.state.write(
        adapter.model_copy(
            update={
                "metadata": adapter.metadata.model_copy(update={"annotations": annotations}),
                "status": adapter.status.model_copy(update={"train_requested_at": "2026-03-01T08:00:00Z"}),
            }
        )
    )
    bench.state.request("soc", "cloud", bench.now)
    bench.drive(lambda seen: seen.settled and seen.adapters[0].status.train_requested_at == "2026-03-01T12:00:00Z")


def test_history_lets_go_of_old_versions_and_folders_and_spares_the_store(bench: Any) -> None:
    """After three versions with room for one: what serves and what stands by, one run's folder, and every artifact."""
    bench.apply()
    bench.drive()
    for generation, rank in enumerate((4, 12), start=2):
        bench.adapter(lora={"rank": rank}, history={"successful": 1, "failed": 0})
        bench.drive(lambda seen, g=generation: seen.settled and seen.adapters[0].metadata.generation == g)
    bench.reconciler.pass_once()
    serving = bench.get().status.versions
    kept = {version.spec.version for version in bench.state.list(SocAdapterVersion)}
    assert {serving.stable.name, serving.previous.name} == kept
    folders = {path.name for path in (bench.root / "state" / "runs").iterdir()}
    assert bench.get().status.last_run.run_id in folders
    assert (2, 3) == (len(folders), len(list((bench.root / "store").rglob("_SUCCESS"))))
