"""Amounts of money as people write them into forms."""

import re
from decimal import Decimal

from monitor.trips import MOST_TOP_UP_USD

# A comma parts thousands and nothing else: `12,50` is not guessed at.
_WRITTEN = re.compile(r"\$? *((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)")


def usd_of(text: str) -> Decimal | None:
    """`$1,250.50` or `1250.5` as an amount; None unless it is 0 to 1,000,000 dollars."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        return None
    amount = Decimal(written[1].replace(",", ""))
    return amount.quantize(Decimal("1e-10")) if amount <= MOST_TOP_UP_USD else None
