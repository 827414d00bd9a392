"""Which context an alert belongs to: each route's CEL expression over `alert`, within a budget.

Expressions are compiled when a table arrives. One that does not parse is reported and matches nothing; the others go
on working. Evaluation counts steps, not seconds, so that an alert matches today as it matched yesterday however busy
the machine is. Called by the gateway.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import celpy
from celpy.celtypes import BoolType
from celpy.evaluation import Activation, CELEvalError, Evaluator

from socadapter_api.expressions import fault
from socadapter_api.serving_table import ContextRoute

MAX_STEPS = 20_000
"""Nodes of the expression that one evaluation may visit, inside macros included."""


_UNFIT = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What celpy's macros let through of a value that they cannot go over, such as null."""


class StepsExceeded(Exception):
    """An expression cost more than `MAX_STEPS` on one alert."""


@dataclass(slots=True)
class _Budget:
    left: int

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise StepsExceeded(f"more than {MAX_STEPS} steps")


class _BoundedEvaluator(Evaluator):
    """celpy's evaluator, counting the nodes that it visits."""

    def __init__(self, ast: Any, activation: Activation, budget: _Budget) -> None:
        super().__init__(ast, activation)
        self._budget = budget

    def sub_evaluator(self, ast: Any) -> "Evaluator":
        return _BoundedEvaluator(ast, self.activation, self._budget)

    def _visit_tree(self, tree: Any) -> Any:
        self._budget.spend()
        return super()._visit_tree(tree)


class _BoundedRunner(celpy.InterpretedRunner):
    def evaluate(self, context: Any) -> Any:
        return _BoundedEvaluator(self.ast, self.new_activation(), _Budget(MAX_STEPS)).evaluate(context)


@dataclass(frozen=True, slots=True)
class Matched:
    """The contexts whose expression holds, and those whose expression could not be evaluated within its budget."""

    contexts: tuple[str, ...]
    exceeded: tuple[str, ...] = ()


@dataclass(slots=True)
class ContextMatcher:
    """The compiled expressions of one serving table."""

    programs: dict[str, celpy.Runner] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @classmethod
    def compiled(cls, routes: Iterable[ContextRoute]) -> "ContextMatcher":
        """The matcher for `routes`; `problems` says which expressions were refused, by context."""
        matcher = cls()
        environment = celpy.Environment(runner_class=_BoundedRunner)
        for route in routes:
            if not route.match:
                continue
            if wrong := fault(route.match):
                matcher.problems[route.context] = f"match {wrong}"
            else:
                matcher.programs[route.context] = environment.program(environment.compile(route.match))
        return matcher

    def match(self, fields: dict[str, Any]) -> Matched:
        """The contexts that claim an alert with `fields`.

        An expression that fails on this alert (a field that it lacks, a type that does not fit) does not match it.
        """
        try:
            alert = celpy.json_to_cel(fields)
        except (ValueError, OverflowError, RecursionError):
            return Matched(contexts=(), exceeded=tuple(self.programs))
        contexts: list[str] = []
        exceeded: list[str] = []
        for context, program in self.programs.items():
            try:
                if _holds(program, alert):
                    contexts.append(context)
            except (StepsExceeded, RecursionError):
                exceeded.append(context)
        return Matched(tuple(contexts), tuple(exceeded))


def _holds(program: celpy.Runner, alert: Any) -> bool:
    try:
        value = program.evaluate({"alert": alert})
    except (CELEvalError, *_UNFIT):
        return False
    return isinstance(value, BoolType) and bool(value)
