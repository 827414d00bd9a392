"""Where connections come from: kubeconfigs and service accounts as they are found, followed when they change."""

import base64
import json
import os
import ssl
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from socadapter_api.errors import ClusterNotConfigured
from socadapter_operator.kube.credentials import Kubeconfig, ServiceAccount, discover

SERVER = "https://cluster.example:6443"


def kubeconfig(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "soc",
        "contexts": [{"name": "soc", "context": {"cluster": "c", "user": "u", "namespace": "night"}}],
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "t-1"} if user is None else user}],
    }


def written(path: Path, held: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(held))
    return path


@pytest.fixture(scope="module")
def pair() -> tuple[str, str]:
    """A certificate and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def test_context_says_where_and_who(tmp_path: Path) -> None:
    """The current context gives server, token and namespace; the token is not in what is printed."""
    connection = Kubeconfig(written(tmp_path / "config", kubeconfig())).connection()
    assert (SERVER, "t-1", "night", False) == (
        connection.server,
        connection.token,
        connection.namespace,
        connection.insecure,
    )
    assert "t-1" not in repr(connection)


def test_first_file_counts(tmp_path: Path) -> None:
    """Where two files name one entry, the first one's is taken, and what it lacks comes from the second."""
    first = kubeconfig(user={"token": "first"})
    del first["clusters"]
    second = kubeconfig(user={"token": "second"})
    config = Kubeconfig(written(tmp_path / "a", first), written(tmp_path / "b", second), tmp_path / "missing")
    assert ("first", SERVER) == (config.connection().token, config.connection().server)


def test_certificates_come_from_data_or_files(tmp_path: Path, pair: tuple[str, str]) -> None:
    """PEM in base64 and paths beside the kubeconfig mean the same, and the pair is one that TLS takes."""
    certificate, key = pair
    coded = {name: base64.b64encode(text.encode()).decode() for name, text in (("c", certificate), ("k", key))}
    inline = kubeconfig(
        {"certificate-authority-data": coded["c"]},
        {"client-certificate-data": coded["c"], "client-key-data": coded["k"]},
    )
    (tmp_path / "crt.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    files = kubeconfig({"certificate-authority": "crt.pem"}, {"client-certificate": "crt.pem", "client-key": "key.pem"})
    one = Kubeconfig(written(tmp_path / "inline", inline)).connection()
    assert one == Kubeconfig(written(tmp_path / "files", files)).connection()
    assert ssl.CERT_REQUIRED is one.ssl_context().verify_mode


def test_unverified_only_where_written(tmp_path: Path) -> None:
    """A certificate goes unverified exactly where the kubeconfig says so."""
    written(tmp_path / "config", kubeconfig({"insecure-skip-tls-verify": True}))
    context = Kubeconfig(tmp_path / "config").connection().ssl_context()
    assert (ssl.CERT_NONE, False) == (context.verify_mode, context.check_hostname)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        pytest.param(kubeconfig({"server": "http://cluster.example"}), "read the token", id="plain http"),
        pytest.param(kubeconfig({"server": "cluster.example"}), "https://", id="no scheme"),
        pytest.param(kubeconfig(user={"auth-provider": {"name": "gcp"}}), "auth-provider", id="old login"),
        pytest.param(kubeconfig(user={"exec": {"command": "x", "apiVersion": "v0"}}), "v0", id="exec protocol"),
        pytest.param(kubeconfig({"certificate-authority-data": "%"}), "base64", id="not base64"),
        pytest.param(kubeconfig({"certificate-authority": "nowhere"}), "nowhere", id="no such file"),
        pytest.param(kubeconfig() | {"current-context": "other"}, "it has: soc", id="no such context"),
        pytest.param(kubeconfig() | {"clusters": []}, "it has: none", id="no such cluster"),
        pytest.param(kubeconfig() | {"current-context": ""}, "current-context", id="no context"),
    ],
)
def test_unusable_config_is_told(tmp_path: Path, held: dict[str, Any], told: str) -> None:
    """What cannot be used is named, with the file that it is in."""
    path = written(tmp_path / "config", held)
    with pytest.raises(ClusterNotConfigured, match=told) as raised:
        Kubeconfig(path).connection()
    assert str(path) in str(raised.value)


def test_broken_yaml_is_told_without_its_text(tmp_path: Path) -> None:
    """A file that is no YAML is told by its line; its text, which may be a token, is not."""
    (tmp_path / "config").write_text("users:\n- token: [s3cret\n")
    with pytest.raises(ClusterNotConfigured, match="line 3") as raised:
        Kubeconfig(tmp_path / "config").connection()
    assert "s3cret" not in str(raised.value)


def test_rotated_file_is_followed(tmp_path: Path) -> None:
    """A token file that was replaced is read again."""
    (tmp_path / "token").write_text("t-1\n")
    config = Kubeconfig(written(tmp_path / "config", kubeconfig(user={"tokenFile": "token"})))
    assert "t-1" == config.connection().token
    (tmp_path / "new").write_text("t-2\n")
    (tmp_path / "new").rename(tmp_path / "token")
    assert "t-2" == config.connection().token


def account(folder: Path, token: str = "t-1") -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (("token", token), ("ca.crt", "PEM"), ("namespace", "soc-system")):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("host", "server"),
    [
        pytest.param("10.0.0.1", "https://10.0.0.1:443", id="v4"),
        pytest.param("fd00::1", "https://[fd00::1]:443", id="v6"),
    ],
)
def test_pod_uses_its_account(tmp_path: Path, host: str, server: str) -> None:
    """In a pod the address comes from the environment, and the token from the mount of this moment."""
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    here = ServiceAccount(account(tmp_path / "sa"), environment)
    assert here.present
    assert (server, "t-1", "soc-system") == (
        here.connection().server,
        here.connection().token,
        here.connection().namespace,
    )
    account(tmp_path / "sa", "t-2")
    assert "t-2" == here.connection().token


def test_kubeconfig_of_the_environment_comes_first(tmp_path: Path) -> None:
    """KUBECONFIG is asked before the home folder's file, and neither is no cluster."""
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    with pytest.raises(ClusterNotConfigured, match="no cluster to talk to"):
        discover({"HOME": str(home)})
    written(home / ".kube" / "config", kubeconfig(user={"token": "home"}))
    assert "home" == discover({"HOME": str(home)}).connection().token
    named = written(tmp_path / "config", kubeconfig(user={"token": "named"}))
    assert "named" == discover({"HOME": str(home), "KUBECONFIG": str(named)}).connection().token


def program(folder: Path, status: dict[str, Any], code: int = 0) -> dict[str, Any]:
    """A kubeconfig user whose program prints `status`, once numbered for each run."""
    script = folder / "login"
    script.write_text(
        f"#!{sys.executable}\nimport json, os, pathlib, sys\n"
        f"runs = pathlib.Path({str(folder / 'runs')!r})\n"
        "runs.write_text(runs.read_text() + 'x' if runs.exists() else 'x')\n"
        "assert json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind'] == 'ExecCredential'\n"
        f"status = json.loads({json.dumps(status)!r})\n"
        "status['token'] = f\"{os.environ['STEM']}-{len(runs.read_text())}\"\n"
        f"print(json.dumps({{'status': status}}) if not {code} else '')\n"
        f"print('who are you', file=sys.stderr)\nsys.exit({code})\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    entry = {"apiVersion": "client.authentication.k8s.io/v1", "command": f".{os.sep}login"}
    return {"exec": {**entry, "env": [{"name": "STEM", "value": "made"}]}}


def test_program_makes_the_token_once(tmp_path: Path) -> None:
    """A login program runs once for as long as what it made is good, and again after a refusal."""
    config = Kubeconfig(written(tmp_path / "config", kubeconfig(user=program(tmp_path, {}))))
    assert ["made-1", "made-1"] == [config.connection().token for _ in range(2)]
    config.refused()
    assert "made-2" == config.connection().token


def test_program_runs_again_before_its_token_expires(tmp_path: Path) -> None:
    """What expires within a minute is made anew."""
    soon = (datetime.now(UTC) + timedelta(seconds=30)).isoformat()
    user = program(tmp_path, {"expirationTimestamp": soon})
    config = Kubeconfig(written(tmp_path / "config", kubeconfig(user=user)))
    assert ["made-1", "made-2"] == [config.connection().token for _ in range(2)]


def test_failing_program_is_quoted(tmp_path: Path) -> None:
    """A login program that fails is named, with what it complained of."""
    config = Kubeconfig(written(tmp_path / "config", kubeconfig(user=program(tmp_path, {}, code=3))))
    with pytest.raises(ClusterNotConfigured, match="ended with 3: who are you"):
        config.connection()
