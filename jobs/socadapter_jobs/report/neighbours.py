"""What the adapters that serve the other contexts are worth, on their own context and on this one.

With these a page shows every adapter on every context. The figures are those that the other runs measured: nothing is
investigated again. Called by the evaluate stage and by `page`.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from socadapter_api.errors import ManifestInvalid, SocAdapterError
from socadapter_api.names import CONTEXT_MAX_LENGTH, CONTEXT_PATTERN
from socadapter_api.training import MAX_OTHER_CONTEXTS
from socadapter_jobs.report.reading import number, part, text
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

_FIGURES = ("balanced_accuracy", "fnr", "n")

_log = logging.getLogger(__name__)


def read(run_uris: Iterable[str], own: str) -> dict[str, dict[str, Any]]:
    """By context, the base (``base``) and the adapter (``on``) of each run at `run_uris`, in a few figures.

    ``on`` is by context too. A run of the context `own`, and one whose evaluation cannot be had, is left out. What
    another run wrote is taken for nothing but figures under plain names.
    """
    found = {}
    for uri in run_uris:
        try:
            held = RunFolder.at(uri).store.read_json(layout.EVALUATION)
            if not isinstance(held, dict) or not _is_context(name := text(held, "context")):
                raise ManifestInvalid(f"{uri} has no {layout.EVALUATION} of a run")
        except SocAdapterError as error:
            _log.warning("left out of the matrix of contexts: %s", error)
            continue
        if name != own:
            found[name] = of_evaluation(held)
    return found


def of_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The base on this run's context, and its adapter on this and the others that it was judged on."""
    arms = part(evaluation, "arms")
    others = {name: arm for name, arm in part(evaluation, "other_contexts").items() if _is_context(name)}
    on = {text(evaluation, "context"): part(arms, "candidate")} | dict(sorted(others.items())[:MAX_OTHER_CONTEXTS])
    return {"base": _few(part(arms, "base")), "on": {context: _few(arm) for context, arm in on.items()}}


def _is_context(name: str) -> bool:
    return len(name) <= CONTEXT_MAX_LENGTH and re.fullmatch(CONTEXT_PATTERN, name) is not None


def _few(arm: Any) -> dict[str, float]:
    metrics = part(arm, "metrics")
    return {name: value for name in _FIGURES if (value := number(metrics, name)) is not None}
