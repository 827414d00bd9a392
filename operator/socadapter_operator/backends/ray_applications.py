"""The Serve applications of a Ray cluster as one document: read, one entry changed, written back. Pure.

Ray's PUT is declarative for the whole cluster: what it leaves out is deleted. So whatever is written was read just
before, and all that is not ours goes back as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from socadapter_api.errors import ForeignObject, SpecError
from socadapter_operator.backends.ray_states import AppStatus
from socadapter_operator.builders.rayservice import ENGINE, GATEWAY, IMPORT_PATH

CONFIG_VARIABLE = "SOCADAPTER_SERVE_CONFIG"
START_VARIABLE = "SOCADAPTER_SERVE_START"
"""Counts the starts of one configuration: Ray starts what it gave up only when something differs."""

_CLUSTER_WIDE = ("proxy_location", "http_options", "grpc_options", "target_capacity")
_HIDDEN = "<redacted>"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replica:
    """One actor of an application, by its deployment and the id by which Ray knows it; empty before it has one."""

    name: str
    actor_id: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """One application as the cluster knows it."""

    status: str
    message: str
    config: Mapping[str, Any]
    deployed_at: float
    replicas: tuple["Replica", ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the configuration that it runs with."""
        return str((self.config.get("args") or {}).get("digest", ""))

    @property
    def starts(self) -> int:
        """How often this configuration was started."""
        variables = (self.config.get("runtime_env") or {}).get("env_vars") or {}
        return int(variables.get(START_VARIABLE, 1))

    @property
    def table(self) -> Any:
        """The serving table that it was given, unread; None where there is none."""
        configs = [deployment.get("user_config") for deployment in self.config.get("deployments") or ()]
        return next((config for config in configs if config is not None), None)


def application(
    name: str, route_prefix: str, config: str, digest: str, table: Mapping[str, Any], starts: int
) -> Document:
    """One application of ours. `config` is its configuration, by value and hidden from browsers; `digest` is its."""
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": IMPORT_PATH,
        "args": {"config": f"env:{CONFIG_VARIABLE}", "digest": digest},
        "runtime_env": {"env_vars": {CONFIG_VARIABLE: config, START_VARIABLE: str(starts)}},
        "deployments": [{"name": deployment, "user_config": dict(table)} for deployment in (ENGINE, GATEWAY)],
    }


def find(details: Mapping[str, Any], name: str) -> Deployed | None:
    """The application of that name in what Ray tells about Serve.

    Raises:
        ForeignObject: it runs other code than ours.
    """
    found = (details.get("applications") or {}).get(name)
    if found is None:
        return None
    config = found.get("deployed_app_config") or {}
    leaving = found.get("status") == AppStatus.DELETING  # Ray tells no configuration of it any more
    if not leaving and config.get("import_path") != IMPORT_PATH:
        raise ForeignObject(
            f"the Serve application {name!r} runs {config.get('import_path')!r}, which is not ours: remove it, or "
            "rename the pool"
        )
    return Deployed(
        str(found.get("status")),
        str(found.get("message") or ""),
        config,
        float(found.get("last_deployed_time_s") or 0.0),
        tuple(
            Replica(f"{deployment} {replica.get('replica_id', '')}", str(replica.get("actor_id") or ""))
            for deployment, about in (found.get("deployments") or {}).items()
            for replica in about.get("replicas") or ()
        ),
    )


def replaced(details: Mapping[str, Any], name: str, by: Document | None, http_options: Mapping[str, Any]) -> Document:
    """What to write so that `name` is `by`, or gone, and everything else stays.

    `http_options` count where Serve is not running yet; later Ray does not change them.

    Raises:
        SpecError: the cluster hides a value that would have to be written back.
    """
    others = [
        config
        for app, found in (details.get("applications") or {}).items()
        # One that is being deleted would come back; one that was deployed by code stays without being named.
        if app != name and found.get("status") != AppStatus.DELETING and (config := found.get("deployed_app_config"))
    ]
    for config in others:
        if _hides(config):
            raise SpecError(
                f"the Ray cluster hides values of its Serve application {config.get('name')!r}, and writing it back "
                "would lose them: let it show them to programs (no browser's user agent on the way)"
            )
    document: Document = {"http_options": dict(http_options)}
    document |= {key: details[key] for key in _CLUSTER_WIDE if details.get(key) is not None}
    return document | {"applications": others if by is None else [*others, by]}


def _hides(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_hides, value.values()))
    if isinstance(value, list):
        return any(map(_hides, value))
    return value == _HIDDEN
