"""Faults that the tool server puts on its tools: slow, hanging, talking garbage, or down.

Given at start and switchable while the server runs; a tool's own setting replaces that of ``*`` (all tools).
"""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from socadapter_api.errors import SpecError
from socadapter_range.tools import ARGUMENT_OF

EVERY_TOOL: Final = "*"
GARBAGE_TEXT: Final = "\x00\x01\x02\ufffd\ufffd" * 40


class Fault(BaseModel):
    """What is wrong with one tool. Nothing, unless set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_s: float = Field(default=0.0, ge=0.0, le=600.0, description="Added to every answer.")
    hang: bool = Field(default=False, description="The call is never answered.")
    outage: bool = Field(default=False, description="The call fails.")
    garbage: bool = Field(default=False, description="The answer is not text.")


HEALTHY: Final = Fault()
_FAULTS: Final = TypeAdapter(dict[str, Fault])


class Faults:
    """The current fault of each tool."""

    def __init__(self, faults: Mapping[str, Fault] | None = None) -> None:
        self._faults: dict[str, Fault] = {}
        self.replace(faults or {})

    @staticmethod
    def parse(text: str | bytes) -> dict[str, Fault]:
        """Faults from JSON: tool name, or ``*``, to settings.

        Raises:
            SpecError: not of that form.
        """
        try:
            return _FAULTS.validate_json(text)
        except ValidationError as error:
            raise SpecError(f"faults {text!r} are not JSON of tool name to settings: {error}") from None

    def replace(self, faults: Mapping[str, Fault]) -> None:
        """Sets all faults anew.

        Raises:
            SpecError: a name that is no tool.
        """
        if unknown := sorted(set(faults) - set(ARGUMENT_OF) - {EVERY_TOOL}):
            raise SpecError(f"faults name {unknown}, which are no tools; known: {', '.join(ARGUMENT_OF)} and '*'")
        self._faults = dict(faults)

    def of(self, tool: str) -> Fault:
        """The fault of `tool` right now."""
        return self._faults.get(tool, self._faults.get(EVERY_TOOL, HEALTHY))

    def as_json(self) -> str:
        """The current faults in the form that `parse` reads."""
        return _FAULTS.dump_json(self._faults, exclude_defaults=True).decode()
