"""Numbers and foreign text as people read them. Everything that an attacker may have written passes `visible`.

Filters of the page's templates; escaping for HTML is left to them.
"""

import json
import unicodedata
from typing import Any

from socadapter_jobs.report.reading import finite

NOTHING = "–"
_TEXT_LIMIT = 1600
_VERDICTS = {
    "true_positive": "attack",
    "benign_true_positive": "benign",
    "false_positive": "false alarm",
    "escalate": "escalate",
    "invalid": "no valid answer",
}


def percent(value: Any, digits: int = 1) -> str:
    """A share as per cent."""
    share = finite(value)
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def decimal(value: Any, digits: int = 3) -> str:
    """A number with a fixed count of decimals."""
    plain = finite(value)
    return NOTHING if plain is None else f"{plain:.{digits}f}"


def signed(value: Any, digits: int = 3) -> str:
    """A number with its sign; a true minus."""
    plain = finite(value)
    return NOTHING if plain is None else f"{plain:+.{digits}f}".replace("-", "−")


def points(value: Any) -> str:
    """A difference of shares in percentage points."""
    share = finite(value)
    return NOTHING if share is None else f"{100 * share:+.1f} pp".replace("-", "−")


def count(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    plain = finite(value)
    return NOTHING if plain is None else f"{plain:,.0f}".replace(",", " ")


def size(value: Any) -> str:
    """Bytes in the unit that fits."""
    left = finite(value)
    if left is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if abs(left) < 1000 or unit == "GB":
            break
        left /= 1000
    return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"


def duration(value: Any) -> str:
    """Seconds as people say them."""
    seconds = finite(value)
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def verdict(value: Any) -> str:
    """A verdict in plain words."""
    return _VERDICTS.get(str(value), str(value) or NOTHING)


def short_digest(value: Any) -> str:
    """The first characters of a digest; the page shows the whole in a title."""
    return str(value).removeprefix("sha256:")[:12] if value else NOTHING


def visible(value: Any, limit: int = _TEXT_LIMIT) -> str:
    """Foreign text, cut to `limit`, with control, direction and invisible characters spelled out.

    Alert bodies and tool results are an attacker's to write: nothing may reorder or hide what stands beside them.
    The page spells out whatever else it prints too; here the length is bounded.
    """
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    shown = spelled(value[:limit])
    return shown if len(value) <= limit else f"{shown} … ({count(len(value) - limit)} more characters)"


def spelled(value: str) -> str:
    """`value` with every character that cannot be seen, or that moves others, as its code."""
    return value if value.isascii() and value.isprintable() else "".join(map(_spelled, value))


def _spelled(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character
    return f"\\u{ord(character):04x}"


FILTERS = {
    "percent": percent,
    "decimal": decimal,
    "signed": signed,
    "points": points,
    "count": count,
    "size": size,
    "duration": duration,
    "verdict": verdict,
    "short_digest": short_digest,
    "visible": visible,
}
