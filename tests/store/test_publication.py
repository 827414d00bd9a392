"""Publishing: all or nothing, once, and the same again after a crash."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from socadapter_api.errors import AlreadyPublished, ForeignFile, ManifestInvalid, SecretNotFound, UnsafeFormat
from socadapter_api.manifest import Outcome, RunResult
from socadapter_store import layout
from socadapter_store.cache import download
from socadapter_store.publication import publish
from socadapter_store.run_folder import RunFolder, read_result
from socadapter_store.signatures import KeyPair, fingerprint
from socadapter_store.verify import verify_version

Fields = Callable[..., dict[str, Any]]
Result = Callable[..., RunResult]


def test_published_version_is_found_downloaded_and_verified(
    adapter: Path, key: KeyPair, fields: Fields, result: Result, tmp_path: Path
) -> None:
    """What publish leaves passes the checks of serving, under the name that follows from its content."""
    run = RunFolder.at(tmp_path / "store/soc/cloud/cloud-7-a")
    published = publish(adapter.parent, fields(), result(), run, key.private)

    assert read_result(run.uri) == published.result
    assert published.result.outcome is Outcome.PUBLISHED
    assert published.result.digest is not None
    assert published.result.version == f"cloud-v7-{published.result.digest[7:15]}"
    assert published.result.uri == run.uri
    assert published.signed_by == fingerprint(key.public_pem())
    copy = download(run.uri, tmp_path / "cache", published.result.digest)
    assert verify_version(copy, published.result.digest, [key.public_pem()]) == published.manifest
    assert (published.manifest.rank, published.manifest.alpha) == (4, 8)
    assert published.manifest.target_modules == ("q_proj", "v_proj")


def test_the_report_is_of_what_is_published(
    adapter: Path, key: KeyPair, fields: Fields, result: Result, tmp_path: Path
) -> None:
    """It is made from the very manifest and result that the folder holds, before the result counts."""
    run = RunFolder.at(tmp_path / "store/soc/cloud/cloud-7-a")
    told: list[object] = []

    def report(*shown: object) -> str:
        told.extend([*shown, run.read_result()])
        return "<p>\u2013</p>"

    published = publish(adapter.parent, fields(), result(), run, key.private, report=report)
    assert told == [published.manifest, published.result, None]
    assert run.store.read(layout.REPORT) == "<p>\u2013</p>".encode()
    publish(adapter.parent, fields(), result(), run, key.private, report=report)
    assert len(told) == 3


def test_publishing_twice_gives_the_first_result(
    adapter: Path, key: KeyPair, fields: Fields, result: Result, tmp_path: Path
) -> None:
    """A run that is asked to publish what it published changes no byte."""
    run = RunFolder.at(tmp_path / "store/soc/cloud/cloud-7-a")
    first = publish(adapter.parent, fields(), result(), run, key.private)
    before = {path: run.store.read(path) for path in run.store.list()}

    assert publish(adapter.parent, fields(), result(), run, key.private) == first
    assert {path: run.store.read(path) for path in run.store.list()} == before


def test_other_content_never_replaces_a_published_version(
    make_adapter: Callable[..., Path], key: KeyPair, fields: Fields, result: Result, tmp_path: Path
) -> None:
    """A second adapter in the same run folder is refused, and the first stays."""
    run = RunFolder.at(tmp_path / "store/soc/cloud/cloud-7-a")
    first = make_adapter(tmp_path / "a/adapter", seed=1)
    second = make_adapter(tmp_path / "b/adapter", seed=2)
    published = publish(first.parent, fields(), result(), run, key.private)

    with pytest.raises(AlreadyPublished):
        publish(second.parent, fields(), result(), run, key.private)
    assert read_result(run.uri) == published.result


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        pytest.param(lambda local: (local / "adapter/extra.txt").write_text("x"), ForeignFile, id="foreign file"),
        pytest.param(lambda local: (local / "adapter/a.bin").write_bytes(b"x"), UnsafeFormat, id="pickle"),
    ],
)
def test_bad_adapter_is_not_published(
    spoil: Callable[[Path], object],
    error: type[Exception],
    adapter: Path,
    key: KeyPair,
    fields: Fields,
    result: Result,
    tmp_path: Path,
) -> None:
    """An adapter that serving would refuse leaves nothing in the store."""
    spoil(adapter.parent)
    run = RunFolder.at(tmp_path / "store/run")
    with pytest.raises(error):
        publish(adapter.parent, fields(), result(), run, key.private)
    assert run.store.list() == ()


def test_wrong_fields_and_missing_key_are_named(
    adapter: Path, key: KeyPair, fields: Fields, result: Result, tmp_path: Path
) -> None:
    """The error says which field, or which key file."""
    run = RunFolder.at(tmp_path / "store/run")
    with pytest.raises(ManifestInvalid, match=r"baseDigest|base_digest"):
        publish(adapter.parent, fields(base_digest="nonsense"), result(), run, key.private)
    with pytest.raises(SecretNotFound, match=r"nokey\.pem"):
        publish(adapter.parent, fields(), result(), run, tmp_path / "nokey.pem")
    assert read_result(run.uri) is None


_PUBLISH_UNTIL_KILLED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import manifest_fields, unfinished_result
from socadapter_store import layout
from socadapter_store.cache import download
from socadapter_store.publication import publish
from socadapter_store.run_folder import RunFolder, read_result
from socadapter_store.verify import verify_version

local, stores, key, public = map(Path, sys.argv[2:6])
rename, fsync = Path.replace, os.fsync

def killed_at(calls, store):
    "Publishes in a child that dies at its `calls`-th rename or sync; whether it died."
    child = os.fork()
    if child == 0:
        left = [calls]
        def dying(function):
            def call(*args):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                return function(*args)
            return call
        Path.replace, os.fsync = dying(rename), dying(fsync)
        publish(local, manifest_fields(), unfinished_result(), RunFolder.at(store), key)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9

report, calls = [], 1
while True:
    store = stores / f"{calls}"
    died = killed_at(calls, store)
    seen = read_result(store)
    again = publish(local, manifest_fields(), unfinished_result(), RunFolder.at(store), key)
    copy = download(store, stores / "cache", again.result.digest)
    verify_version(copy, again.result.digest, [public.read_text()])
    report.append({"died": died, "marked": seen is not None, "digest": again.result.digest,
                   "seen": seen and seen.digest})
    if not died:
        break
    calls += 1
print(json.dumps(report))
"""


def test_a_crash_at_any_write_leaves_nothing_that_counts(adapter: Path, key: KeyPair, tmp_path: Path) -> None:
    """Killed at every rename and sync in turn: no result is seen before the marker, and a new run finishes alike."""
    arguments = [Path(__file__).parent, adapter.parent, tmp_path / "stores", key.private, key.public]
    done = subprocess.run(
        [sys.executable, "-c", _PUBLISH_UNTIL_KILLED, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    uploads = 3 + 2 + 2  # adapter files, manifest and signature, result and marker: each a sync, a rename, a sync
    assert len(report) == 3 * uploads + 1
    assert len({entry["digest"] for entry in report}) == 1
    for entry in report[:-2]:
        assert entry["died"]
        assert not entry["marked"]
    # The last kill point is the sync after the marker's rename: the result counts already, and is whole.
    assert [entry["seen"] for entry in report[-2:]] == [report[0]["digest"]] * 2
    finished = sorted(path.name for path in (tmp_path / "stores/1").rglob("*") if path.is_file())
    assert finished == sorted([*layout.ADAPTER_FILES, layout.MANIFEST, layout.SIGNATURE, layout.RESULT, layout.SUCCESS])
