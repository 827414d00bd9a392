"""What goes wrong in the passes of local mode: as errors of the tree, each said once while it lasts."""

import logging

from socadapter_api.errors import BackendUnavailable, DiskFull, InternalError, SocAdapterError
from socadapter_operator.domain.actions import Note

log = logging.getLogger(__name__)


class Troubles:
    """Remembers from one pass to the next what was said. `begin_pass` comes before each."""

    def __init__(self) -> None:
        self._said: set[object] = set()
        self._said_before: set[object] = set()

    def begin_pass(self) -> None:
        """What is not said again from now on counts as over."""
        self._said, self._said_before = set(), self._said

    def named(self, name: str, error: Exception) -> SocAdapterError:
        """`error`, met by what is called `name`, as one of the tree. Of a defect the log has the traceback."""
        if isinstance(error, SocAdapterError):
            return error
        if DiskFull.is_behind(error):
            return DiskFull(f"no space is left on this machine: {error}; make some, and the next pass goes on")
        if isinstance(error, OSError):
            return BackendUnavailable(
                f"this machine does not let it go on: {error}; mend the rights, and the next pass goes on"
            )
        if self._is_new((name, repr(error))):
            log.error("pass_crashed name=%s", name, exc_info=error)
        return InternalError(
            f"a pass met a {type(error).__name__} that its code does not expect, which is a defect of it; what was "
            "printed has the traceback"
        )

    def notes(self, name: str, error: SocAdapterError) -> tuple[tuple[str, Note], ...]:
        """The note that tells `error`; none where the pass before told it, too."""
        note = (name, Note(error.reason, str(error), warning=True))
        return (note,) if self._is_new(note) else ()

    def _is_new(self, what: object) -> bool:
        self._said.add(what)
        return what not in self._said_before
