"""Watches over one command: starts it, beats for it, ends it, starts it again, as the server says or in its stead.

One thread decides, here, about one piece of news after the other. What the server says holds; while it is away the
same rules are kept here, and it is told when it is back.
"""

from __future__ import annotations

import enum
import errno
import queue
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from handrail._run import news, words
from handrail._run.attempt import Attempt, Why
from handrail._run.command import End, signal_name
from handrail._run.line import Line
from handrail._run.news import Order
from handrail._run.options import Options
from handrail._settings import Settings
from handrail._transport import Transport

DEFAULT_TIMEOUT_S, DEFAULT_HEARTBEAT_S, DEFAULT_RETRIES = 60, 30, 3
FIRST_BACKOFF_S, MOST_BACKOFF_S = 2.0, 60.0
# How long a start waits for the server's word, and an end for it to take the last reports.
WORD_S = 3.0
FAREWELL_S = 10.0
BEATS_PER_INTERVAL = 3
TIMED_OUT, CANCELLED = 124, 143
# The exit code when an order ended the command and nothing came after it.
DONE_WITH = {Why.CANCEL: CANCELLED, Why.PAUSE: CANCELLED, Why.RETRY: TIMED_OUT}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Phase(enum.Enum):
    ASKING = "the server's word is waited for before the command starts"
    WORKING = "the command runs"
    REPORTING = "it has ended, and the server says what now"
    RESTING = "the next attempt waits for its time"
    WAITING = "a person decides"
    CLOSING = "all is over; the server hears the rest"


class Supervisor:
    def __init__(self, options: Options, settings: Settings, *, environ: Mapping[str, str]) -> None:
        self.options = options
        self.execution_id = str(uuid.uuid4())
        self.run_id = options.run_id or self.execution_id
        self.number = 1
        self.timeout_s = options.timeout_s or DEFAULT_TIMEOUT_S
        self.heartbeat_s = options.heartbeat_s or DEFAULT_HEARTBEAT_S
        self.retries = DEFAULT_RETRIES if options.retries is None else options.retries
        self._environ = dict(environ) | {"HANDRAIL_EXECUTION_ID": self.execution_id, "HANDRAIL_RUN_ID": self.run_id}
        if settings.url:
            self._environ["HANDRAIL_URL"] = settings.url
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        transport = Transport(settings) if settings.is_complete else None
        self._line = Line(transport, self.execution_id, self._news.put)
        # Whether the server takes our heartbeats.
        self._is_heard = transport is not None
        self._phase = Phase.ASKING
        self._attempt: Attempt | None = None
        self._order: Order | None = None
        self._signals: list[int] = []
        # The work is done, and the server could not take that yet.
        self._is_done = False
        self._failure = ""
        self._result: dict[str, Any] = {}
        self._acknowledged: int | None = None
        self._exit_code = 0
        self._until_s = self._beat_at_s = float("inf")
        self._takes = {
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
        with self._hearing_signals():
            self._register()
            while not self._is_over():
                try:
                    told = self._news.get(timeout=self._due_in_s())
                except queue.Empty:
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
        return time.monotonic() >= self._until_s or (not self._line.unsent and self._news.empty())

    # Beginning, beating, looking.

    def _register(self) -> None:
        given = {"timeout_s": self.options.timeout_s, "heartbeat_s": self.options.heartbeat_s}
        known = given | {"max_retries": self.options.retries, "parent_id": self.options.parent_id}
        self._until_s = time.monotonic() + WORD_S
        self._line.report(
            "register",
            id=self.execution_id,
            agent=self.options.agent,
            run_id=self.run_id,
            task=self.options.task,
            department=self.options.department,
            **{name: value for name, value in known.items() if value is not None},
        )

    def _start(self) -> None:
        self._line.listen(False)
        self._phase, self._order, self._is_done = Phase.WORKING, None, False
        self._beat_at_s, self._until_s = time.monotonic(), float("inf")
        try:
            self._attempt = Attempt(
                self.options.command,
                environ=self._environ | {"HANDRAIL_ATTEMPT": str(self.number)},
                hang_after_s=self.options.hang_after_s,
                grace_s=self.options.grace_s,
                ended=lambda end: self._news.put(news.Ended(end)),
            )
        except OSError as error:
            self._on_ended(news.Ended(End(None, refused=error.errno or errno.ENOEXEC)))

    def _due_in_s(self) -> float | None:
        due_s = min(self._until_s, self._beat_at_s)
        if self._attempt is not None and self._attempt.why is None:
            due_s = min(due_s, self._attempt.look_at_s)
            if self._decides_alone and not self._attempt.is_paused:
                due_s = min(due_s, time.monotonic() + self.timeout_s - self._attempt.ran_s(now_s=time.monotonic()))
        return None if due_s == float("inf") else max(0.0, due_s - time.monotonic())

    @property
    def _decides_alone(self) -> bool:
        return self._line.is_away or not self._is_heard

    def _on_time(self, now_s: float) -> None:
        if now_s >= self._until_s and self._phase is not Phase.CLOSING:
            self._until_s = float("inf")
            if self._phase is Phase.RESTING and not self._decides_alone:
                self._pick_up(now_s)
            elif self._phase in (Phase.ASKING, Phase.RESTING):
                self._start()
            elif self._phase is Phase.REPORTING:
                self._decide_alone()
        attempt = self._attempt
        if attempt is not None and attempt.why is None:
            if now_s >= attempt.look_at_s and attempt.is_progressing != attempt.look(now_s=now_s):
                self._beat_at_s = now_s
            if attempt.hangs(now_s=now_s):
                say(f"no output and no processor time for {self.options.hang_after_s:g} s; ending it")
                attempt.end(Why.HUNG)
            elif self._decides_alone and not attempt.is_paused and attempt.ran_s(now_s=now_s) >= self.timeout_s:
                say(f"it ran longer than {self.timeout_s} s and the server is away; ending it")
                attempt.end(Why.OUT_OF_TIME)
        if now_s >= self._beat_at_s:
            self._beat(now_s)

    def _beat(self, now_s: float) -> None:
        self._beat_at_s = now_s + self.heartbeat_s / BEATS_PER_INTERVAL
        body: dict[str, Any] = {"attempt": self.number}
        if self._attempt is not None:
            body["progressing"] = self._attempt.is_progressing
            if self.options.tells_output and (message := words.message(self._attempt.tail)):
                body["message"] = message
        self._line.beat(**body)

    def _pick_up(self, now_s: float) -> None:
        """The new attempt's first beat asks whether it may start."""
        self._phase, self._until_s = Phase.ASKING, now_s + WORD_S
        self._beat(now_s)

    # The command has ended.

    def _on_ended(self, told: news.Ended) -> None:
        end, attempt = told.end, self._attempt
        why = attempt.why if attempt is not None else None
        self._exit_code = end.exit_code
        self._beat_at_s = float("inf")
        output = words.output(attempt.tail) if attempt is not None and self.options.tells_output else ""
        self._attempt = None
        if end.left:
            say(f"these processes could not be ended: {', '.join(map(str, end.left))}")
        if why is Why.INTERRUPTED:
            self._cancel(end.exit_code)
        elif why in DONE_WITH and self._order is not None:
            self._acknowledge(self._order, f"ended all processes; the command {end}")
            self._exit_code = DONE_WITH[why]
            self._follow(self._order)
        elif why is Why.SPENT:
            self._close(TIMED_OUT)
        elif why in (Why.HUNG, Why.OUT_OF_TIME):
            self._exit_code = TIMED_OUT
            late = f"ran longer than its timeout of {self.timeout_s} s"
            still = f"hung: no output and no processor time for {self.options.hang_after_s:g} s"
            self._fail(f"{still if why is Why.HUNG else late}; it {end}", output)
        elif end.refused is not None:
            say(f"{self.options.command[0]} {end}")
            self._line.report("fail", attempt=self.number, error=f"{self.options.command[0]} {end}", retryable=False)
            self._close(end.exit_code)
        elif end.code == 0:
            self._complete(output)
        else:
            self._fail(str(end), output)

    def _complete(self, output: str) -> None:
        self._phase, self._is_done = Phase.CLOSING, True
        self._until_s = time.monotonic() + FAREWELL_S
        self._result = {"exit_code": 0, "output": output} if output else {"exit_code": 0}
        self._line.report("complete", attempt=self.number, output=self._result)

    def _fail(self, what: str, output: str) -> None:
        self._phase, self._until_s = Phase.REPORTING, time.monotonic() + WORD_S
        self._failure = what
        self._line.report("fail", attempt=self.number, error=f"{what}\n{output}".strip(), retryable=True)

    def _decide_alone(self) -> None:
        """What the server would say, if it could."""
        if self.number <= self.retries:
            self.number += 1
            backoff_s = min(FIRST_BACKOFF_S * 2.0 ** (self.number - 2), MOST_BACKOFF_S)
            self._rest(backoff_s)
        elif self.options.waits and self._is_heard:
            self._wait()
        else:
            say(f"the command {self._failure}; retries are spent")
            self._close(self._exit_code)

    def _rest(self, seconds: float) -> None:
        say(f"attempt {self.number} starts in {seconds:.0f} s")
        self._phase, self._until_s, self._beat_at_s = Phase.RESTING, time.monotonic() + seconds, float("inf")
        self._line.listen(True)

    def _wait(self, reason: str = "") -> None:
        if self._phase is not Phase.WAITING:
            say(f"waiting for a person{': ' if reason else ''}{reason.splitlines()[0] if reason else ''}")
        self._phase, self._until_s = Phase.WAITING, float("inf")
        self._beat_at_s = min(self._beat_at_s, time.monotonic() + self.heartbeat_s / BEATS_PER_INTERVAL)
        self._line.listen(True)

    def _close(self, exit_code: int) -> None:
        self._phase, self._exit_code = Phase.CLOSING, exit_code
        self._until_s, self._beat_at_s = time.monotonic() + FAREWELL_S, float("inf")

    def _cancel(self, exit_code: int) -> None:
        """Whoever sits here wants it to end."""
        self._line.report("cancel", note=f"ended by {signal_name(self._signals[0])} where it runs")
        self._close(exit_code)

    # What the server says.

    def _on_beaten(self, told: news.Beaten) -> None:
        self._is_heard = True
        if told.attempt != self.number or self._phase in (Phase.REPORTING, Phase.RESTING, Phase.CLOSING):
            return
        attempt, order = self._attempt, told.order
        if attempt is None:
            self._follow(order)
        elif attempt.why is None:
            self._obey(attempt, order)
        elif order.command == "cancel" and attempt.why is not Why.INTERRUPTED:
            self._order, attempt.why = order, Why.CANCEL

    def _obey(self, attempt: Attempt, order: Order) -> None:
        """The command runs, and this is what it shall do."""
        if order.command == "continue":
            if attempt.is_paused:
                say("going on")
                self._line.listen(False)
                attempt.go_on(anew=self._order is not None and self._order.status == "hitl_paused")
                self._acknowledge(order, "went on")
        elif order.command == "pause":
            if not attempt.is_paused:
                self._pause(attempt, order)
        elif order.command in ("retry", "cancel"):
            done = "cancelled" if order.command == "cancel" else "this attempt was given up"
            say(f"{done}: {words.first_line(order.reason)}")
            self._order = order
            attempt.end(Why.CANCEL if order.command == "cancel" else Why.RETRY)

    def _pause(self, attempt: Attempt, order: Order) -> None:
        self._order = order
        if order.status == "hitl_paused" and not self.options.waits:
            attempt.end(Why.SPENT)
            return
        say(f"paused: {words.first_line(order.reason)}")
        if self.options.on_pause == "kill":
            attempt.end(Why.PAUSE)
            return
        stops = self.options.on_pause == "stop"
        attempt.pause(stops=stops)
        self._line.listen(True)
        self._acknowledge(order, "stopped all processes where they were" if stops else "goes on working, as it was told")

    def _follow(self, order: Order) -> None:
        """The command does not run, and this is what shall become of it."""
        if order.command == "cancel":
            self._acknowledge(order, "nothing runs any more")
            self._close(self._exit_code or CANCELLED)
        elif order.status == "hitl_paused" and not self.options.waits:
            self._close(self._exit_code)
        elif order.command == "continue" and self._is_done:
            self.number = order.attempt
            self._acknowledge(order, "completed it")
            self._line.report("complete", attempt=self.number, output=self._result)
            self._close(0)
        elif order.command == "continue":
            self.number = order.attempt
            self._acknowledge(order, f"started the command as attempt {self.number}")
            self._start()
        elif order.command == "pause" or order.status in ("paused", "hitl_paused"):
            self.number = order.attempt
            self._acknowledge(order, "nothing runs; waits")
            self._wait(order.reason)
        else:
            self.number = order.attempt
            self._rest(FIRST_BACKOFF_S if order.retry_in_s is None else order.retry_in_s)

    def _on_commanded(self, told: news.Commanded) -> None:
        if told.command == "cancel" and self._phase is Phase.RESTING:
            self._close(self._exit_code or CANCELLED)
        elif self._phase is Phase.WAITING or (self._attempt is not None and self._attempt.why is None):
            self._beat(time.monotonic())

    def _on_reported(self, told: news.Reported) -> None:
        handled = {"register": self._on_registered, "fail": self._on_failed, "complete": self._on_completed}
        if told.verb in handled:
            handled[told.verb](told)
        elif told.verb == "cancel" and told.answer.status == 403:
            # A key for agents alone: the attempt's end is all that it may tell.
            note = told.said["note"]
            self._line.report("fail", attempt=self.number, error=note, retryable=False)

    def _on_registered(self, told: news.Reported) -> None:
        body = told.answer.body
        if told.answer.is_good and isinstance(body, dict):
            self._is_heard = True
            self.timeout_s = int(body.get("timeout_s", self.timeout_s))
            self.heartbeat_s = int(body.get("heartbeat_s", self.heartbeat_s))
            self.retries = int(body.get("max_retries", self.retries))
        else:
            self._is_heard = False
            say(f"the server does not take it: {told.answer.detail}. The command runs on its own")
        if self._phase is Phase.ASKING and self._attempt is None:
            self._start()

    def _on_failed(self, told: news.Reported) -> None:
        if self._phase is not Phase.REPORTING or told.said["attempt"] != self.number:
            return
        order = news.order_of_state(told.answer)
        if order is None:
            self._is_heard = False
            self._decide_alone()
            return
        self._follow(order)

    def _on_completed(self, told: news.Reported) -> None:
        if told.answer.is_good or self._phase is not Phase.CLOSING:
            return
        order = news.order_of_state(told.answer)
        if order is not None and order.status in ("retrying", "running") and order.attempt > self.number:
            # The attempt was given up while it ended: what would be done again is done.
            self.number = order.attempt
            self._line.report("complete", attempt=self.number, output=self._result)
        elif order is not None and order.status == "hitl_paused" and self.options.waits:
            self._wait("the command has completed, but it had been given up")
        else:
            say(f"the server did not take the completion: {told.answer.detail}")

    def _on_refused(self, told: news.Refused) -> None:
        if self._is_heard:
            say(f"the server takes no heartbeats: {told.answer.detail}. The command runs on")
        self._is_heard = False
        if self._phase is Phase.ASKING and self._attempt is None:
            self._start()

    def _on_away(self, told: news.Away) -> None:
        if self._phase is Phase.ASKING and self._attempt is None:
            self._start()
        elif self._phase is Phase.REPORTING:
            self._decide_alone()

    def _on_back(self, _: news.Back) -> None:
        if self._phase is not Phase.CLOSING:
            say("the server is back")

    def _acknowledge(self, order: Order, effect: str) -> None:
        """Tell what was done with an order, once."""
        if order.seq is not None and order.seq != self._acknowledged:
            self._acknowledged = order.seq
            self._line.report("acknowledge", seq=order.seq, effect=effect[:500], attempt=self.number)

    # What is said at the terminal.

    def _on_signalled(self, told: news.Signalled) -> None:
        self._signals.append(told.number)
        if self._attempt is None:
            if self._phase is not Phase.CLOSING:
                self._cancel(128 + told.number)
            elif len(self._signals) > 1:
                self._until_s = 0.0
        elif self._attempt.why is Why.INTERRUPTED:
            self._attempt.kill()
        else:
            if told.number == signal.SIGINT:
                say("waiting for the command to end; once more kills it")
            self._attempt.interrupt(told.number)

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        def hear(number: int, _: object) -> None:
            self._news.put(news.Signalled(number))

        # What whoever started us ignores, as nohup does, stays ignored.
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, hear) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def say(sentence: str) -> None:
    """A word to whoever sits at the terminal."""
    try:
        print(f"handrail: {sentence}.", file=sys.stderr, flush=True)
    except OSError:
        pass  # Nobody sits there.
