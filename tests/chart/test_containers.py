"""Containerfiles: what they copy is there, nobody in them is root, and what they install is locked."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "containers").glob("*.Containerfile"))
INSTRUCTION = re.compile(r"^(FROM|COPY|USER|RUN|ENTRYPOINT) (.+)$", re.MULTILINE)


def instructions(path: Path, name: str) -> list[str]:
    text = path.read_text("utf-8").replace("\\\n", " ")
    return [told for found, told in INSTRUCTION.findall(text) if found == name]


IMAGES = [pytest.param(path, id=path.stem) for path in FILES]


@pytest.mark.parametrize("path", IMAGES)
def test_images(path: Path) -> None:
    """What is copied exists, and the user is a number other than root's."""
    copied = [told.split()[:-1] for told in instructions(path, "COPY") if not told.startswith("--from")]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []
    user, group = (int(part) for part in instructions(path, "USER")[-1].split(":"))
    assert user > 0
    assert group > 0


@pytest.mark.parametrize("path", IMAGES)
def test_nothing_is_installed_without_its_hash(path: Path) -> None:
    """Each command of pip takes a lock with hashes, or asks no index; what it has to build is built by locked files."""
    commands = [part.split() for told in instructions(path, "RUN") for part in told.split("&&")]
    of_pip = [words for words in commands if {"install", "wheel"} & set(words) and not words[0].startswith("apt")]
    from_index = [words for words in of_pip if "--no-index" not in words]
    assert (2, 2) == (len(from_index), len(of_pip) - len(from_index))
    for words in from_index:
        assert {"--require-hashes", "--no-deps", "-r"} <= set(words)
        assert {"--only-binary", "--build-constraints"} & set(words)
    for words in of_pip:
        assert "--no-build-isolation" in words or "/src" not in words


def test_backend_is_locked() -> None:
    """What pyproject.toml is built by is in the lock of what builds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = {re.split(r"[<>=~! ]", line)[0] for line in project["build-system"]["requires"]}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "build.txt").read_text("utf-8"), re.M))
    assert wanted <= locked


def test_there_are_two() -> None:
    """One image for the operator, one for what trains and serves."""
    assert [path.stem for path in FILES] == ["operator", "ray"]


def test_operator_image_has_neither_torch_nor_ray() -> None:
    """Its lock, all that it installs, names neither."""
    (operator, _) = FILES
    assert "requirements/operator.txt" in operator.read_text("utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "operator.txt").read_text("utf-8"), re.M))
    assert locked & {"torch", "ray", "transformers", "vllm"} == set()


def test_lock_without_dev_keeps_versions_and_hashes(tmp_path: Path) -> None:
    """Of the packages that uv names, the lock's own lines are printed, and nothing else."""
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'numpy==0.0.1'\necho \"torch==0 ; sys_platform == 'linux'\"\n")
    uv.chmod(0o755)
    lock = ROOT / "requirements" / "all.txt"
    printed = subprocess.run(
        ["bash", ROOT / "containers" / "without-dev", lock],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert {"numpy", "torch"} == set(re.findall(r"^([a-z0-9-]+)==", printed, re.M))
    assert set(printed.splitlines()) <= set(lock.read_text("utf-8").splitlines())
    assert "0.0.1" not in printed
    assert printed.count("--hash=sha256:") > 2
