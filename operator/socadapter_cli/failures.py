"""How an error is told on a terminal, and which exit code it has.

2: what was asked for, or the data, is wrong. 3: the same call may succeed later. 1: anything else.
"""

import click

from socadapter_api.errors import DataError, ObjectNotFound, SocAdapterError, SpecError

WRONG = 2
LATER = 3
OTHER = 1


def report(error: Exception) -> int:
    """Prints `error` as ``error[Reason]: text``; returns the exit code."""
    if isinstance(error, SocAdapterError):
        tell(error.reason, str(error))
        return exit_code(type(error))
    if isinstance(error, BrokenPipeError):
        return OTHER
    tell("InternalError", f"{type(error).__name__}: {error}; `socadapter --debug ...` shows where")
    return OTHER


def tell(reason: str, text: str) -> None:
    """Prints one error."""
    click.echo(f"{click.style(f'error[{reason}]', fg='red', bold=True)}: {text}", err=True)


def exit_code(kind: type[SocAdapterError]) -> int:
    """The exit code of an error of the tree."""
    if issubclass(kind, SpecError | DataError | ObjectNotFound):
        return WRONG
    return LATER if kind.retryable else OTHER


def code_of_reason(reason: str) -> int:
    """The exit code for a reason that a condition or a result names."""
    from socadapter_operator.domain.reasons import BY_REASON

    return exit_code(BY_REASON[reason]) if reason in BY_REASON else OTHER
