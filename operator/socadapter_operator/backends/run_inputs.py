"""What a backend does to a run's folder in the store before it starts the run: once started, the run writes alone."""

from collections.abc import Callable, Sequence

from socadapter_api.training import RunSpec
from socadapter_store import layout
from socadapter_store.run_folder import RunFolder


def reopen(spec: RunSpec) -> None:
    """Takes the failure of an earlier attempt back, so that the next one's result can count.

    Raises:
        StoreUnavailable: the store cannot be reached.
    """
    folder = _folder(spec)
    if not folder.store.exists(layout.SUCCESS):
        folder.reopen()


def keep_feedback(spec: RunSpec, fetch: Callable[[str], Sequence[str] | None]) -> str | None:
    """The URI of the verdicts that the run learns from, kept in its folder; None where it learns from none.

    `fetch` is asked for the verdicts of a window as JSON lines. A resumed run keeps those that it began with, and one
    that has too few takes none.

    Raises:
        StoreUnavailable: the store cannot be reached.
    """
    wanted = spec.data.feedback
    if wanted is None:
        return None
    folder = _folder(spec)
    uri = f"{folder.uri}/{layout.FEEDBACK}"
    if folder.store.exists(layout.SUCCESS) or folder.store.exists(layout.FEEDBACK):
        return uri if folder.store.exists(layout.FEEDBACK) else None
    held = fetch(wanted.window)
    if held is None or len(held) < wanted.min_verdicts:
        return None
    folder.write(layout.FEEDBACK, "".join(f"{line}\n" for line in held).encode())
    return uri


def _folder(spec: RunSpec) -> RunFolder:
    return RunFolder.at(layout.run_uri(spec.store, spec.namespace, spec.context, spec.run_id))
