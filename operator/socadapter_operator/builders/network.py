"""NetworkPolicies: who may open a connection to the pods of a run or a pool.

Whoever reaches Ray's dashboard, GCS or client port can run code, token or not, should the token ever leak: those ports
are for the cluster's own pods, and the dashboard for the operators besides. Policies add up, so that an owner who wants
to let in more writes one of their own. Outgoing connections stay as the namespace has them: stores, hubs and tool
servers are the owner's to name.
"""

from collections.abc import Iterable
from typing import Any

from socadapter_api.adapter import SocAdapter
from socadapter_api.pool import SocServingPool
from socadapter_operator.builders import labels, pods
from socadapter_operator.builders.installation import Installation, Peer

_NAMESPACE_NAME = "kubernetes.io/metadata.name"

Json = dict[str, Any]


def of_run(run_id: str, adapter: SocAdapter, pool: SocServingPool, installation: Installation) -> Json:
    """The policy of a run's pods, its submitter included."""
    own = {labels.RUN: run_id}
    ingress = [
        _rule([_own_pods(own)]),
        *_from_operators(installation, pods.DASHBOARD_PORT),
        *_from_namespaces(pool.spec.access.metrics_namespaces, pods.METRICS_PORT),
    ]
    return _policy(run_id, own, ingress, labels.metadata(run_id, adapter, labels.of_run(adapter, run_id)))


def of_pool(service: str, pool: SocServingPool, installation: Installation) -> Json:
    """The policy of the pods that serve a pool."""
    own = {labels.POOL: pool.metadata.name}
    gateway = pool.spec.port
    ingress = [
        _rule([_own_pods(own)]),
        # KubeRay asks the proxies for their health at the gateway's port.
        *_from_operators(installation, pods.DASHBOARD_PORT, gateway),
        _rule([{"podSelector": {}}], gateway),
        *_from_namespaces(pool.spec.access.gateway_namespaces, gateway),
        *_from_namespaces(pool.spec.access.metrics_namespaces, pods.METRICS_PORT),
    ]
    return _policy(service, own, ingress, labels.metadata(service, pool, labels.of_pool(pool)))


def _policy(name: str, own: dict[str, str], ingress: list[Json], metadata: labels.Metadata) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**metadata, "name": name},
        "spec": {"podSelector": {"matchLabels": own}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def _rule(peers: list[Json], *ports: int) -> Json:
    """Lets `peers` in at `ports`; at all of them where none is named."""
    rule: Json = {"from": peers}
    return rule | ({"ports": [{"protocol": "TCP", "port": port} for port in ports]} if ports else {})


def _own_pods(own: dict[str, str]) -> Json:
    return {"podSelector": {"matchLabels": own}}


def _from_operators(installation: Installation, *ports: int) -> list[Json]:
    peers = [_peer(peer) for peer in installation.operators]
    return [_rule(peers, *ports)] if peers else []  # no peers at all would be everybody


def _from_namespaces(names: Iterable[str], port: int) -> list[Json]:
    peers = [_peer(Peer(name)) for name in sorted(set(names))]
    return [_rule(peers, port)] if peers else []


def _peer(peer: Peer) -> Json:
    made: Json = {"namespaceSelector": {"matchLabels": {_NAMESPACE_NAME: peer.namespace}}}
    return made | ({"podSelector": {"matchLabels": dict(sorted(peer.labels.items()))}} if peer.labels else {})
