"""Arithmetic on Kubernetes' quantities: exact, and written back as Kubernetes writes them."""

import re
from fractions import Fraction
from math import ceil

from socadapter_api.errors import SpecError
from socadapter_api.pods import QUANTITY_PATTERN

_SCALES = {
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{prefix: Fraction(1000) ** power for power, prefix in enumerate("kMGTP", start=1)},
    **{f"{prefix}i": Fraction(1024) ** power for power, prefix in enumerate("KMGTP", start=1)},
}


def parse(text: str) -> Fraction:
    """The amount in `text`, such as ``1.5Gi``.

    Raises:
        SpecError: it is no quantity.
    """
    if not re.fullmatch(QUANTITY_PATTERN, text):
        raise SpecError(f"{text!r} is no quantity: write it as 500m, 2 or 16Gi")
    number = text.rstrip("".join(_SCALES))
    return Fraction(number) * _SCALES[text[len(number) :]]


def memory(amount: Fraction) -> str:
    """Bytes, in the largest binary unit that divides them."""
    whole = ceil(amount)
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if whole and whole % int(_SCALES[unit]) == 0:
            return f"{whole // int(_SCALES[unit])}{unit}"
    return str(whole)


def cores(amount: float | Fraction) -> str:
    """CPU cores, in thousandths where they are not whole; rounded up."""
    thousandths = ceil(Fraction(str(amount)) * 1000)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"
