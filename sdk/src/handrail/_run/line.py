"""The line to the server: reports in their order, the newest heartbeat, and what comes back.

Nothing here holds up the command. While the server is away reports wait, in memory, and are sent when it is back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from handrail._run.news import Away, Back, Beaten, Commanded, News, Refused, Reported, commanded, order_of_beat
from handrail._transport import Answer, Transport, Unreachable, number

FIRST_AGAIN_S = 0.5
MOST_AGAIN_S = 10.0
LISTEN_S = 25
# Answers that say: nobody is there now.
LATER = (408, 500, 502, 503, 504)
# The server is there, and asks to be left alone for a while.
BUSY = 429


class Report(NamedTuple):
    """`verb` is the end of its path: `fail`, `complete`, `cancel`, `acknowledge`; or `register`."""

    verb: str
    body: dict[str, Any]


class Line:
    """The line of one execution. `heard` gets all news, from threads. Without a transport nobody is at its end."""

    def __init__(self, transport: Transport | None, execution_id: str, heard: Callable[[News], object]) -> None:
        # The longest rest before a server that is away is tried again.
        self.most_again_s = MOST_AGAIN_S
        # Whether the last try to reach the server was in vain.
        self.is_away = transport is None
        self._transport = transport
        self._execution_id = execution_id
        self._heard = heard
        self._reports: deque[Report] = deque()
        self._beat: dict[str, Any] | None = None
        self._listens = False
        self._cursor = 0
        self._is_closed = False
        self._changed = threading.Condition()
        if transport is not None:
            for work in (self._send, self._listen):
                threading.Thread(target=work, name=f"handrail {work.__name__}", daemon=True).start()

    @property
    def unsent(self) -> int:
        """Reports that the server has not answered."""
        with self._changed:
            return len(self._reports)

    def report(self, verb: str, **body: Any) -> None:
        """Tell the server, behind all that was told before."""
        if self._transport is None:
            self._heard(Away("no server is named"))
            return
        with self._changed:
            self._reports.append(Report(verb, body))
            # A sign of life from before this news would come after it.
            self._beat = None
            self._changed.notify_all()

    def beat(self, **body: Any) -> None:
        """Send a sign of life, behind the reports; one that was not sent yet is forgotten for it."""
        with self._changed:
            self._beat = body
            self._changed.notify_all()

    def listen(self, listens: bool) -> None:
        """Whether to hear of commands the moment they are given, without waiting for a heartbeat."""
        with self._changed:
            self._listens = listens
            self._changed.notify_all()

    def hurry(self) -> None:
        """This is the end: try often."""
        with self._changed:
            self.most_again_s = FIRST_AGAIN_S
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._transport is not None:
            self._transport.close()

    def _path(self, verb: str) -> str:
        return "/api/v1/executions" if verb == "register" else f"/api/v1/executions/{self._execution_id}/{verb}"

    def _send(self) -> None:
        again_s = FIRST_AGAIN_S
        while (report := self._next()) is not None:
            answer = self._try(report)
            if isinstance(answer, str):
                self.is_away = True
                self._heard(Away(answer))
                self._rest(again_s)
                again_s *= 2
                continue
            if self.is_away:
                self.is_away = False
                self._heard(Back())
            if answer.status == BUSY:
                self._rest(again_s, least_s=answer.retry_after_s or 0.0)
                again_s *= 2
                continue
            again_s = FIRST_AGAIN_S
            self._done(report, answer)

    def _next(self) -> Report | None:
        """The next to be sent; None when the line is closed."""
        with self._changed:
            while not (self._reports or self._beat or self._is_closed):
                self._changed.wait()
            if self._is_closed:
                return None
            return self._reports[0] if self._reports else Report("heartbeat", self._beat or {})

    def _try(self, report: Report) -> Answer | str:
        """The answer, or why there is none."""
        assert self._transport is not None
        try:
            answer = self._transport.post(self._path(report.verb), report.body)
        except Unreachable as error:
            return str(error)
        return f"it answers {answer.status}" if answer.status in LATER else answer

    def _done(self, report: Report, answer: Answer) -> None:
        if report.verb != "heartbeat":
            # Heard before it counts as sent: who finds nothing unsent has all answers. And both at once: who has heard
            # the last answer must not find it unsent, for no news would follow.
            with self._changed:
                self._heard(Reported(report.verb, report.body, answer))
                self._reports.popleft()
            return
        with self._changed:
            if self._beat is report.body:
                self._beat = None
        order = order_of_beat(answer)
        self._heard(Refused(answer) if order is None else Beaten(report.body["attempt"], order))

    def _rest(self, seconds: float, *, least_s: float = 0.0) -> None:
        """Wait, but no longer than is wanted meanwhile, though `least_s`, and not when the line is closed."""
        began_s = time.monotonic()
        with self._changed:
            while not self._is_closed:
                left_s = began_s + max(least_s, min(seconds, self.most_again_s)) - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def _listen(self) -> None:
        assert self._transport is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._listens or self._is_closed)
                if self._is_closed:
                    return
            asked_at_s = time.monotonic()
            params = {"after": self._cursor, "wait": LISTEN_S, "execution_id": self._execution_id}
            try:
                answer = self._transport.get("/api/v1/agent-events", params, timeout_s=LISTEN_S + 10)
            except Unreachable:
                answer = None
            if answer is not None and answer.is_good:
                self._cursor = number((answer.body or {}).get("cursor"), least=0) or self._cursor
                for command in commanded(answer):
                    self._heard(Commanded(command))
            # A server that never lets us wait is not asked all the time.
            if time.monotonic() - asked_at_s < FIRST_AGAIN_S:
                asked_s = answer.retry_after_s if answer is not None and answer.status == BUSY else None
                self._rest(FIRST_AGAIN_S, least_s=asked_s or 0.0)
