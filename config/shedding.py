"""How many requests were shed, added up in Redis over all web processes and machines; without Redis nobody counts."""

from monitor.doorcounts import Counts

KEY = "handrail:shed"


class ShedCounts:
    """Counts by room and reason."""

    def __init__(self) -> None:
        self._counts = Counts(KEY)

    def add(self, room: str, reason: str) -> None:
        """Count one; costs no waiting."""
        self._counts.add({f"{room}:{reason}": 1})

    def totals(self) -> dict[tuple[str, str], int]:
        """By room and reason, since Redis was emptied; nothing when it is away."""
        named = ((name.partition(":"), count) for name, count in sorted(self._counts.totals().items()))
        return {(room, reason): count for (room, _, reason), count in named}
