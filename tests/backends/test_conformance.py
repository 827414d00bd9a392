"""What `backends.protocol.Backend` promises, checked on every implementation with real processes."""

import pytest
from tests.backends.benches import Bench, wait

from socadapter_api.errors import SpecError
from socadapter_api.manifest import Outcome
from socadapter_api.serving_table import ContextRoute, ServedVersion, ServingTable
from socadapter_operator import evidence
from socadapter_operator.domain.observed import ServingState, ServingView
from socadapter_operator.domain.state import BackendRun, RunState, settle

pytestmark = pytest.mark.slow

ENDED = (RunState.SUCCEEDED, RunState.FAILED)
LIVE = (RunState.STARTING, RunState.RUNNING)
DIGEST = "sha256:" + "0" * 64


def table(generation: int) -> ServingTable:
    """A table with one version that no replica can load: its run is not there."""
    version = ServedVersion(name=f"cloud-v{generation}-00000000", uri="/nowhere/run", digest=DIGEST)
    return ServingTable(generation=generation, routes=(ContextRoute(context="cloud", stable=version),))


def test_an_unknown_run_is_absent(bench: Bench) -> None:
    """Nothing is known of it; stopping or forgetting it changes that as little as reading its log."""
    bench.backend.stop("never-started")
    bench.backend.forget("never-started")
    assert (BackendRun(), []) == (bench.backend.observe("never-started"), list(bench.backend.logs("never-started")))


def test_a_run_succeeds_by_what_it_leaves(bench: Bench) -> None:
    """It finds its spec, scratch folder and key, publishes, and what it published is verified with the pool's keys."""
    pool, spec = bench.pool(), bench.run("publishes")
    bench.backend.start(spec, pool)
    ended = bench.reaches(spec.run_id, *ENDED)
    assert ended.state is RunState.SUCCEEDED, (ended, list(bench.backend.logs(spec.run_id)))
    checks = evidence.Checks(bench.backend.trusted_keys(pool), bench.root / "checked")
    view = settle(ended, evidence.read(bench.folder(spec).uri, lambda: checks))
    assert view.evidence.verification is not None
    assert (RunState.SUCCEEDED, True) == (view.state, view.evidence.verification.ok), view
    assert 1 == bench.attempts(spec.run_id)


def test_an_end_without_a_result_does_not_count(bench: Bench) -> None:
    """The process ended well and left nothing: the store's word is the one that counts."""
    bench.play("vanish")
    spec = bench.run("vanishes")
    bench.backend.start(spec, bench.pool())
    ended = bench.reaches(spec.run_id, *ENDED)
    assert (RunState.FAILED, "ArtifactMissing") == _settled(bench, spec.run_id, ended)


def test_starting_twice_starts_one_process(bench: Bench) -> None:
    """By the same operator and by one that took over, while the run starts and while it runs."""
    bench.play("hang")
    pool, spec = bench.pool(), bench.run("started-twice")
    bench.backend.start(spec, pool)
    bench.backend.start(spec, pool)
    bench.restart()
    bench.backend.start(spec, pool)
    bench.works(spec.run_id)
    bench.backend.start(spec, pool)
    assert bench.backend.observe(spec.run_id).state is RunState.RUNNING
    bench.backend.stop(spec.run_id)
    bench.reaches(spec.run_id, *ENDED)
    assert 1 == bench.attempts(spec.run_id)


def test_a_stopped_run_says_so_and_goes_on(bench: Bench) -> None:
    """It is interrupted, not killed; the next start has the same id, folder and scratch, and its log is the new one."""
    bench.play("hang", "publish")
    pool, spec = bench.pool(), bench.run("stopped")
    bench.backend.start(spec, pool)
    bench.works(spec.run_id)
    bench.backend.stop(spec.run_id)
    bench.backend.stop(spec.run_id)
    stopped = bench.reaches(spec.run_id, *ENDED)
    assert (RunState.FAILED, "RunInterrupted", True) == (stopped.state, stopped.reason, stopped.retryable)
    bench.backend.start(spec, pool)
    assert bench.reaches(spec.run_id, *ENDED).state is RunState.SUCCEEDED
    assert 2 == bench.attempts(spec.run_id)
    assert "attempt 1 of stopped" in "\n".join(bench.backend.logs(spec.run_id))


def test_a_run_that_only_waits_stops_at_once(bench: Bench) -> None:
    """Stopped before it did anything, it ends as interrupted, whether it had its turn already or not."""
    bench.play("hang")
    pool, first, second = bench.pool(), bench.run("goes-first"), bench.run("waits")
    bench.backend.start(first, pool)
    bench.backend.start(second, pool)
    bench.backend.stop(second.run_id)
    stopped = bench.reaches(second.run_id, *ENDED)
    assert (RunState.FAILED, "RunInterrupted") == (stopped.state, stopped.reason)
    bench.works(first.run_id)
    assert bench.backend.observe(first.run_id).state is RunState.RUNNING
    bench.backend.stop(first.run_id)
    bench.reaches(first.run_id, *ENDED)


def test_a_killed_run_is_resumed_under_its_id(bench: Bench) -> None:
    """A process that died without a word has failed and may be tried again; an operator that took over resumes it."""
    bench.play("crash", "publish")
    pool, spec = bench.pool(), bench.run("crashes")
    bench.backend.start(spec, pool)
    ended = bench.reaches(spec.run_id, *ENDED)
    assert (RunState.FAILED, "RunLost", True) == (ended.state, ended.reason, ended.retryable)
    bench.restart()
    assert bench.backend.observe(spec.run_id).state is RunState.FAILED
    bench.backend.start(spec, pool)
    assert bench.reaches(spec.run_id, *ENDED).state is RunState.SUCCEEDED
    assert 2 == bench.attempts(spec.run_id)


def test_a_failure_in_the_store_is_taken_back(bench: Bench) -> None:
    """A resumed run's result counts although the attempt before left `_FAILED`."""
    bench.play("passing", "publish")
    pool, spec = bench.pool(), bench.run("passes")
    bench.backend.start(spec, pool)
    assert (RunState.FAILED, "DiskFull") == _settled(bench, spec.run_id, bench.reaches(spec.run_id, *ENDED))
    bench.backend.start(spec, pool)
    bench.reaches(spec.run_id, *ENDED)
    result = bench.folder(spec).read_result()
    assert result is not None
    assert Outcome.PUBLISHED is result.outcome


def test_a_log_is_followed_to_its_end(bench: Bench) -> None:
    """Lines come while the run works, and the reader is done when the run is."""
    bench.play("hang")
    spec = bench.run("followed")
    bench.backend.start(spec, bench.pool())
    bench.works(spec.run_id)
    lines = bench.backend.logs(spec.run_id, follow=True)
    seen = []
    for line in lines:
        seen.append(line)
        if line == "hanging":
            bench.backend.stop(spec.run_id)
    assert {"attempt 0 of followed", "hanging"} <= set(seen)
    assert bench.reaches(spec.run_id, *ENDED).reason == "RunInterrupted"


def test_an_ended_run_is_forgotten_but_for_the_store(bench: Bench) -> None:
    """It is listed once it ended; forgotten, it is absent, and what it published is still there."""
    bench.play("hang", "publish")
    pool, spec = bench.pool(), bench.run("forgotten")
    bench.backend.start(spec, pool)
    bench.works(spec.run_id)
    assert () == bench.backend.ended("soc", "cloud-forgotten")
    bench.backend.forget(spec.run_id)
    assert bench.backend.observe(spec.run_id).state is RunState.RUNNING
    bench.backend.stop(spec.run_id)
    bench.reaches(spec.run_id, *ENDED)
    bench.backend.start(spec, pool)
    bench.reaches(spec.run_id, RunState.SUCCEEDED)
    assert spec.run_id in {run.run_id for run in bench.backend.ended("soc", "cloud")}
    bench.backend.forget(spec.run_id)
    assert bench.backend.observe(spec.run_id).state is RunState.ABSENT
    assert spec.run_id not in {run.run_id for run in bench.backend.ended("soc", "cloud")}
    assert bench.folder(spec).read_result() is not None


def test_a_pool_that_is_not_served_is_absent(bench: Bench) -> None:
    """Looking, deleting and counting verdicts raise nothing."""
    pool = bench.pool()
    bench.backend.delete(pool)
    view = bench.backend.serving(pool)
    assert (ServingState.ABSENT, "", None) == (view.state, view.endpoint, view.table)
    assert bench.backend.verdicts(pool, "cloud", "24h") is None


def test_a_missing_secret_is_told_before_anything_starts(bench: Bench) -> None:
    """A caller's token, and the key that signs."""
    caller = {"name": "soar", "tokenSecretRef": {"name": "nowhere", "key": "token"}}
    with pytest.raises(SpecError, match="nowhere"):
        bench.backend.apply_table(bench.pool(callers=[caller]), ServingTable())
    spec = bench.run("unsigned")
    with pytest.raises(SpecError, match="nowhere"):
        bench.backend.start(spec, bench.pool(signing={"keySecretRef": {"name": "nowhere"}}))
    assert bench.backend.observe(spec.run_id).state is RunState.ABSENT


def test_tables_reach_replicas_without_a_restart(bench: Bench) -> None:
    """The same replica reports one generation after the other; the table last applied is told whatever they hold; a
    changed pool is served anew; deleted, the pool is absent, and what lies in the store stays."""
    pool = bench.pool()
    kept = bench.root / "store" / "kept"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("artifact")
    bench.backend.apply_table(pool, table(1))
    bench.backend.apply_table(pool, table(1))
    assert table(1) == bench.backend.serving(pool).table
    first = _holds(bench, pool, 1)
    assert first.endpoint.startswith("http://127.0.0.1:")
    assert not first.outdated
    bench.restart()
    bench.backend.apply_table(pool, table(2))
    assert table(2) == bench.backend.serving(pool).table
    second = _holds(bench, pool, 2)
    assert {report.replica for report in first.reports} == {report.replica for report in second.reports}
    changed = pool.model_copy(update={"spec": pool.spec.model_copy(update={"max_loras": 3})})
    assert bench.backend.serving(changed).outdated
    bench.backend.delete(pool)
    wait(lambda: bench.backend.serving(pool), lambda view: view.state is ServingState.ABSENT, 60, bench.tend)
    assert kept.read_text() == "artifact"


def _holds(bench: Bench, pool: object, generation: int) -> ServingView:
    def held(view: ServingView) -> bool:
        return bool(view.reports) and all(report.generation == generation for report in view.reports)

    seen: ServingView = wait(lambda: bench.backend.serving(pool), held, bench.replicas_s, bench.tend)  # type: ignore[arg-type]
    return seen


def _settled(bench: Bench, run_id: str, ended: BackendRun) -> tuple[RunState, str]:
    view = settle(ended, evidence.read(bench.folder(bench.run(run_id)).uri, None))
    return view.state, view.reason
