"""Where the control plane's programs come from: given assets, the cache, or one build that leaves nothing half done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.controlplane import binaries
from tests.controlplane.binaries import PROGRAMS, BuildFailed, ProgramMissing, build, cache_folder, find

GO = """#!/bin/sh
# Stands in for a Go toolchain: takes any module, and writes a line for each build.
if [ "$1" = build ]; then
  echo "$@" >> "$BUILDS"
  if [ -n "$FAILS" ]; then exit 1; fi
  while [ "$1" != -o ]; do shift; done
  echo program > "$2"
  chmod +x "$2"
fi
"""


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for Go on PATH; the file that it writes its builds to."""
    go = program(tmp_path / "bin" / "go")
    go.write_text(GO)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BUILDS", str(tmp_path / "builds"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "builds"


def test_versions_are_those_of_the_modules() -> None:
    """Each program has the version that its go.mod pins, and Kubernetes' own programs share one."""
    versions = {name: one.version for name, one in PROGRAMS.items()}
    assert all(version.startswith("v") for version in versions.values())
    assert len({versions[name] for name in ("kube-apiserver", "kube-controller-manager", "kubectl")}) == 1
    assert f"gitVersion={versions['kubectl']}" in PROGRAMS["kubectl"].linker_flags


def test_assets_come_before_the_cache(tmp_path: Path) -> None:
    """KUBEBUILDER_ASSETS is looked into first; what it lacks comes from the cache."""
    environment = {"KUBEBUILDER_ASSETS": str(tmp_path / "assets"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    given = program(tmp_path / "assets" / "kube-apiserver")
    for name in ("kube-apiserver", "kube-controller-manager"):
        program(cache_folder(PROGRAMS[name], environment) / name)
    assert find("kube-apiserver", environment) == given
    assert find("kube-controller-manager", environment).is_relative_to(tmp_path / "cache")


def test_cache_is_kept_by_version(tmp_path: Path) -> None:
    """The cache's folder bears the version, and lies where XDG_CACHE_HOME says, or below the home folder."""
    kubectl = PROGRAMS["kubectl"]
    assert cache_folder(kubectl, {"XDG_CACHE_HOME": "/c"}) == Path(f"/c/socadapter/kube/{kubectl.version}")
    assert cache_folder(kubectl, {}) == Path.home() / ".cache" / "socadapter" / "kube" / kubectl.version


def test_missing_program_says_what_to_do(tmp_path: Path) -> None:
    """A program that is nowhere: the message names it, where it was looked for, and the command that builds it."""
    with pytest.raises(ProgramMissing) as missing:
        find("helm", {"KUBEBUILDER_ASSETS": str(tmp_path / "assets"), "XDG_CACHE_HOME": str(tmp_path)})
    assert all(word in str(missing.value) for word in ("helm", str(tmp_path / "assets"), "make kube"))


def test_two_builders_build_once(toolchain: Path) -> None:
    """Two builders at the same time: one builds, the other waits for it, and both find the same program."""
    command = [sys.executable, binaries.__file__, "etcd", "helm"]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [builder.communicate()[0].split() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert printed[0] == printed[1] == [str(find("etcd")), str(find("helm"))]
    assert len(toolchain.read_text().splitlines()) == 2


def test_failed_build_leaves_nothing(
    toolchain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build that fails is told and leaves no program behind; the next one starts anew."""
    monkeypatch.setenv("FAILS", "yes")
    assert binaries.main(["etcd"]) == 1
    assert "go build go.etcd.io/etcd/server/v3" in capsys.readouterr().err
    with pytest.raises(ProgramMissing):
        find("etcd")
    monkeypatch.delenv("FAILS")
    assert os.access(build("etcd"), os.X_OK)


def test_no_toolchain_says_what_to_do(tmp_path: Path, toolchain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Go, or with one that is too old, the message says what was found and the three ways on."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    old = program(tmp_path / "old" / "go")
    old.write_text("#!/bin/sh\necho 'go.mod requires go >= 1.26.0 (running go 1.19)' >&2\nexit 1\n")
    for path, found in (("/nowhere", "none on PATH"), (str(old.parent), "running go 1.19")):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(BuildFailed) as failure:
            build("etcd")
        assert all(word in str(failure.value) for word in (found, "Go 1.26", "pip install", "KUBEBUILDER_ASSETS"))
