"""``python -m socadapter_operator``: the operator's process, configured by its environment and a few options."""

import gc
import importlib
import signal
import sys
import threading
import uuid
from pathlib import Path
from types import FrameType

import click

from socadapter_api.errors import SocAdapterError
from socadapter_operator.backends.cluster import ClusterBackends
from socadapter_operator.builders.installation import Installation, Peer
from socadapter_operator.kube.credentials import discover
from socadapter_operator.shell import logs
from socadapter_operator.shell.operator import Operator, Settings

_ENVIRONMENT = "SOCADAPTER_OPERATOR"

POD_LABELS = "app.kubernetes.io/part-of=socadapter,app.kubernetes.io/component=operator"
"""What the chart gives the operator's pods, whatever the release is called."""
KUBERAY_LABELS = "app.kubernetes.io/component=kuberay-operator"
"""What both KubeRay's chart and its kustomization give its operator's pods."""


def _labels(_context: click.Context, _option: click.Parameter, text: str) -> dict[str, str]:
    """Labels as ``kubectl get -l`` takes them."""
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    if wrong := ["".join(pair) for pair in pairs if not all(pair)]:
        raise click.BadParameter(
            f"{wrong[0]!r} in {text!r} is no KEY=VALUE: without labels whole namespaces would be let in"
        )
    return {key: value for key, _, value in pairs}


def installation(
    *,
    training_image: str,
    serving_image: str,
    pod_namespace: str,
    pod_labels: dict[str, str],
    kuberay_namespace: str,
    kuberay_labels: dict[str, str],
) -> Installation:
    """What manifests are made with: the images, and the pods of the two operators, no others of their namespaces."""
    kuberay = [Peer(kuberay_namespace, kuberay_labels)] if kuberay_namespace else []
    return Installation(training_image, serving_image, (Peer(pod_namespace, pod_labels), *kuberay))


@click.command(context_settings={"auto_envvar_prefix": _ENVIRONMENT})
@click.option("--namespaces", default="", help="Comma-separated; empty: all of them.")
@click.option("--training-image", required=True, help="Where a resource names none.")
@click.option("--serving-image", required=True, help="Where a pool names none.")
@click.option("--pod-namespace", default="default", show_default=True, help="The operator's own, where its Lease is.")
@click.option(
    "--pod-labels",
    default=POD_LABELS,
    show_default=True,
    callback=_labels,
    help="Of its own pods, KEY=VALUE,KEY=VALUE.",
)
@click.option("--kuberay-namespace", default="", help="KubeRay's, whose operator reaches the dashboards of Ray.")
@click.option(
    "--kuberay-labels",
    default=KUBERAY_LABELS,
    show_default=True,
    callback=_labels,
    help="Of KubeRay's operator's pods.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for adapters while they are checked.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=4, show_default=True, help="That reconcile adapters.")
@click.option("--health-host", default="127.0.0.1", show_default=True, help="0.0.0.0 in a pod: the kubelet asks.")
@click.option("--health-port", type=click.IntRange(0, 65535), default=8081, show_default=True)
@click.option("--elect/--no-elect", default=True, show_default=True, help="Leader election by a Lease.")
@click.option("--log-level", default="INFO", show_default=True)
def main(
    namespaces: str,
    training_image: str,
    serving_image: str,
    pod_namespace: str,
    pod_labels: dict[str, str],
    kuberay_namespace: str,
    kuberay_labels: dict[str, str],
    cache: Path,
    threads: int,
    health_host: str,
    health_port: int,
    elect: bool,
    log_level: str,
) -> None:
    """Watches SocServingPools and SocAdapters until it is told to end."""
    logs.configure(log_level)
    # A second, which the first pass over a pool would take otherwise.
    importlib.import_module("socadapter_store.signatures")
    installed = installation(
        training_image=training_image,
        serving_image=serving_image,
        pod_namespace=pod_namespace,
        pod_labels=pod_labels,
        kuberay_namespace=kuberay_namespace,
        kuberay_labels=kuberay_labels,
    )
    watched = tuple(name.strip() for name in namespaces.split(",") if name.strip())
    settings = Settings(
        cache_folder=cache,
        identity=f"{_host()}_{uuid.uuid4().hex[:8]}",
        namespaces=watched,
        lease_namespace=pod_namespace,
        elect=elect,
        threads=threads,
        health_host=health_host,
        health_port=health_port,
    )
    try:
        operator = Operator(discover(), settings, lambda client: ClusterBackends(client, installed, namespaces=watched))
    except SocAdapterError as error:
        raise click.ClickException(f"{error.reason}: {error}") from error
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    # What was imported stays: without it a full collection, while thousands of objects are read, has half to look at.
    gc.freeze()
    operator.start()
    ended.wait()
    operator.stop()


def _host() -> str:
    import socket

    return socket.gethostname()


if __name__ == "__main__":
    main(prog_name="socadapter-operator")
    sys.exit(0)
