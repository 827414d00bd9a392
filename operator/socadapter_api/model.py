"""The pydantic base of every boundary type, and the scalar types that several of them share.

Field names are snake_case in Python and camelCase in YAML and JSON. Unknown keys are refused.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from socadapter_api.errors import SpecError
from socadapter_api.names import CONTEXT_MAX_LENGTH, CONTEXT_PATTERN, DIGEST_PATTERN, VERSION_PATTERN

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
MESSAGE_MAX_LENGTH = 4096
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Contract(BaseModel):
    """A strict, immutable boundary type: unknown keys are errors, names are camelCase outside."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself, since nothing changes it: pydantic copies a default for each object that leaves the field out."""
        return self


def rules(*checks: tuple[str, str]) -> ConfigDict:
    """The model configuration that puts CEL rules, each with its message, into the model's schema in the CRDs."""
    validations: list[Any] = [{"rule": rule, "message": message} for rule, message in checks]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": validations})


def keyed_by(key: str) -> dict[str, Any]:
    """The schema extras of a list whose items are told apart by `key`: unique, and merged one by one on apply."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def _cut(text: object) -> object:
    too_long = isinstance(text, str) and len(text) > MESSAGE_MAX_LENGTH
    return f"{str(text)[: MESSAGE_MAX_LENGTH - 1]}…" if too_long else text


def _in_a_zone(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_in_a_zone)]
"""A point in time; one without a zone is in UTC, so that any two compare, and alike on every machine."""

Uri = Annotated[str, Field(min_length=1, max_length=2048)]
"""A path or any fsspec URI."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
ContextStr = Annotated[str, Field(min_length=1, max_length=CONTEXT_MAX_LENGTH, pattern=CONTEXT_PATTERN)]
DigestStr = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=71)]
VersionStr = Annotated[str, Field(max_length=63, pattern=VERSION_PATTERN)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
"""A Go-style duration such as ``1h30m``."""

Message = Annotated[str, BeforeValidator(_cut), Field(max_length=MESSAGE_MAX_LENGTH)]
"""Text for people. One that is too long is cut, never refused: a long error must not hide that there was one."""

Word = Annotated[str, Field(max_length=253)]
"""A single name: a reason, a metric, a replica."""

Time = Annotated[str, Field(max_length=64)]
"""A time in RFC 3339; empty: not yet."""

Metrics = Annotated[dict[str, float], Field(max_length=128)]
"""Figures by name."""


def parse_duration(text: str) -> timedelta:
    """A Go-style duration (``90s``, ``1h30m``, ``250ms``) as a timedelta.

    Raises:
        SpecError: `text` is not such a duration.
    """
    if not re.fullmatch(DURATION_PATTERN, text):
        raise SpecError(f"duration {text!r} is not of the form '1h30m' (units: ms, s, m, h)")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return timedelta(seconds=sum(float(number) * _UNIT_S[unit] for number, unit in parts))
