"""Streams and long-polls: they hold no thread, and are only counted, all of them and each key's."""

from collections import Counter

from config.rooms import Key
from config.shedding import busy, greedy


class Listener:
    """One stream or long-poll, which holds no thread. Whoever began it has to leave."""

    __slots__ = ("_is_inside", "_key", "_lobby")

    def __init__(self, lobby: "Lobby", key: Key) -> None:
        """Raises Shed."""
        lobby.enter(key)
        self._lobby = lobby
        self._key = key
        self._is_inside = True

    def become(self, key: Key) -> None:
        """It is known whose it is. Raises Shed."""
        if key != self._key:
            self._lobby.enter(key)
            self._lobby.leave(self._key)
            self._key = key

    def leave(self) -> None:
        if self._is_inside:
            self._is_inside = False
            self._lobby.leave(self._key)


class Lobby:
    """So many streams and long-polls at most, and for strangers an eighth of as many, apart from the others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known = 0
        self._inside: Counter[Key] = Counter()

    def enter(self, key: Key) -> None:
        """Raises Shed."""
        is_known = key[0]
        if not is_known and self._inside[key] >= max(1, self._most // 8):
            raise busy("unknown")
        if is_known and self._known >= self._most:
            raise busy("full")
        if is_known and self._inside[key] >= max(1, self._most // 2):
            raise greedy()
        self._known += is_known
        self._inside[key] += 1

    def leave(self, key: Key) -> None:
        self._known -= key[0]
        self._inside[key] -= 1
        if not self._inside[key]:
            del self._inside[key]
