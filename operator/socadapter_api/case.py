"""Alerts and cases, and the rule of what a model may see.

A `Case` is an alert with its truth and its recorded evidence. The agent never takes a `Case`: it takes
`Case.visible()`, an `Alert`, which has no path back to the label. Recorded evidence is reached through a tool
environment made from the case, never through the prompt. Labels, provenance and identifiers stay in `Case`.

One case file is JSON lines, one `Case` a line, in the layout of the public data sets that the importers read:
``{"id", "context", "alert": {...}, "evidence": {tool: answer}, "label", ...}``.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from socadapter_api.errors import UnknownLabel
from socadapter_api.model import Contract, Moment


class Verdict(StrEnum):
    """What an investigation concludes. `INVALID` is never asked for: it records an answer that could not be parsed."""

    TRUE_POSITIVE = "true_positive"
    BENIGN_TRUE_POSITIVE = "benign_true_positive"
    FALSE_POSITIVE = "false_positive"
    ESCALATE = "escalate"
    INVALID = "invalid"

    @property
    def closes(self) -> bool:
        """Nobody looks at the alert again."""
        return self in (Verdict.BENIGN_TRUE_POSITIVE, Verdict.FALSE_POSITIVE)


ANSWERS: tuple[Verdict, ...] = (
    Verdict.TRUE_POSITIVE,
    Verdict.BENIGN_TRUE_POSITIVE,
    Verdict.FALSE_POSITIVE,
    Verdict.ESCALATE,
)
"""The verdicts that a model may give, in the order in which probabilities over them are stored."""

_LABELS: dict[str, Verdict] = {
    "TP": Verdict.TRUE_POSITIVE,
    "BTP": Verdict.BENIGN_TRUE_POSITIVE,
    "FP": Verdict.FALSE_POSITIVE,
    "UNDECIDABLE": Verdict.ESCALATE,
    **{verdict.value: verdict for verdict in ANSWERS},
}


def parse_label(text: str, where: str = "") -> Verdict:
    """The verdict that a data set's label names: ``TP``, ``BTP``, ``FP``, ``UNDECIDABLE`` or a verdict's own name.

    A case whose label is `Verdict.ESCALATE` is one that the available evidence cannot decide.

    Raises:
        UnknownLabel: any other text. `where` (file and row) is part of the message.
    """
    try:
        return _LABELS[text]
    except KeyError:
        known = ", ".join(_LABELS)
        raise UnknownLabel(f"label {text!r}{f' in {where}' if where else ''} is none of: {known}") from None


@dataclass(frozen=True, slots=True)
class Alert:
    """What a model may see unasked: the alert's own fields, and nothing about its truth.

    `observed_at` is when the alert was raised. It is never rendered; tools use it to answer as of that moment.
    """

    fields: dict[str, Any]
    observed_at: datetime | None = None


class Case(Contract):
    """One labelled alert. Only `alert` may reach a model unasked, and only through `visible()`."""

    model_config = ConfigDict(extra="ignore", alias_generator=None)

    id: str = Field(min_length=1, max_length=256, description="Unique within a data set; hidden from the model.")
    context: str = Field(default="", max_length=256, description="Business context or data set slice; hidden.")
    alert: dict[str, Any] = Field(description="The visible fields of the alert.")
    evidence: dict[str, Any] = Field(
        default_factory=dict, description="Tool name to what that tool returns for this alert, whatever its arguments."
    )
    label: Verdict = Field(description="TP, BTP, FP, UNDECIDABLE or a verdict's own name; hidden.")
    observed_at: Moment | None = Field(default=None, description="When the alert was raised; hidden, freezes tools.")
    entities: tuple[str, ...] = Field(default=(), description="Users and hosts involved, for disjoint splits; hidden.")
    group: str = Field(default="", description="Rule or story family, for reports per slice; hidden.")
    source: str = Field(default="", description="Provenance; hidden.")
    ambiguous: bool = Field(default=False, description="The title occurs with both labels; reported apart; hidden.")

    @field_validator("label", mode="before")
    @classmethod
    def _label(cls, value: object) -> object:
        return parse_label(value) if isinstance(value, str) else value

    def visible(self) -> Alert:
        """The part of the case that a model may see."""
        return Alert(fields=self.alert, observed_at=self.observed_at)

    @property
    def is_attack(self) -> bool:
        """Whether the binary metrics count this case as positive."""
        return self.label is Verdict.TRUE_POSITIVE

    @property
    def decidable(self) -> bool:
        """Whether the evidence decides the case; undecidable cases are scored apart."""
        return self.label is not Verdict.ESCALATE
