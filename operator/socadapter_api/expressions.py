"""CEL expressions of the contract: whether one can be compiled, told without evaluating it.

The planner asks before anything is trained; serving compiles the same expressions with its own evaluator.
"""

from functools import lru_cache

MAX_SHOWN = 200
"""Characters of an expression that an error repeats."""


@lru_cache(maxsize=16_384)
def fault(expression: str) -> str:
    """What is wrong with the syntax of `expression`, with its place; empty where nothing is."""
    import celpy  # takes a third of a second, and most commands need no expression
    from celpy.celparser import CELParseError

    try:
        celpy.Environment().compile(expression)
    except CELParseError as error:
        where = "its end" if error.line is None else f"line {error.line}, column {error.column}"
        return f"{_shown(expression)} is not CEL: it cannot be read beyond {where}"
    except (ValueError, RecursionError) as error:
        return f"{_shown(expression)} is not CEL: {type(error).__name__}"
    return ""


def _shown(expression: str) -> str:
    return repr(expression if len(expression) <= MAX_SHOWN else f"{expression[:MAX_SHOWN]}...")
