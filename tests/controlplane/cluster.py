"""What a test does with a Kubernetes API server: requests, kubectl, namespaces and definitions, as one user or another.

A `Cluster` is any server that a kubeconfig leads to; `plane.ControlPlane` is the one that tests start themselves.
"""

import base64
import json
import secrets
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

_REPOSITORY = Path(__file__).parents[2]
OUR_CRDS = _REPOSITORY / "manifests" / "crds"
RAY_CRDS = Path(__file__).parent / "crds"

DEADLINE_S = 120.0
"""How long a condition may take on a busy machine before a test calls it a failure."""

_POLL_S = 0.05
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MANAGER = "socadapter-tests"
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}

T = TypeVar("T")
Manifest = dict[str, Any]


class KubectlFailed(RuntimeError):
    """kubectl ended with an error; the message is what it said."""


def wait_for(probe: Callable[[], T | None], what: str, deadline_s: float = DEADLINE_S) -> T:
    """The first answer of `probe` that is neither None nor False.

    Raises:
        AssertionError: there was none within `deadline_s`; the message says `what` was waited for.
    """
    limit = time.monotonic() + deadline_s
    while True:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > limit:
            raise AssertionError(f"{what}: not within {deadline_s:.0f} s; the last answer was {answer!r}")
        time.sleep(_POLL_S)


@dataclass
class Cluster:
    """An API server, and how to reach it as the user of its kubeconfig."""

    kubeconfig: Path
    kubectl_program: Path
    _clients: dict[str, httpx.Client] = field(default_factory=dict, repr=False)

    def http(self, user: str = "admin") -> httpx.Client:
        """A client whose requests go to the API server as `user`, such as ``http().get("/readyz")``.

        A cluster that was not started here knows one user only, that of its kubeconfig, called ``admin``.
        """
        if user not in self._clients:
            self._clients[user] = client_of(self.kubeconfig_of(user))
        return self._clients[user]

    @property
    def kubectl_options(self) -> list[str]:
        """Options of every kubectl command."""
        return []

    def kubeconfig_of(self, user: str = "admin") -> Path:
        """A kubeconfig file that `user` logs in with."""
        if user != "admin":
            raise LookupError(f"the cluster of {self.kubeconfig} has no user {user!r}: only one started here has")
        return self.kubeconfig

    def kubectl(
        self, *arguments: str | Path, namespace: str | None = None, user: str = "admin", stdin: object = None
    ) -> str:
        """What ``kubectl ARGUMENTS`` prints. `stdin`: a text, or manifests that are written to it as JSON.

        Raises:
            KubectlFailed: with kubectl's own words.
        """
        done = self.try_kubectl(*arguments, namespace=namespace, user=user, stdin=stdin)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise KubectlFailed(f"kubectl {' '.join(str(part) for part in arguments)}: {said}")
        return done.stdout

    def try_kubectl(
        self, *arguments: str | Path, namespace: str | None = None, user: str = "admin", stdin: object = None
    ) -> "subprocess.CompletedProcess[str]":
        """Like `kubectl`, for a command that may fail: its status and its two outputs."""
        command = [str(self.kubectl_program), "--kubeconfig", str(self.kubeconfig_of(user)), *self.kubectl_options]
        command += ["--namespace", namespace] if namespace else []
        text = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
        return subprocess.run(
            [*command, *(str(part) for part in arguments)],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

    def apply(self, manifest: Mapping[str, Any], path: str, *, user: str = "admin", manager: str = MANAGER) -> Manifest:
        """Server-side applies `manifest` at the URL `path` of its resource; what the server then holds."""
        answer = self.http(user).patch(
            path,
            params={"fieldManager": manager, "force": "true"},
            content=json.dumps(manifest),
            headers={"Content-Type": "application/apply-patch+yaml"},
        )
        return _accepted(answer)

    def get(self, path: str, *, user: str = "admin") -> Manifest | None:
        """The resource at `path`; None when there is none."""
        answer = self.http(user).get(path)
        return None if answer.status_code == httpx.codes.NOT_FOUND else _accepted(answer)

    def install(self, *folders: Path) -> None:
        """Applies every definition in `folders`, and waits until the server serves them."""
        paths = []
        for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
            definition = yaml.safe_load(file.read_text("utf-8"))
            path = f"{_DEFINITIONS}/{definition['metadata']['name']}"
            self.apply(definition, path)
            paths.append(path)
        for path in paths:
            wait_for(partial(self._is_served, path), f"{path} established")

    def _is_served(self, path: str) -> bool:
        status = (self.get(path) or {}).get("status") or {}
        conditions = status.get("conditions") or []  # `null` in the moment after a definition is made
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    @contextmanager
    def namespace(self, stem: str = "test") -> Iterator[str]:
        """A new namespace that takes restricted pods only; its deletion is begun at the end, and not waited for."""
        name = f"{_label(stem)[:40].strip('-') or 'test'}-{secrets.token_hex(3)}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": _RESTRICTED}}
        _accepted(self.http().post("/api/v1/namespaces", json=body))
        try:
            yield name
        finally:
            with suppress(httpx.HTTPError):
                self.http().delete(f"/api/v1/namespaces/{name}")

    def close(self) -> None:
        """Closes the clients."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()


def client_of(kubeconfig: Path) -> httpx.Client:
    """A client for the current context of `kubeconfig`, with its token or its client certificate.

    Raises:
        LookupError: the context's user logs in by other means (a plug-in, say).
    """
    config = yaml.safe_load(kubeconfig.read_text("utf-8"))
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    tls = ssl.create_default_context(cadata=_pem(kubeconfig, cluster, "certificate-authority"))
    headers = {}
    if "token" in user:
        headers["Authorization"] = f"Bearer {user['token']}"
    elif certificate := _pem(kubeconfig, user, "client-certificate"):
        key = _pem(kubeconfig, user, "client-key")
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:  # ssl reads key pairs from files alone
            pair.write(certificate + "\n" + (key or ""))
            pair.flush()
            tls.load_cert_chain(pair.name)
    else:
        raise LookupError(f"user {context['user']} of {kubeconfig} has neither a token nor a client certificate")
    return httpx.Client(base_url=cluster["server"], verify=tls, headers=headers, timeout=30, trust_env=False)


def kubeconfig_text(server: str, authority: Path, user: str, credentials: Mapping[str, str]) -> str:
    """A kubeconfig for `user` of the `server`, with the CA certificate of the file `authority` written into it."""
    data = base64.b64encode(authority.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": data}}],
        "users": [{"name": user, "user": dict(credentials)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user, "namespace": "default"}}],
        "current-context": "test",
    }
    return yaml.safe_dump(document, sort_keys=False)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _pem(kubeconfig: Path, entry: Mapping[str, str], key: str) -> str | None:
    """The PEM text of ``<key>-data``, or of the file that ``<key>`` names relative to the kubeconfig."""
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    return (kubeconfig.parent / entry[key]).read_text("utf-8") if key in entry else None


def _accepted(answer: httpx.Response) -> Manifest:
    if answer.is_error:
        raise AssertionError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
    body: Manifest = answer.json()
    return body


def _label(text: str) -> str:
    """`text` in the letters of a namespace's name."""
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in text.lower())
