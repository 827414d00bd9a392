"""What the adapters that serve the other contexts are worth, on their own context and on this one.

With these a page shows every adapter on every context. The figures are those that the other runs measured: nothing is
investigated again. Called by the evaluate stage and by `page`.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from socadapter_api.errors import SocAdapterError
from socadapter_jobs.report.reading import part, text
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder

_FIGURES = ("balanced_accuracy", "fnr", "n")

_log = logging.getLogger(__name__)


def read(run_uris: Iterable[str], own: str) -> dict[str, dict[str, Any]]:
    """By context, the base (``base``) and the adapter (``on``) of each run at `run_uris`, in a few figures.

    ``on`` is by context too. A run of the context `own`, and one whose evaluation cannot be had, is left out.
    """
    found = {}
    for uri in run_uris:
        try:
            held = RunFolder.at(uri).store.read_json(layout.EVALUATION)
        except SocAdapterError as error:
            _log.warning("left out of the matrix of contexts: %s", error)
            continue
        evaluation = held if isinstance(held, dict) else {}
        context = text(evaluation, "context")
        if context and context != own:
            found[context] = of_evaluation(evaluation)
    return found


def of_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The base on this run's context, and its adapter on this and the others that it was judged on."""
    arms = part(evaluation, "arms")
    on = {text(evaluation, "context"): part(arms, "candidate")} | part(evaluation, "other_contexts")
    return {"base": _few(part(arms, "base")), "on": {context: _few(arm) for context, arm in on.items()}}


def _few(arm: Any) -> dict[str, Any]:
    metrics = part(arm, "metrics")
    return {name: metrics[name] for name in _FIGURES if name in metrics}
