"""For tests of supervised programs: everything they report is caught in memory, and they can be commanded.

with handrail.testing.capture() as captured:
    my_agent()
assert captured.executions[0].status == "completed"
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from handrail import _face
from handrail._beats import Pace
from handrail._client import Client
from handrail._execution import Execution as Worked
from handrail._stand_in import Execution, Given, StandIn, until

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from handrail._options import SettingsOptions

__all__ = ["Captured", "Execution", "Given", "capture"]

WITHIN_S = 5.0
QUICK = Pace(tick_s=0.01, beat_gap_s=0.01, linger_s=0.002)


class Captured:
    """What a program reported. Whatever is asked here is answered when all that was told has arrived."""

    def __init__(self, client: Client, server: StandIn) -> None:
        self.client = client
        self._server = server

    @property
    def executions(self) -> list[Execution]:
        """In the order of their start."""
        self._settle()
        return list(self._server.executions.values())

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event, as it was sent."""
        self._settle()
        return list(self._server.events)

    @property
    def calls(self) -> list[dict[str, Any]]:
        return self._of("call")

    @property
    def tools(self) -> list[dict[str, Any]]:
        return self._of("tool_call")

    @property
    def steps(self) -> list[dict[str, Any]]:
        return self._of("step")

    @property
    def operations(self) -> list[dict[str, Any]]:
        return self._of("operation")

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self._of("message")

    @property
    def commands(self) -> list[Given]:
        """Every command given, with the effect that the program acknowledged."""
        return list(self._server.commands)

    def execution(self, of: Worked | str) -> Execution:
        """The server's side of an execution."""
        identity = of if isinstance(of, str) else of.id
        self._settle()
        return self._server.executions[identity]

    def cancel(self, of: Worked | str, reason: str = "") -> None:
        """As a person would; returns when the program has heard of it, as do the other three."""
        self._order(of, "cancel", reason)

    def pause(self, of: Worked | str, reason: str = "") -> None:
        self._order(of, "pause", reason)

    def resume(self, of: Worked | str, reason: str = "") -> None:
        self._order(of, "resume", reason)

    def retry(self, of: Worked | str, reason: str = "") -> None:
        self._order(of, "retry", reason)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within the block the server does not answer."""
        self._server.is_away = True
        try:
            yield
        finally:
            self._server.is_away = False

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["type"] == kind]

    def _order(self, of: Worked | str, command: str, reason: str) -> None:
        identity = of if isinstance(of, str) else of.id
        until(lambda: identity in self._server.executions, "the execution is registered", WITHIN_S)
        self._server.order(identity, command, reason)
        if isinstance(of, Worked):
            of._beat_at_s = 0.0
            wanted = None if command == "resume" else command
            until(lambda: (of.command and of.command.name) == wanted, f"{of.agent} hears {command}", WITHIN_S)

    def _settle(self) -> None:
        if not self._server.is_away:
            self.client.flush(WITHIN_S)


@contextmanager
def capture(*, backoff_s: float = 0.0, **settings: Unpack[SettingsOptions]) -> Iterator[Captured]:
    """Catch all that the default client would send; the client before is put back afterwards.

    `backoff_s` is how late the stand-in orders a next attempt.
    """
    server = StandIn(backoff_s=backoff_s)
    given: SettingsOptions = {"beat_every_s": 0.05, "hangs_after_s": 0.0, **settings}
    client = Client(
        url="http://handrail.test",
        api_key="captured",
        spool="",
        transport=httpx.MockTransport(server.handle),
        pace=QUICK,
        haste=0.01,
        **given,
    )
    before = _face.swap(client)
    try:
        yield Captured(client, server)
    finally:
        client.flush(0.0 if server.is_away else WITHIN_S)
        client.shutdown()
        _face.swap(before)
