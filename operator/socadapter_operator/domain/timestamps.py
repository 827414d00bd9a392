"""Times as status fields hold them: RFC 3339, UTC, whole seconds."""

from datetime import UTC, datetime


def stamp(moment: datetime) -> str:
    """`moment` as text."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime | None:
    """The moment that `text` names, in UTC; None where it names none. A time without an offset is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
