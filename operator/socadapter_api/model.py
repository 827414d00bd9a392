"""The pydantic base of every boundary type, and the scalar types that several of them share.

Field names are snake_case in Python and camelCase in YAML and JSON. Unknown keys are refused.
"""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from socadapter_api.errors import SpecError
from socadapter_api.names import CONTEXT_MAX_LENGTH, CONTEXT_PATTERN, DIGEST_PATTERN

DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
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


Uri = Annotated[str, Field(min_length=1, max_length=2048)]
"""A path or any fsspec URI."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
ContextStr = Annotated[str, Field(min_length=1, max_length=CONTEXT_MAX_LENGTH, pattern=CONTEXT_PATTERN)]
DigestStr = Annotated[str, Field(pattern=DIGEST_PATTERN, max_length=71)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32)]
"""A Go-style duration such as ``1h30m``."""


def parse_duration(text: str) -> timedelta:
    """A Go-style duration (``90s``, ``1h30m``, ``250ms``) as a timedelta.

    Raises:
        SpecError: `text` is not such a duration.
    """
    if not re.match(DURATION_PATTERN, text):
        raise SpecError(f"duration {text!r} is not of the form '1h30m' (units: ms, s, m, h)")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return timedelta(seconds=sum(float(number) * _UNIT_S[unit] for number, unit in parts))
