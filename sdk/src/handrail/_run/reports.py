"""What the server is told of one supervised execution."""

from __future__ import annotations

from typing import Any

from handrail._run.attempt import Attempt
from handrail._run.line import Line
from handrail._run.news import Order
from handrail._run.options import Options
from handrail._run.tail import Tail

MESSAGE_LINES, MESSAGE_CHARACTERS = 3, 500
OUTPUT_LINES, OUTPUT_CHARACTERS = 20, 4000
EFFECT_CHARACTERS = 500


class Reports:
    """Says it in the server's words; the line brings it there."""

    def __init__(self, line: Line, options: Options) -> None:
        self._line = line
        self._options = options
        self._result: dict[str, Any] = {}
        self._acknowledged: int | None = None

    def register(self, execution_id: str, run_id: str) -> None:
        options = self._options
        known = {
            "id": execution_id,
            "agent": options.agent,
            "run_id": run_id,
            "task": options.task,
            "department": options.department,
            "parent_id": options.parent_id,
            "timeout_s": options.timeout_s,
            "heartbeat_s": options.heartbeat_s,
            "max_retries": options.retries,
        }
        self._line.report("register", **{name: value for name, value in known.items() if value is not None})

    def beat(self, number: int, attempt: Attempt | None) -> None:
        body: dict[str, Any] = {"attempt": number}
        if attempt is not None:
            body["progressing"] = attempt.is_progressing
            if message := self._shown(attempt.tail, MESSAGE_LINES)[-MESSAGE_CHARACTERS:]:
                body["message"] = message
        self._line.beat(**body)

    def failed(self, number: int, what: str, tail: Tail) -> None:
        """The attempt has failed; the next may do better."""
        self._line.report("fail", attempt=number, error=self._with_output(what, tail), retryable=True)

    def ended_for_good(self, number: int, what: str, tail: Tail | None = None) -> None:
        """It has failed, and there will be no further attempt."""
        error = what if tail is None else self._with_output(what, tail)
        self._line.report("fail", attempt=number, error=error, retryable=False)

    def completed(self, number: int, tail: Tail) -> None:
        self._result = {"exit_code": 0}
        if output := self._shown(tail, OUTPUT_LINES)[-OUTPUT_CHARACTERS:]:
            self._result["output"] = output
        self.completed_after_all(number)

    def completed_after_all(self, number: int) -> None:
        """The work that is done already counts for this attempt."""
        self._line.report("complete", attempt=number, output=self._result)

    def cancelled(self, note: str) -> None:
        """Whoever sits here has ended it. A key for agents alone may not say so: see `Reported`."""
        self._line.report("cancel", note=note)

    def acknowledge(self, order: Order, effect: str, *, number: int) -> None:
        """Tell what was done with an order, once."""
        if order.seq is not None and order.seq != self._acknowledged:
            self._acknowledged = order.seq
            self._line.report("acknowledge", seq=order.seq, effect=effect[:EFFECT_CHARACTERS], attempt=number)

    def _with_output(self, what: str, tail: Tail) -> str:
        return f"{what}\n{self._shown(tail, OUTPUT_LINES)[-OUTPUT_CHARACTERS:]}".strip()

    def _shown(self, tail: Tail, lines: int) -> str:
        return "\n".join(tail.lines(lines)) if self._options.tells_output else ""
