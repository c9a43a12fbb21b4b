"""Watches over one command: starts it, beats for it, ends it, starts it again, as the server says or in its stead.

One thread decides, here, about one piece of news after the other. What the server says holds; while it is away the
same rules are kept here, and it is told when it is back.
"""

from __future__ import annotations

import enum
import errno
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from handrail._run import news
from handrail._run.attempt import Attempt, Why
from handrail._run.command import End, signal_name
from handrail._run.inbox import Inbox
from handrail._run.line import FIRST_AGAIN_S, MOST_AGAIN_S, Line
from handrail._run.news import Order
from handrail._run.options import Options
from handrail._run.reports import Reports
from handrail._run.tail import Tail
from handrail._run.terminal import listening, say
from handrail._run.terms import FIRST_BACKOFF_S, wanted
from handrail._settings import Settings
from handrail._transport import Transport

# How long a step waits for the server's word, and the end for it to take the last reports.
WORD_S = 3.0
FAREWELL_S = 5.0
NEVER_S = float("inf")
TIMED_OUT, CANCELLED = 124, 143
# The exit code when an order ended the command and nothing came after it.
AFTER_ORDER = {Why.CANCEL: CANCELLED, Why.PAUSE: CANCELLED, Why.RETRY: TIMED_OUT}


class Phase(enum.Enum):
    ASKING = "the server's word is waited for before the command starts"
    WORKING = "the command runs"
    REPORTING = "it has failed, and the server says what now"
    RESTING = "the next attempt waits for its time"
    WAITING = "a person decides"
    CLOSING = "all is over; the server hears the rest"


class Supervisor:
    def __init__(self, options: Options, settings: Settings, *, environ: Mapping[str, str]) -> None:
        self.options = options
        self.execution_id = str(uuid.uuid4())
        self.run_id = options.run_id or self.execution_id
        self.number = 1
        self.terms = wanted(options)
        self._environ = dict(environ) | {"HANDRAIL_EXECUTION_ID": self.execution_id, "HANDRAIL_RUN_ID": self.run_id}
        if settings.url:
            self._environ["HANDRAIL_URL"] = settings.url
        self._inbox = Inbox()
        transport = Transport(settings) if settings.is_complete else None
        self._line = Line(transport, self.execution_id, self._inbox.put)
        self._reports = Reports(self._line, options)
        # Whether the server takes our heartbeats.
        self._is_heard = transport is not None
        self._phase = Phase.ASKING
        self._attempt: Attempt | None = None
        # The last order that ended or paused an attempt.
        self._order: Order | None = None
        self._signals: list[int] = []
        # The work is done, and the server could not take that yet.
        self._is_done = False
        self._exit_code = 0
        # When the phase is over, and when the next heartbeat is due, on the monotonic clock.
        self._until_s = self._beat_at_s = NEVER_S
        self._takes: dict[type, Callable[[Any], None]] = {
            news.Beaten: self._on_beaten,
            news.Reported: self._on_reported,
            news.Refused: self._on_refused,
            news.Away: self._on_away,
            news.Back: self._on_back,
            news.Commanded: self._on_commanded,
            news.Ended: self._on_ended,
            news.Signalled: self._on_signalled,
        }

    def run(self) -> int:
        """Return when the work is over; the exit code."""
        if not self._is_heard:
            say("HANDRAIL_URL and HANDRAIL_API_KEY are not both set; no server hears of this")
        with listening(lambda number: self._inbox.put(news.Signalled(number))):
            self._until_s = time.monotonic() + WORD_S
            self._reports.register(self.execution_id, self.run_id)
            while not self._is_over():
                told = self._inbox.get(self._due_in_s())
                if told is None:
                    self._on_time(time.monotonic())
                else:
                    self._takes[type(told)](told)
        if self._line.unsent:
            say("the server is away; it was not told how this ended")
        self._line.close()
        return self._exit_code

    def _is_over(self) -> bool:
        if self._phase is not Phase.CLOSING:
            return False
        return time.monotonic() >= self._until_s or (not self._line.unsent and not self._inbox)

    # The steps.

    def _start(self) -> None:
        self._line.listen(False)
        self._phase, self._order, self._is_done = Phase.WORKING, None, False
        self._beat_at_s, self._until_s = time.monotonic(), NEVER_S
        try:
            self._attempt = Attempt(
                self.options.command,
                environ=self._environ | {"HANDRAIL_ATTEMPT": str(self.number)},
                hang_after_s=self.options.hang_after_s,
                tells_stillness=not self.terms.ends_stalled,
                grace_s=self.options.grace_s,
                ended=lambda end: self._inbox.put(news.Ended(end)),
            )
        except OSError as error:
            self._on_ended(news.Ended(End(None, refused=error.errno or errno.ENOEXEC)))

    def _pick_up(self, now_s: float) -> None:
        """The first beat of a new attempt asks whether it may start."""
        self._phase, self._until_s = Phase.ASKING, now_s + WORD_S
        self._beat(now_s)

    def _beat(self, now_s: float) -> None:
        self._beat_at_s = now_s + self.terms.beat_every_s
        self._reports.beat(self.number, self._attempt)

    def _fail(self, what: str, tail: Tail) -> None:
        say(f"attempt {self.number} {what}")
        if not self.options.waits and self.terms.backoff_s(self.number) is None:
            say("retries are spent")
            self._reports.ended_for_good(self.number, what, tail)
            self._close(self._exit_code)
            return
        self._phase, self._until_s = Phase.REPORTING, time.monotonic() + WORD_S
        self._reports.failed(self.number, what, tail)

    def _rest(self, until_s: float) -> None:
        say(f"attempt {self.number} starts in {max(0.0, until_s - time.monotonic()):.0f} s")
        self._phase, self._until_s, self._beat_at_s = Phase.RESTING, until_s, NEVER_S
        self._line.listen(True)

    def _wait(self, reason: str) -> None:
        if self._phase is not Phase.WAITING:
            say(f"waiting for a person: {reason}")
        self._phase, self._until_s = Phase.WAITING, NEVER_S
        self._beat_at_s = min(self._beat_at_s, time.monotonic() + self.terms.beat_every_s)
        self._line.listen(True)

    def _close(self, exit_code: int) -> None:
        self._phase, self._exit_code = Phase.CLOSING, exit_code
        self._until_s, self._beat_at_s = time.monotonic() + FAREWELL_S, NEVER_S
        self._line.hurry()

    # Time passes.

    @property
    def _decides_alone(self) -> bool:
        return self._line.is_away or not self._is_heard

    def _due_in_s(self) -> float | None:
        now_s, due_s = time.monotonic(), min(self._until_s, self._beat_at_s)
        if self._attempt is not None and self._attempt.why is None:
            due_s = min(due_s, self._attempt.look_at_s)
            if not self._attempt.is_paused:
                due_s = min(due_s, now_s + self.terms.timeout_s - self._attempt.ran_s(now_s=now_s))
        return None if due_s == NEVER_S else max(0.0, due_s - now_s)

    def _on_time(self, now_s: float) -> None:
        if self._attempt is not None and self._attempt.why is None:
            self._look(self._attempt, now_s)
        if now_s >= self._beat_at_s:
            self._beat(now_s)
        if now_s < self._until_s or self._phase is Phase.CLOSING:
            return
        self._until_s = NEVER_S
        if self._phase is Phase.RESTING and not self._decides_alone:
            self._pick_up(now_s)
        elif self._phase in (Phase.ASKING, Phase.RESTING):
            self._start()
        elif self._phase is Phase.REPORTING:
            self._decide_alone()

    def _look(self, attempt: Attempt, now_s: float) -> None:
        if now_s >= attempt.look_at_s:
            was_progressing = attempt.is_progressing
            attempt.look(now_s=now_s)
            if attempt.is_progressing != was_progressing:
                self._beat_at_s = now_s
            if attempt.hangs:
                attempt.end(Why.HUNG)
        if not attempt.is_paused and attempt.ran_s(now_s=now_s) >= self.terms.timeout_s:
            # The server sees it, too; whoever is first says so.
            attempt.end(Why.OUT_OF_TIME)

    def _decide_alone(self) -> None:
        """What the server would say, if it could."""
        if (backoff_s := self.terms.backoff_s(self.number)) is not None:
            self.number += 1
            self._rest(time.monotonic() + backoff_s)
        elif self.options.waits and self._is_heard:
            self._wait("retries are spent, and the server is away")
        else:
            say("retries are spent")
            self._close(self._exit_code)

    # The command has ended.

    def _on_ended(self, told: news.Ended) -> None:
        end, attempt = told.end, self._attempt
        why, tail = (attempt.why, attempt.tail) if attempt is not None else (None, Tail())
        self._attempt, self._beat_at_s, self._exit_code = None, NEVER_S, end.exit_code
        if end.left:
            say(f"these processes could not be ended: {', '.join(map(str, end.left))}")
        if why is Why.INTERRUPTED:
            self._cancel(end.exit_code)
        elif why in AFTER_ORDER and self._order is not None:
            self._acknowledge(self._order, f"ended all processes; the command {end}")
            self._exit_code = AFTER_ORDER[why]
            self._follow(self._order)
        elif why is Why.SPENT and self._order is not None:
            self._exit_code = TIMED_OUT
            self._follow(self._order)
        elif why in (Why.HUNG, Why.OUT_OF_TIME):
            self._exit_code = TIMED_OUT
            late = f"ran longer than its timeout of {self.terms.timeout_s} s"
            still = f"hung: no output and no processor time for {self.options.hang_after_s:g} s"
            self._fail(f"{still if why is Why.HUNG else late}; it {end}", tail)
        elif end.refused is not None:
            say(f"{self.options.command[0]} {end}")
            self._reports.ended_for_good(self.number, f"{self.options.command[0]} {end}")
            self._close(end.exit_code)
        elif end.code == 0:
            self._is_done = True
            self._reports.completed(self.number, tail)
            self._close(0)
        else:
            self._fail(str(end), tail)

    def _cancel(self, exit_code: int) -> None:
        """Whoever sits here wants it to end."""
        self._reports.cancelled(f"ended by {signal_name(self._signals[0])} where it runs")
        self._close(exit_code)

    # What the server says.

    def _on_beaten(self, told: news.Beaten) -> None:
        self._is_heard = True
        attempt, order = self._attempt, told.order
        if told.attempt != self.number or self._phase not in (Phase.ASKING, Phase.WORKING, Phase.WAITING):
            return
        if attempt is None:
            self._follow(order)
        elif attempt.why is None:
            self._obey(attempt, order)
        elif order.command == "cancel" and attempt.why is not Why.INTERRUPTED:
            self._order, attempt.why = order, Why.CANCEL

    def _obey(self, attempt: Attempt, order: Order) -> None:
        """The command runs, and this is what it shall do."""
        if order.command == "continue" and attempt.is_paused:
            say("going on")
            self._line.listen(False)
            attempt.go_on(anew=self._order is not None and self._order.status == "hitl_paused")
            self._acknowledge(order, "went on")
        elif order.command == "pause" and not attempt.is_paused:
            self._pause(attempt, order)
        elif order.command in ("retry", "cancel"):
            is_cancelled = order.command == "cancel"
            say(f"{'cancelled' if is_cancelled else f'attempt {self.number} was given up'}: {order.why}")
            self._order = order
            attempt.end(Why.CANCEL if is_cancelled else Why.RETRY)

    def _pause(self, attempt: Attempt, order: Order) -> None:
        self._order = order
        say(f"paused: {order.why}")
        if order.status == "hitl_paused" and not self.options.waits:
            attempt.end(Why.SPENT)
        elif self.options.on_pause == "kill":
            attempt.end(Why.PAUSE)
        else:
            stops = self.options.on_pause == "stop"
            attempt.pause(stops=stops)
            self._line.listen(True)
            self._acknowledge(order, "stopped all processes where they are" if stops else "goes on working, as set up")

    def _follow(self, order: Order) -> None:
        """The command does not run, and this is what shall become of it."""
        if order.command == "cancel":
            self._acknowledge(order, "nothing runs any more")
            self._close(self._exit_code or CANCELLED)
            return
        if order.status == "hitl_paused" and not self.options.waits:
            self._reports.ended_for_good(order.attempt, order.why or "retries are spent")
            self._close(self._exit_code)
            return
        self.number = order.attempt
        if order.command == "continue" and self._is_done:
            self._acknowledge(order, "completed it")
            self._reports.completed_after_all(self.number)
            self._close(0)
        elif order.command == "continue":
            self._acknowledge(order, f"started the command as attempt {self.number}")
            self._start()
        elif order.command == "pause" or order.status in ("paused", "hitl_paused"):
            self._acknowledge(order, "nothing runs; waits for a person")
            self._wait(order.why)
        else:
            self._rest(time.monotonic() + FIRST_BACKOFF_S if order.retry_at_s is None else order.retry_at_s)

    def _on_commanded(self, told: news.Commanded) -> None:
        if told.command == "cancel" and self._phase is Phase.RESTING:
            self._close(self._exit_code or CANCELLED)
        elif self._phase in (Phase.WORKING, Phase.WAITING):
            self._beat(time.monotonic())

    def _on_reported(self, told: news.Reported) -> None:
        if told.verb == "register":
            self._on_registered(told)
        elif told.verb == "fail" and self._phase is Phase.REPORTING and told.said["attempt"] == self.number:
            order = news.order_of_state(told.answer)
            if order is None:
                self._is_heard = False
                self._decide_alone()
            else:
                self._follow(order)
        elif told.verb == "complete" and not told.answer.is_good:
            self._on_not_completed(told)
        elif told.verb == "cancel" and told.answer.status == 403:
            # A key for agents alone: how its attempt ended is all that it may tell.
            self._reports.ended_for_good(self.number, told.said["note"])

    def _on_registered(self, told: news.Reported) -> None:
        body = told.answer.body
        self._is_heard = told.answer.is_good and body is not None
        if told.answer.is_good and body is not None:
            self.terms = self.terms.as_registered(body)
            if self._phase is not Phase.CLOSING:
                self._line.most_again_s = min(max(FIRST_AGAIN_S, self.terms.beat_every_s), MOST_AGAIN_S)
        else:
            say(f"the server does not take it: {told.answer.detail.rstrip('.')}. The command runs on its own")
        if self._phase is Phase.ASKING:
            self._start()

    def _on_not_completed(self, told: news.Reported) -> None:
        order = news.order_of_state(told.answer)
        if order is not None and order.status in ("retrying", "running") and order.attempt > self.number:
            # The attempt was given up while it ended: what would be done again is done.
            self.number = order.attempt
            self._reports.completed_after_all(self.number)
        elif order is not None and order.status == "hitl_paused":
            given_up = "the command has completed, but it had been given up"
            if self.options.waits:
                self._wait(given_up)
            else:
                self._reports.ended_for_good(order.attempt, given_up)
        elif self._is_heard:
            say(f"the server did not take the completion: {told.answer.detail}")

    def _on_refused(self, told: news.Refused) -> None:
        if self._is_heard:
            say(f"the server takes no heartbeats: {told.answer.detail.rstrip('.')}. The command runs on")
        self._is_heard = False
        if self._phase is Phase.ASKING:
            self._start()

    def _on_away(self, told: news.Away) -> None:
        if self._phase is Phase.ASKING:
            self._start()
        elif self._phase is Phase.REPORTING:
            self._decide_alone()

    def _on_back(self, _: news.Back) -> None:
        if self._phase is not Phase.CLOSING:
            say("the server is back")

    def _acknowledge(self, order: Order, effect: str) -> None:
        self._reports.acknowledge(order, effect, number=self.number)

    # What whoever sits at the terminal says.

    def _on_signalled(self, told: news.Signalled) -> None:
        self._signals.append(told.number)
        if self._phase is Phase.CLOSING:
            self._until_s = 0.0
        elif self._attempt is None:
            self._cancel(128 + told.number)
        elif self._attempt.why is Why.INTERRUPTED:
            self._attempt.kill()
        else:
            if told.number == signal.SIGINT:
                say("waiting for the command to end; once more kills it")
            self._attempt.interrupt(told.number)
