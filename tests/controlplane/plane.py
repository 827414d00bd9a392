"""A Kubernetes control plane of a test's own: etcd, the API server and the controller manager, on loopback ports.

Nothing is simulated: validation, defaulting, CEL, RBAC, Pod Security admission, server-side apply, watches, garbage
collection and the deletion of namespaces are Kubernetes' own. What is missing is a node: no pod ever runs, unless a
test writes its status.

It is fit for tests only: etcd does not wait for the disk, tokens stand in a file, and its folder goes with it.
"""

import json
import secrets
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
from tests.controlplane import binaries
from tests.controlplane.certificates import Authority, KeyPair, token_key
from tests.controlplane.cluster import OUR_CRDS, RAY_CRDS, Cluster, kubeconfig_text, wait_for
from tests.controlplane.processes import Child, ProcessEnded, free_port

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
SERVICES = "10.0.0.0/24"
_KUBERNETES_SERVICE = IPv4Address("10.0.0.1")
_ATTEMPTS = 3

GROUPS: dict[str, tuple[str, ...]] = {
    "admin": ("system:masters",),
    "controller-manager": ("system:masters",),
    "operator": (),
    "editor": (),
    "viewer": (),
    "stranger": (),
}
"""Users with a token of their own, and their groups. Those without a group may do what a test binds them to."""

AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
"""


@dataclass
class ControlPlane(Cluster):
    """A control plane that runs until `stop`."""

    folder: Path = field(default_factory=Path)
    server: str = ""
    authority: Authority | None = None
    tokens: dict[str, str] = field(default_factory=dict, repr=False)
    children: list[Child] = field(default_factory=list)

    @property
    def audit_log(self) -> Path:
        """One event of ``audit.k8s.io/v1`` a line, for each answered request: who, which verb, what, which answer."""
        return self.folder / "audit.log"

    @property
    def kubectl_options(self) -> list[str]:
        """What kubectl learns of this server is kept with it: another one may have its port tomorrow."""
        return ["--cache-dir", str(self.folder / "kubectl")]

    def kubeconfig_of(self, user: str = "admin") -> Path:
        """A kubeconfig with the token of one of `GROUPS`."""
        path = self.folder / f"{user}.kubeconfig"
        if not path.exists():
            self._write(path, user, {"token": self.tokens[user]})
        return path

    def certificate_kubeconfig(self, user: str, *groups: str) -> Path:
        """A kubeconfig by whose client certificate the server knows anyone as `user` of `groups`."""
        pair = self.client_certificate(user, *groups)
        path = pair.certificate.with_suffix(".kubeconfig")
        self._write(path, user, {"client-certificate": str(pair.certificate), "client-key": str(pair.key)})
        return path

    def service_account_kubeconfig(self, namespace: str, name: str, seconds: int = 3600) -> Path:
        """A kubeconfig with a token that the server issues to a service account, as it does to a pod of it."""
        path = self.folder / f"{namespace}.{name}.kubeconfig"
        token = self.kubectl("create", "token", name, "--duration", f"{seconds}s", namespace=namespace).strip()
        self._write(path, name, {"token": token})
        return path

    def client_certificate(self, user: str, *groups: str) -> KeyPair:
        """A client certificate for `user` of `groups`."""
        assert self.authority is not None
        return self.authority.client(user, *groups)

    def audit_events(self, username: str | None = None) -> list[dict[str, Any]]:
        """The audit log's events, oldest first; only those of `username` when it is given.

        The server writes an event once it has answered: what was just done may not be there yet.
        """
        whole, _, _ = self.audit_log.read_text("utf-8").rpartition("\n")
        events = [json.loads(line) for line in whole.splitlines()]
        return [event for event in events if username in (None, event["user"].get("username"))]

    def require_running(self) -> None:
        """Raises `ProcessEnded` when one of the programs has ended."""
        for child in self.children:
            child.require_running()

    def stop(self) -> None:
        """Ends the programs, the last first, and removes the folder."""
        self.close()
        # The API server would keep its port for a minute after a polite request; there is nothing worth saving.
        for child in reversed(self.children):
            child.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, path: Path, user: str, credentials: dict[str, str]) -> None:
        assert self.authority is not None
        path.touch(mode=0o600)
        path.write_text(kubeconfig_text(self.server, self.authority.path, user, credentials), "utf-8")


@contextmanager
def control_plane() -> Iterator[ControlPlane]:
    """A control plane for the body of a ``with``."""
    plane = start()
    try:
        yield plane
    finally:
        plane.stop()


def start() -> ControlPlane:
    """A control plane that answers, knows our definitions and KubeRay's, and has its controllers running.

    Raises:
        binaries.ProgramMissing: a program has not been built.
        ProcessEnded: a program ended while it started; the message quotes its log.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _started()
        except ProcessEnded as ended:
            # Between looking for a free port and listening on it, another process may have taken it.
            if "address already in use" not in str(ended) or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _started() -> ControlPlane:
    programs = {name: binaries.find(name) for name in PROGRAMS}
    folder = Path(tempfile.mkdtemp(prefix="socadapter-plane-"))
    server = f"https://127.0.0.1:{free_port()}"
    plane = ControlPlane(
        kubeconfig=folder / "admin.kubeconfig",
        kubectl_program=programs["kubectl"],
        folder=folder,
        server=server,
        authority=Authority.make(folder / "pki"),
        tokens={user: secrets.token_hex(16) for user in GROUPS},
    )
    try:
        etcd = f"http://127.0.0.1:{free_port()}"
        plane.children.append(Child.start(programs["etcd"], _etcd(etcd, folder), folder))
        plane.children.append(Child.start(programs["kube-apiserver"], _api_server(plane, etcd), folder))
        plane.kubeconfig_of("admin")
        wait_for(lambda: _is_ready(plane), "the API server ready")
        # The garbage collector looks for new kinds twice a minute: it starts when they are there.
        plane.install(OUR_CRDS, RAY_CRDS)
        manager = programs["kube-controller-manager"]
        plane.children.append(Child.start(manager, _controller_manager(plane), folder))
        wait_for(lambda: _has_controllers(plane), "the controllers at work")
    except BaseException:
        plane.stop()
        raise
    return plane


def _etcd(address: str, folder: Path) -> list[str]:
    peer = f"http://127.0.0.1:{free_port()}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={address}",
        f"--advertise-client-urls={address}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _api_server(plane: ControlPlane, etcd: str) -> list[str]:
    assert plane.authority is not None
    pair = plane.authority.server(_KUBERNETES_SERVICE)
    key = token_key(plane.authority.folder)
    users = plane.folder / "tokens.csv"
    users.touch(mode=0o600)
    users.write_text("".join(_token_line(user, token) for user, token in plane.tokens.items()), "utf-8")
    policy = plane.folder / "audit-policy.yaml"
    policy.write_text(AUDIT_POLICY, "utf-8")
    return [
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={httpx.URL(plane.server).port}",
        f"--tls-cert-file={pair.certificate}",
        f"--tls-private-key-file={pair.key}",
        f"--client-ca-file={plane.authority.path}",
        f"--token-auth-file={users}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=RBAC",
        # Without it no pod waits for a service account's token; Pod Security admission stays on by default.
        "--disable-admission-plugins=ServiceAccount",
        # As clusters have it, so that it is Pod Security that decides.
        "--allow-privileged=true",
        # A loopback address cannot be an endpoint of the Service `kubernetes`.
        "--endpoint-reconciler-type=none",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={plane.audit_log}",
        "--profiling=false",
    ]


def _token_line(user: str, token: str) -> str:
    groups = ",".join(GROUPS[user])
    return f'{token},{user},{user},"{groups}"\n'


def _controller_manager(plane: ControlPlane) -> list[str]:
    assert plane.authority is not None
    return [
        f"--kubeconfig={plane.kubeconfig_of('controller-manager')}",
        f"--service-account-private-key-file={plane.authority.folder / 'service-accounts.key'}",
        f"--root-ca-file={plane.authority.path}",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def _is_ready(plane: ControlPlane) -> bool:
    plane.require_running()
    with suppress(httpx.TransportError):
        return plane.http().get("/readyz").is_success
    return False


def _has_controllers(plane: ControlPlane) -> bool:
    """Whether the controller manager has made what a namespace gets from it."""
    plane.require_running()
    root = "/api/v1/namespaces/default"
    return bool(plane.get(f"{root}/serviceaccounts/default") and plane.get(f"{root}/configmaps/kube-root-ca.crt"))


def describe(plane: ControlPlane) -> str:
    """What a person does with a control plane that runs in the background."""
    return textwrap.dedent(f"""\
        export KUBECONFIG={plane.kubeconfig}
        export PATH="{plane.kubectl_program.parent}:{Path(sys.executable).parent}:$PATH"
        # kubectl get socadapters,socservingpools,rayjobs --all-namespaces
        # logs: {plane.folder}/*.log; tokens of {", ".join(GROUPS)}: {plane.folder}/tokens.csv
        # stop it with: make cluster-down""")
