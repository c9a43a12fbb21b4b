"""What stands in an address, read: anybody can write there, so each reader answers None for what cannot be meant."""

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from uuid import UUID

# Far enough from the ends of the calendar that days can be added and zones be changed.
FIRST = datetime(1970, 1, 2, tzinfo=UTC)
LAST = datetime(2200, 1, 1, tzinfo=UTC)
MOST_USD = Decimal(10) ** 15
FINEST_USD = Decimal("1e-10")


def moment(text: str) -> datetime | None:
    """An ISO date or date-time between 1970 and 2200; without an offset it is UTC."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    read = read if read.tzinfo else read.replace(tzinfo=UTC)
    return read if FIRST <= read <= LAST else None


def amount(text: str) -> Decimal | None:
    """An amount of US dollars, as finely as one is kept."""
    try:
        read = Decimal(text)
    except InvalidOperation:
        return None
    return read.quantize(FINEST_USD) if read.is_finite() and abs(read) <= MOST_USD else None


def uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
