"""Training runs as jobs of a Ray cluster that exists: ``python -m socadapter_jobs`` through the Jobs REST API.

A run's first attempt is the job ``<run-id>``, the next ones ``<run-id>-2``, ``<run-id>-3``: Ray takes no id twice, so
that two operators that start the same attempt start one process, and the logs of earlier attempts stay. A cluster that
was started anew knows no job; the run is then `Absent` and starts again from its checkpoints.

Secrets travel in the job's environment, which Ray's dashboard hides from browsers. Whoever holds the cluster's token
can run code there and read them: keep it as you keep them.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from socadapter_api.errors import BackendUnavailable, SocAdapterError, SpecError
from socadapter_api.training import RunSpec
from socadapter_operator.backends import ray_states
from socadapter_operator.backends.ray_dashboard import RayDashboard, said
from socadapter_operator.backends.ray_logs import follow_lines
from socadapter_operator.builders.rayjob import ENTRYPOINT, STOP_GRACE_S
from socadapter_operator.domain.observed import EndedRun
from socadapter_operator.domain.state import BackendRun, RunState

_JOBS = "/api/jobs/"
_ENVIRONMENT_LIMIT_BYTES = 120 * 1024
"""Linux takes no longer string from an environment."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One job of a run, as Ray describes it."""

    number: int
    submission_id: str
    details: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        return _has_ended(self.details)

    def as_run(self) -> BackendRun:
        told = self.details
        return ray_states.run(
            str(told.get("status")), told.get("error_type"), told.get("driver_exit_code"), str(told.get("message", ""))
        )


class RayRuns:
    """The runs of one Ray cluster. `job` is the shell command that runs one."""

    def __init__(self, dashboard: RayDashboard, job: str = ENTRYPOINT, stop_grace_s: int = STOP_GRACE_S) -> None:
        self._dashboard = dashboard
        self._job = job
        self._stop_grace_s = stop_grace_s
        self._newest: dict[str, int] = {}

    def active(self, run_id: str) -> bool:
        """Whether the run's newest attempt has not ended; raises as `RayDashboard.send`."""
        newest = self._latest(run_id)
        return newest is not None and not newest.ended

    def start(self, spec: RunSpec, secrets: Mapping[str, str]) -> None:
        """Submits the run's next attempt, or leaves it alone while one has not ended.

        `secrets` are the texts of the files that the run finds below $SOCADAPTER_SECRETS.

        Raises:
            SpecError: the run does not fit into an environment, or Ray refused the job.
            BackendUnavailable: as `RayDashboard.send`.
        """
        before = self._latest(spec.run_id)
        if before is not None and not before.ended:
            return
        number = before.number + 1 if before else 1
        submission_id = _submission_id(spec.run_id, number)
        body = {
            "entrypoint": self._job,
            "submission_id": submission_id,
            "runtime_env": {"env_vars": self._environment(spec, secrets)},
            "metadata": {"run_id": spec.run_id, "namespace": spec.namespace, "adapter": spec.adapter},
        }
        try:
            answer = self._dashboard.send("POST", _JOBS, body)
        except BackendUnavailable:
            # Ray answers 500 to an id that it has, and a lost answer may be that of a job that was taken.
            if self._details(submission_id) is None:
                raise
        else:
            if answer.is_error and self._details(submission_id) is None:
                raise SpecError(f"Ray at {self._dashboard.url} refused run {spec.run_id!r}: {said(answer)}")
        self._newest[spec.run_id] = number

    def observe(self, run_id: str) -> BackendRun:
        """What Ray says about the run's newest attempt; `Unknown` while it says nothing."""
        try:
            newest = self._latest(run_id)
        except SocAdapterError as error:
            return BackendRun(RunState.UNKNOWN, error.reason, str(error), error.retryable)
        return newest.as_run() if newest else BackendRun()

    def stop(self, run_id: str) -> None:
        """Asks the run's newest attempt to end; raises as `RayDashboard.send`."""
        newest = self._latest(run_id)
        if newest is not None and not newest.ended:
            self._dashboard.send("POST", f"{_JOBS}{newest.submission_id}/stop")

    def ended(self, namespace: str, adapter: str) -> tuple[EndedRun, ...]:
        """The adapter's runs that Ray still knows and of which no attempt goes on; empty while Ray cannot be asked."""
        try:
            jobs = self._dashboard.get(_JOBS)
        except SocAdapterError:
            return ()
        attempts: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for job in jobs if isinstance(jobs, list) else ():
            metadata = job.get("metadata") or {}
            if (metadata.get("namespace"), metadata.get("adapter")) == (namespace, adapter) and metadata.get("run_id"):
                attempts[metadata["run_id"]].append(job)
        over = {run_id: jobs for run_id, jobs in attempts.items() if all(map(_has_ended, jobs))}
        return tuple(EndedRun(run_id, max(map(_ended_at, jobs))) for run_id, jobs in sorted(over.items()))

    def forget(self, run_id: str) -> None:
        """Removes the run's jobs, with their logs and environments, from Ray's records; one that goes on stays.

        Raises:
            BackendUnavailable: as `RayDashboard.send`.
        """
        newest = self._latest(run_id)
        if newest is None or not newest.ended:
            return
        for number in range(newest.number, 0, -1):  # the first one last: it is what `_latest` begins with
            self._dashboard.send("DELETE", f"{_JOBS}{_submission_id(run_id, number)}")
        self._newest.pop(run_id, None)

    def logs(self, run_id: str, *, follow: bool = False) -> Iterator[str]:
        """What the run's newest attempt printed, line by line; with `follow` until it ends."""
        newest = self._latest(run_id)
        if newest is None:
            return
        path = f"{_JOBS}{newest.submission_id}/logs"
        if follow and not newest.ended:
            yield from follow_lines(self._dashboard, path)
            return
        yield from str((self._dashboard.get(path) or {}).get("logs", "")).splitlines()

    def _environment(self, spec: RunSpec, secrets: Mapping[str, str]) -> dict[str, str]:
        variables = {
            "SOCADAPTER_RUN_SPEC": spec.model_dump_json(exclude_defaults=True),
            "SOCADAPTER_SECRET_VALUES": json.dumps(dict(secrets)),
            "RAY_JOB_STOP_WAIT_TIME_S": str(self._stop_grace_s),
        }
        for name, value in variables.items():
            if (size := len(value.encode())) > _ENVIRONMENT_LIMIT_BYTES:
                raise SpecError(
                    f"run {spec.run_id!r} needs {size} bytes in {name}, more than the {_ENVIRONMENT_LIMIT_BYTES} that "
                    "an environment carries: name fewer data sources or trusted keys"
                )
        return variables

    def _latest(self, run_id: str) -> Attempt | None:
        """The newest attempt. Only one that has ended can have a successor."""
        number = self._newest.get(run_id, 1)
        found = self._attempt(run_id, number)
        if found is None and number > 1:  # the cluster has forgotten them all
            number, found = 1, self._attempt(run_id, 1)
        while found is not None and found.ended and (following := self._attempt(run_id, found.number + 1)):
            found = following
        if found is None:
            self._newest.pop(run_id, None)
        else:
            self._newest[run_id] = found.number
        return found

    def _attempt(self, run_id: str, number: int) -> Attempt | None:
        submission_id = _submission_id(run_id, number)
        details = self._details(submission_id)
        return None if details is None else Attempt(number, submission_id, details)

    def _details(self, submission_id: str) -> Mapping[str, Any] | None:
        found = self._dashboard.get(f"{_JOBS}{submission_id}")
        return found if isinstance(found, dict) else None


def _has_ended(details: Mapping[str, Any]) -> bool:
    return ray_states.has_ended(str(details.get("status")))


def _ended_at(details: Mapping[str, Any]) -> datetime:
    """When the job ended, by Ray's clock; where Ray did not note it, when it began."""
    at_ms = details.get("end_time") or details.get("start_time") or 0
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _submission_id(run_id: str, number: int) -> str:
    return run_id if number == 1 else f"{run_id}-{number}"
