"""What docs/runbook.md explains: a section for each reason, and the words that ask for nothing in one table."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[1] / "docs" / "runbook.md").read_text("utf-8")
QUIET = "## When nothing is wrong"

SECTIONS: dict[str, str] = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL))
"""The text under each heading that is a reason."""

QUIET_WORDS = frozenset(
    word
    for first_cell in re.findall(r"^\| (`.+?) \|", TEXT.partition(QUIET)[2], flags=re.MULTILINE)
    for word in re.findall(r"`(\w+)`", first_cell)
)
"""The words of the table of what is said when nothing is wrong."""
