"""What an option names is written whole or stays as it was, and why it cannot be is told."""

import os
from pathlib import Path

import pytest
from tests.jobs.test_full_disk import no_file_larger_than

from socadapter_api.errors import DiskFull, SpecError
from socadapter_jobs.option_files import require_writable, write_whole


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """And nothing beside it."""
    path = tmp_path / "out.json"
    write_whole("--json", path, "before")
    with no_file_larger_than(1_000), pytest.raises(DiskFull, match=r"--json .*out\.json cannot be written: File too"):
        write_whole("--json", path, "x" * 5_000)
    assert ("before", [path]) == (path.read_text(), list(tmp_path.iterdir()))


def test_a_folder_is_made_and_a_link_stays_one(tmp_path: Path) -> None:
    """The file that a link points to gets the content."""
    path, link = tmp_path / "new" / "out.json", tmp_path / "link.json"
    write_whole("--json", path, "é")
    link.symlink_to(path)
    write_whole("--json", link, "after")
    assert ("after", True) == (path.read_text(), link.is_symlink())


def test_what_is_no_file_is_written_to_as_it_is() -> None:
    """It cannot be replaced."""
    reading, writing = os.pipe()
    path = Path(f"/dev/fd/{writing}")
    require_writable("--json", path)
    write_whole("--json", path, "figures")
    assert b"figures" == os.read(reading, 100)
    os.close(reading)
    os.close(writing)


def test_a_place_that_cannot_be_written_is_told_before_and_after(tmp_path: Path) -> None:
    """With the option that named it; a place that can be is left as it is."""
    (tmp_path / "file").write_text("no folder")
    for refuse in (require_writable, lambda option, path: write_whole(option, path, "")):
        with pytest.raises(SpecError, match=r"--out .*file/out cannot be written"):
            refuse("--out", tmp_path / "file" / "out")
    require_writable("--out", tmp_path / "new" / "out")
    require_writable("--out", tmp_path / "file")
    assert ([], "no folder") == (list((tmp_path / "new").iterdir()), (tmp_path / "file").read_text())
