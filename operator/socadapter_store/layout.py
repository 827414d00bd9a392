"""Where everything of a run lies in the adapter store. Pure; `socadapter_api.manifest` draws the folder as a whole.

Called by every module that names a file of a run, so that no path is spelled twice.
"""

import re

from socadapter_api.errors import SpecError
from socadapter_api.manifest import Stage
from socadapter_api.model import Uri

PROGRESS = "progress.json"
STAGES = "stages"
ADAPTER = "adapter"
FEEDBACK = "feedback.jsonl"
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
EVALUATION = "evaluation.json"
REPORT = "report.html"
RESULT = "result.json"
SUCCESS = "_SUCCESS"
FAILED = "_FAILED"

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MODEL_CARD = "README.md"

ADAPTER_FILES = frozenset({CONFIG, WEIGHTS, MODEL_CARD})
"""All that `adapter/` may hold."""

UNSIGNED = frozenset({PROGRESS, FEEDBACK, STAGES, SIGNATURE, EVALUATION, REPORT, RESULT, SUCCESS, FAILED})
"""What a run's folder holds beside the signed `adapter/` and `manifest.json`."""

ALL = UNSIGNED | {ADAPTER, MANIFEST}
"""What a run's folder holds."""

_SEGMENT = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]*")


def run_uri(store: str, namespace: str, context: str, run_id: str) -> Uri:
    """The folder of one run: ``<store>/<namespace>/<context>/<run-id>``.

    Raises:
        SpecError: a part that is not a plain name and so could leave the store.
    """
    for name, value in (("namespace", namespace), ("context", context), ("run id", run_id)):
        if not _SEGMENT.fullmatch(value):
            raise SpecError(f"{name} {value!r} is not a plain name, so it cannot be a folder of store {store!r}")
    return "/".join((store.rstrip("/"), namespace, context, run_id))


def stage_marker(stage: Stage) -> str:
    """The marker of a finished stage, below the run's folder."""
    return f"{STAGES}/{stage.value}.json"


def adapter_file(name: str) -> str:
    """The path of one of the adapter's files, below the run's folder."""
    return f"{ADAPTER}/{name}"
