"""How to reach an API server and who to be there: a kubeconfig, or the service account of a pod.

Both are read anew when a file behind them changed, so that rotated tokens and certificates are followed without a
restart. A certificate goes unverified, and a token over plain HTTP to another machine, only where a kubeconfig says
`insecure-skip-tls-verify: true`. Programs that make credentials (`users[].user.exec`) are in `exec_login`.
"""

import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

from socadapter_api.errors import ClusterNotConfigured
from socadapter_operator.kube.connection import Connection
from socadapter_operator.kube.exec_login import ExecLogin

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

Signature = tuple[tuple[str, int, int], ...]
"""Path, inode and time of change of each file: what tells one reading from another."""


class Credentials(Protocol):
    """Where connections come from."""

    def connection(self) -> Connection:
        """The connection as the files say now.

        Raises:
            ClusterNotConfigured: they cannot be read, or do not say how to connect.
        """
        ...

    def refused(self) -> None:
        """The API server did not take the last credentials: what was kept of them is not used again."""


class ServiceAccount:
    """The account of the pod that this process runs in."""

    def __init__(self, folder: Path = SERVICE_ACCOUNT_FOLDER, environment: Mapping[str, str] = os.environ) -> None:
        self._folder = folder
        self._environment = environment

    @property
    def present(self) -> bool:
        """Whether this process runs in a pod with an account."""
        return bool(self._environment.get("KUBERNETES_SERVICE_HOST")) and (self._folder / "token").is_file()

    def connection(self) -> Connection:
        """The cluster's own address with the token as it is mounted at this moment.

        Raises:
            ClusterNotConfigured: this is no pod, or its account is not mounted.
        """
        host = self._environment.get("KUBERNETES_SERVICE_HOST", "")
        port = self._environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ClusterNotConfigured("KUBERNETES_SERVICE_HOST is not set: this process does not run in a pod")
        address = f"[{host}]" if ":" in host else host
        namespace = self._folder / "namespace"
        return Connection(
            server=f"https://{address}:{port}",
            ca=_text(self._folder / "ca.crt", "the service account"),
            token=_text(self._folder / "token", "the service account").strip(),
            namespace=namespace.read_text("utf-8").strip() if namespace.is_file() else "default",
        )

    def refused(self) -> None:
        """Nothing is kept: the next connection reads the mounted token."""


class Kubeconfig:
    """One context of one or several kubeconfig files; where several name a thing, the first one counts."""

    def __init__(self, *paths: Path, context: str = "") -> None:
        self._paths = paths
        self._context = context
        self._read: tuple[Signature, Connection, ExecLogin | None] | None = None

    def connection(self) -> Connection:
        """The context's cluster and user.

        Raises:
            ClusterNotConfigured: a file, the context, or what it names is missing or cannot be used.
        """
        read = self._read
        if read is None or read[0] != _signature(path for path, _, _ in read[0]):
            self._read = read = self._take()
        _, connection, login = read
        return connection if login is None else login.applied(connection)

    def refused(self) -> None:
        """The next connection reads every file and runs the login program again."""
        self._read = None

    def _take(self) -> tuple[Signature, Connection, ExecLogin | None]:
        files = {str(path) for path in self._paths}
        config = _merged(self._paths)
        name = self._context or config.current
        where = f"the kubeconfig {os.pathsep.join(str(path) for path in self._paths)}"
        if not name:
            raise ClusterNotConfigured(f"{where} has no current-context: set one with `kubectl config use-context`")
        context = config.entry("contexts", "context", name, where)
        cluster = config.entry("clusters", "cluster", str(context.get("cluster")), where)
        user = _Entry({}, Path())
        if context.get("user"):
            user = config.entry("users", "user", str(context.get("user")), where)
        namespace = str(context.get("namespace") or "default")
        connection = _connection(cluster, user, namespace, where)
        files |= cluster.files("certificate-authority")
        files |= user.files("client-certificate", "client-key", "tokenFile")
        program = user.get("exec")
        login = None if program is None else ExecLogin.of(program, user.folder, where)
        return _signature(files), connection, login


@dataclass(frozen=True, slots=True)
class _Entry:
    """One cluster, user or context, and the folder that its relative paths start from."""

    values: Mapping[str, Any]
    folder: Path

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def files(self, *keys: str) -> set[str]:
        return {str(self.folder / str(self.values[key])) for key in keys if self.values.get(key)}

    def pem(self, key: str, where: str) -> str:
        """The text behind `key`, a path, or behind ``<key>-data``, base64, which is preferred."""
        if data := self.values.get(f"{key}-data"):
            try:
                return base64.b64decode(str(data), validate=True).decode("ascii")
            except (binascii.Error, UnicodeDecodeError) as error:
                raise ClusterNotConfigured(f"{key}-data in {where} is not base64 of PEM: {error}") from error
        if path := self.values.get(key):
            return _text(self.folder / str(path), f"{key} of {where}")
        return ""


@dataclass(frozen=True, slots=True)
class _Config:
    """The entries of all files, by list and name."""

    entries: Mapping[tuple[str, str], _Entry]
    current: str

    def entry(self, section: str, inner: str, name: str, where: str) -> _Entry:
        found = self.entries.get((section, name))
        if found is None:
            known = ", ".join(sorted(key for group, key in self.entries if group == section)) or "none"
            raise ClusterNotConfigured(f"{where} has no entry {name!r} in `{section}` (it has: {known})")
        held = found.values.get(inner)
        return _Entry(held if isinstance(held, Mapping) else {}, found.folder)


def discover(environment: Mapping[str, str] = os.environ, context: str = "") -> Credentials:
    """KUBECONFIG, else the pod's service account, else ``~/.kube/config``.

    Raises:
        ClusterNotConfigured: none of the three is there.
    """
    named = [Path(part) for part in environment.get("KUBECONFIG", "").split(os.pathsep) if part]
    if named:
        return Kubeconfig(*named, context=context)
    account = ServiceAccount(environment=environment)
    if account.present and not context:
        return account
    home = Path(environment.get("HOME") or Path.home()) / ".kube" / "config"
    if home.is_file():
        return Kubeconfig(home, context=context)
    raise ClusterNotConfigured(
        f"no cluster to talk to: KUBECONFIG is not set, this is no pod with a service account, and {home} is no file"
    )


def _connection(cluster: _Entry, user: _Entry, namespace: str, where: str) -> Connection:
    server = str(cluster.get("server") or "")
    insecure = cluster.get("insecure-skip-tls-verify") is True
    address = urlsplit(server)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ClusterNotConfigured(f"{where} names the server {server!r}; it must begin with https://")
    if address.scheme == "http" and address.hostname not in _LOOPBACK and not insecure:
        raise ClusterNotConfigured(
            f"{where} names the server {server!r}: everyone on the way could read the token. Use https://, or write "
            "insecure-skip-tls-verify: true beside it"
        )
    for unusable in ("auth-provider", "username"):
        if user.get(unusable):
            raise ClusterNotConfigured(f"{where} logs in by `{unusable}`, which clusters no longer take: use a token")
    token = str(user.get("token") or "")
    if path := user.get("tokenFile"):
        token = _text(user.folder / str(path), f"tokenFile of {where}").strip()
    return Connection(
        server=server.rstrip("/"),
        ca="" if insecure else cluster.pem("certificate-authority", where),
        token=token,
        client_certificate=user.pem("client-certificate", where),
        client_key=user.pem("client-key", where),
        insecure=insecure,
        server_name=str(cluster.get("tls-server-name") or ""),
        proxy=str(cluster.get("proxy-url") or ""),
        namespace=namespace,
    )


def _merged(paths: tuple[Path, ...]) -> _Config:
    entries: dict[tuple[str, str], _Entry] = {}
    current = ""
    read = [path for path in paths if path.is_file()]
    if not read:
        raise ClusterNotConfigured(f"no kubeconfig at {os.pathsep.join(str(path) for path in paths)}")
    for path in read:
        held = _yaml(path)
        current = current or str(held.get("current-context") or "")
        for section in ("clusters", "users", "contexts"):
            listed = held.get(section)
            for item in listed if isinstance(listed, list) else ():
                if isinstance(item, Mapping) and item.get("name"):
                    entries.setdefault((section, str(item["name"])), _Entry(item, path.absolute().parent))
    return _Config(entries, current)


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        held = yaml.safe_load(_text(path, "the kubeconfig"))
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place is not None else ""
        raise ClusterNotConfigured(f"the kubeconfig {path}{line} is not YAML") from None  # a quote could be a token
    if not isinstance(held, Mapping):
        raise ClusterNotConfigured(f"the kubeconfig {path} holds no mapping")
    return held


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterNotConfigured(f"{what} cannot be read from {path}: {error}") from error


def _signature(paths: Iterable[str]) -> Signature:
    found = []
    for path in sorted(paths):
        try:
            status = Path(path).stat()
        except OSError:
            found.append((path, 0, 0))
        else:
            found.append((path, status.st_ino, status.st_mtime_ns))
    return tuple(found)
