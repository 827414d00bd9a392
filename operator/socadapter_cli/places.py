"""Where a command looks: the state folder of local mode, or a cluster.

``socadapter`` looks into the state folder unless an option names a cluster, a namespace or a kubeconfig;
``kubectl socadapter`` looks into the cluster, as kubectl would.
"""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from socadapter_api.adapter import TRAIN_REQUESTED_AT, SocAdapter, SocAdapterVersion
from socadapter_api.errors import ObjectNotFound
from socadapter_api.pool import SocServingPool
from socadapter_cli.workspace import open_workspace
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.builders.installation import UNKNOWN
from socadapter_operator.domain.timestamps import stamp
from socadapter_operator.kube.client import Client
from socadapter_operator.kube.credentials import Kubeconfig, discover
from socadapter_operator.kube.resources import ADAPTER, ADAPTER_VERSION, POOL, Object
from socadapter_operator.local import state_folder
from socadapter_operator.local.state_folder import Resource, StateFolder
from socadapter_operator.shell.contracts import Contracts

PLUGIN = "kubectl-socadapter"
MANAGER = "kubectl-socadapter"

Kind = TypeVar("Kind", SocServingPool, SocAdapter, SocAdapterVersion)
KINDS = {SocServingPool: POOL, SocAdapter: ADAPTER, SocAdapterVersion: ADAPTER_VERSION}


class Place(Protocol):
    """Something that holds resources."""

    @property
    def told(self) -> str:
        """What to call it in an error."""
        ...

    def list(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """Every resource of `kind`, by namespace and name."""
        ...

    def log_place(self, name: str, run_id: str) -> str:
        """Where a person finds the log of a run of the adapter `name`: a file, or a command."""
        ...

    def logs(self, resource: Resource, run_id: str, *, follow: bool) -> Iterator[str]:
        """What a run, or a pool's service, printed."""
        ...

    def request(self, name: str) -> str:
        """Asks for a run of the adapter `name` now; returns who takes it up."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A state folder."""

    path: Path

    @property
    def told(self) -> str:
        return f"state folder {self.path}"

    def list(self, kind: type[Kind]) -> tuple[Kind, ...]:
        return StateFolder(self.path).list(kind)

    def log_place(self, name: str, run_id: str) -> str:
        return str(self.path / "runs" / run_id / "run.log")

    def logs(self, resource: Resource, run_id: str, *, follow: bool) -> Iterator[str]:
        backend = open_workspace(self.path).backend
        if isinstance(resource, SocServingPool):
            return backend.pool_logs(resource, follow=follow)
        return backend.logs(run_id, follow=follow)

    def request(self, name: str) -> str:
        folder = StateFolder(self.path)
        found = [adapter for adapter in folder.list(SocAdapter) if adapter.metadata.name == name]
        if not found:
            raise ObjectNotFound(f"{self.told} holds no SocAdapter {name!r}; `socadapter get adapters` lists them")
        for adapter in found:
            folder.request(adapter.metadata.namespace, name, datetime.now(UTC))
        return "the `up` that drives it takes it up" if folder.owner() else "the next `socadapter up` takes it up"


class Cluster:
    """One namespace of a cluster. `options` lead a command to the same cluster."""

    def __init__(self, client: Client, namespace: str, options: Sequence[str] = ()) -> None:
        self.client = client
        self.namespace = namespace
        self._options = tuple(options)
        self._contracts = Contracts()

    @property
    def told(self) -> str:
        return f"namespace {self.namespace}"

    def list(self, kind: type[Kind]) -> tuple[Kind, ...]:
        found = self.client.list(KINDS[kind], self.namespace).items
        return tuple(self._contracts.read(kind, raw) for raw in sorted(found, key=lambda raw: raw["metadata"]["name"]))

    def log_place(self, name: str, run_id: str) -> str:
        return shlex.join(
            ("kubectl", "socadapter", "logs", name, "--run", run_id, "-n", self.namespace, *self._options)
        )

    def logs(self, resource: Resource, run_id: str, *, follow: bool) -> Iterator[str]:
        if isinstance(resource, SocServingPool):
            return self.backends()(resource).pool_logs(resource, follow=follow)
        pools = {pool.metadata.name: pool for pool in self.list(SocServingPool)}
        named = resource.spec.serving_pool_ref.name if isinstance(resource, SocAdapter) else ""
        return self.backends()(pools.get(named)).logs(run_id, follow=follow)

    def backends(self) -> ClusterBackends:
        """The backends of the cluster, to look at."""
        return ClusterBackends(self.client, UNKNOWN, namespaces=(self.namespace,))

    def request(self, name: str) -> str:
        annotations = {TRAIN_REQUESTED_AT: stamp(datetime.now(UTC))}
        self.change(name, {"metadata": {"annotations": annotations}})
        return "the operator takes it up"

    def change(self, name: str, fields: Object) -> None:
        """Changes `fields` of the adapter `name`, and nothing else, whoever set them before.

        Raises:
            ObjectNotFound: there is no such adapter.
        """
        try:
            self.client.merge(ADAPTER, self.namespace, name, fields, manager=MANAGER)
        except ObjectNotFound as error:
            raise ObjectNotFound(f"{self.told} holds no SocAdapter {name!r}; `get adapters` lists them") from error


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where to look; the command gets `place`."""

    @click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Folder of local mode.  [default: $SOCADAPTER_HOME or ./.socadapter]",
    )
    @click.option("-n", "--namespace", default="", help="Look into this namespace of a cluster.")
    @click.option("--context", "kube_context", default="", help="Look into the cluster of this kubeconfig context.")
    @click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Look into its cluster.")
    @click.pass_context
    @wraps(command)
    def with_place(
        context: click.Context,
        /,
        *positional: Any,
        state: Path | None,
        namespace: str,
        kube_context: str,
        kubeconfig: Path | None,
        **given: Any,
    ) -> Any:
        asked = bool(namespace or kube_context or kubeconfig)
        if asked and state is not None:
            raise click.UsageError("--state names a folder, the other options a cluster: give one or the other")
        if asked or (state is None and context.find_root().info_name == PLUGIN):
            cluster = _cluster(namespace, kube_context, kubeconfig)
            with closing(cluster.client):
                return command(*positional, place=cluster, **given)
        return command(*positional, place=Folder(state or state_folder.default()), **given)

    return with_place


def _cluster(namespace: str, context: str, kubeconfig: Path | None) -> Cluster:
    credentials = Kubeconfig(kubeconfig, context=context) if kubeconfig else discover(os.environ, context)
    options = [*(("--context", context) if context else ()), *(("--kubeconfig", str(kubeconfig)) if kubeconfig else ())]
    return Cluster(Client(credentials), namespace or credentials.connection().namespace, options)
