"""Alerts about executions: one episode each, warning at the first verdict, critical when a person is needed."""

from uuid import UUID

from alerts.judgements import Judgement, Raise, Remark, Settle
from alerts.models import Level
from alerts.wording import clock, message, one_line, usd
from monitor.models import Execution, StateChange
from monitor.models.executions import Verdict

# What happened to the attempt, as the end of "Agent x …".
HAPPENED = {
    Verdict.ZOMBIE: "stopped sending heartbeats",
    Verdict.TIMED_OUT: "ran out of time",
    Verdict.NOT_PICKED_UP: "did not pick up its next attempt",
    Verdict.STALLED: "is alive but makes no progress",
    Verdict.ERROR: "failed with an error",
}


def fingerprint(change: StateChange) -> str:
    """One episode per execution, whatever goes wrong with it."""
    return f"execution:{change.subject_id}"


def attempt_given_up(change: StateChange, execution: Execution | None) -> Judgement:
    """A verdict with retries left: a warning."""
    return _raise(
        change,
        execution,
        level=Level.WARNING,
        type=f"execution_{change.cause}",
        title=f"{_agent(change, execution)} {_happened(change, execution)}",
        done="a retry was ordered. The agent begins it with its next heartbeat.",
        otherwise="Handrail goes on retrying. When the retries are spent, the work stops and waits for a person.",
    )


def paused_for_a_human(change: StateChange, execution: Execution | None) -> Judgement:
    """The retries are spent: critical, whatever the level was before."""
    return _raise(
        change,
        execution,
        level=Level.CRITICAL,
        type="execution_paused",
        title=f"{_agent(change, execution)} {_happened(change, execution)} and waits for a person",
        done="the work was stopped and put into the human queue. Nothing more is retried by itself.",
        otherwise="the work stays where it is. Resume, retry or cancel it.",
    )


def stalled(change: StateChange, execution: Execution | None) -> Judgement:
    """It beats and does not move, and was to be left running: a warning."""
    return _raise(
        change,
        execution,
        level=Level.WARNING,
        type=f"execution_{change.cause}",
        title=f"{_agent(change, execution)} {HAPPENED[Verdict.STALLED]}",
        done="nothing was stopped. The attempt goes on, and its heartbeats arrive.",
        otherwise="it goes on like this until it moves or its timeout is over. Retry or cancel it if its work hangs.",
    )


def moves_again(change: StateChange, execution: Execution | None) -> Judgement:
    """Progress after a stall."""
    return Settle(fingerprint(change), f"the work {change.note or 'moves again'}", "")


def late_heartbeat(change: StateChange, execution: Execution | None) -> Judgement:
    """The agent was given up and is heard of again: a line in the timeline."""
    note = change.note or f"a heartbeat came late, at {clock(change.at)}"
    return Remark(fingerprint(change), note)


def runs_again(change: StateChange, execution: Execution | None) -> Judgement:
    """Picked up again after a verdict, by itself or by a person's decision."""
    by = f" after {change.actor} decided so" if _by_a_person(change) else ""
    return Settle(fingerprint(change), f"the work goes on{by}", change.actor if by else "")


def ended(change: StateChange, execution: Execution | None) -> Judgement:
    """No more than the end of an open episode: an error that nobody retries is counted by the error rate."""
    by = f" by {change.actor}" if _by_a_person(change) else ""
    return Settle(fingerprint(change), f"the execution is {change.to_state}{by}", change.actor if by else "")


def _raise(
    change: StateChange, execution: Execution | None, *, level: str, type: str, title: str, done: str, otherwise: str
) -> Raise:
    return Raise(
        fingerprint=fingerprint(change),
        level=level,
        type=type,
        title=one_line(title, 300),
        message=message(
            where=_where(change, execution),
            since=_since(change, execution),
            bad=_bad(change, execution),
            done=done,
            otherwise=otherwise,
            path=f"/executions/{change.subject_id}",
        ),
        data={"cause": change.cause, "attempt": change.attempt, "state": change.to_state},
        agent=execution.agent if execution else str(change.data.get("agent") or ""),
        run_id=execution.run_id if execution else "",
        execution_id=UUID(change.subject_id),
        conversation_id=execution.conversation_id if execution else "",
    )


def _agent(change: StateChange, execution: Execution | None) -> str:
    return execution.agent if execution else str(change.data.get("agent") or "An agent")


def _happened(change: StateChange, execution: Execution | None) -> str:
    causes = [change.cause, change.data.get("verdict"), execution.verdict if execution else ""]
    return next((HAPPENED[Verdict(cause)] for cause in causes if cause in HAPPENED), "was stopped")


def _where(change: StateChange, execution: Execution | None) -> str:
    if execution is None:
        return f"execution {change.subject_id}"
    parts = [f"agent {execution.agent}"]
    if execution.task:
        parts.append(f"task “{one_line(execution.task, 120)}”")
    if execution.run_id:
        parts.append(f"run {execution.run_id}")
    if execution.conversation_id:
        parts.append(f"conversation {execution.conversation_id}")
    return ", ".join([*parts, f"execution {change.subject_id}"])


def _since(change: StateChange, execution: Execution | None) -> str:
    last = execution.last_heartbeat_at if execution else None
    return clock(change.at) + (f". Last heartbeat {clock(last)}" if last else "")


def _bad(change: StateChange, execution: Execution | None) -> str:
    if execution is None:
        return "the execution is no longer stored"
    attempt = change.attempt or execution.attempt
    parts = [f"attempt {attempt} of {execution.max_retries + 1}", f"{usd(execution.cost_usd)} spent so far"]
    reason = execution.error if change.cause == Verdict.ERROR else ""
    if reason or change.note:
        parts.append(one_line(reason or change.note, 300))
    return "; ".join(parts)


def _by_a_person(change: StateChange) -> bool:
    """People act by their email; keys and our own jobs have other names."""
    return "@" in change.actor
