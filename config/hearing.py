"""The ears of the product: while a web process lives it signs that the agents can be heard.

A thread of its own, for a crank that turns slowly must not look like deafness.
"""

import logging
import threading

from django.db import Error, connection

from monitor import jobs, listening

log = logging.getLogger(__name__)


class Signing:
    """Signs at once, then every few seconds until stopped."""

    def __init__(self, *, every_s: float = listening.SIGN_EVERY_S) -> None:
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sign, name="hearing", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the sign that may be under way is given."""
        self._stop.set()
        self._thread.join()

    def _sign(self) -> None:
        while True:
            try:
                deaf = listening.sign(now=jobs.database_now())
                if deaf:
                    log.warning(
                        "nobody heard the agents for %.0f s; their clocks were put forward", deaf.total_seconds()
                    )
            except Error as error:
                log.warning("the agents may be unheard: %s", error)
            finally:
                connection.close()
            if self._stop.wait(self._every_s):
                return


_signing: Signing | None = None
_starting = threading.Lock()


def start_signing() -> Signing:
    """Start this process's signing, once."""
    global _signing
    with _starting:
        if _signing is None:
            _signing = Signing()
            _signing.start()
        return _signing
