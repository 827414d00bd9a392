"""``python -m socadapter_jobs``: one run, whose spec is in ``SOCADAPTER_RUN_SPEC`` (a path, or the JSON itself).

Exit status: 0 when the run finished (a failed gate is a finished run), 3 when it may be tried again, 2 when it may
not, 130 when it was stopped on request.
"""

import logging
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from socadapter_api.errors import RunInterrupted, SocAdapterError, SpecError
from socadapter_api.manifest import Outcome
from socadapter_api.training import RunSpec
from socadapter_jobs import secret_files
from socadapter_jobs.run import execute

VARIABLE = "SOCADAPTER_RUN_SPEC"


def read_spec(text: str) -> RunSpec:
    """The run spec in `text`, which is JSON or the path of a file that holds it.

    Raises:
        SpecError: it is neither, or not a run spec.
    """
    try:
        content = text if text.lstrip().startswith("{") else Path(text).read_text()
        return RunSpec.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise SpecError(f"{VARIABLE} does not hold a run spec: {error}") from error


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        secret_files.unpack()
        result = execute(read_spec(os.environ.get(VARIABLE, "")))
    except RunInterrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return 130
    except SocAdapterError as error:
        print(f"error[{error.reason}]: {error}", file=sys.stderr)
        return 3 if error.retryable else 2
    print(f"{result.outcome.value}: {result.version or result.message}")
    if result.outcome is Outcome.FAILED:  # an earlier attempt's; it counts until the run is reopened
        return 3 if result.retryable else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
