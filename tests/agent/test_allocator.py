"""Which allocator a process that runs a model starts with."""

import os
import subprocess
import sys
from pathlib import Path

from socadapter_agent.allocator import PRELOAD, allocator


def test_a_process_starts_with_rays_allocator() -> None:
    """It is there from the first allocation on: the loader has mapped it."""
    (library,) = allocator({}).values()
    maps = "import pathlib; print(pathlib.Path('/proc/self/maps').read_text())"
    environment = {**os.environ, PRELOAD: library}
    mapped = subprocess.run([sys.executable, "-c", maps], env=environment, capture_output=True, text=True, check=True)
    assert str(Path(library).resolve()) in mapped.stdout
    assert not mapped.stderr


def test_what_is_preloaded_already_stays() -> None:
    """Whoever chose another allocator keeps it."""
    assert {} == allocator({PRELOAD: "/usr/lib/libtcmalloc.so"})
