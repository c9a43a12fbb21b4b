"""Alerts about work that goes on without getting on: a loop, and a trace of which nothing comes any more."""

from datetime import datetime
from typing import Any
from uuid import UUID

from alerts.judgements import Judgement, Raise, Settle
from alerts.models import Level
from alerts.verdicts import fingerprint
from alerts.wording import clock, message, one_line, span
from monitor.models import Execution, StateChange


def loops(change: StateChange, about: None) -> Judgement:
    """The same calls again and again: one episode for each finding, told again when it has doubled."""
    facts = change.data
    agent, rounds = facts.get("agent") or "An agent", facts["rounds"]
    since, until = _moment(facts["first_at"]), _moment(facts["last_at"])
    tools = " and ".join(one["tool"] for one in facts["cycle"])
    often = f"{rounds} times since {since:%H:%M}"
    answers = "equal calls got different answers" if facts["answers_differ"] else "equal calls got equal answers"
    execution_id = facts.get("execution_id")
    return Raise(
        fingerprint=f"loop:{change.subject_id}",
        level=Level.WARNING,
        type="tool_loop",
        title=one_line(f"{agent} calls {tools} with the same arguments again and again: {often}", 300),
        message=message(
            where=_of_agent(change) + (f", execution {execution_id}" if execution_id else f", span {facts['span']}"),
            since=f"{clock(since)}. Last call {clock(until)}",
            bad=f"{facts['calls']} calls in {rounds} rounds; {answers}: "
            + one_line("; ".join(f"{one['tool']} {one['arguments']}" for one in facts["cycle"]), 400),
            done="nothing: the agent is not stopped.",
            otherwise="it goes on calling and paying. Look what it waits for, and cancel it if it is stuck. "
            "A tool that may be polled can be exempted for the project.",
            path=f"/executions/{execution_id}" if execution_id else "/executions",
        ),
        data=dict(facts),
        agent=facts.get("agent", ""),
        run_id=facts.get("run_id", ""),
        execution_id=UUID(execution_id) if execution_id else None,
    )


def loop_over(change: StateChange, about: None) -> Judgement:
    return Settle(f"loop:{change.subject_id}", change.data.get("end") or "the loop is over")


def trace_silent(change: StateChange, execution: Execution | None) -> Judgement:
    """An agent's span is open, and nothing comes of its trace."""
    facts = change.data
    agent = facts.get("agent") or "An agent"
    began, sign = _moment(facts["started_at"]), _moment(facts["sign_at"])
    open_for = span(change.at - began)
    return Raise(
        fingerprint=fingerprint(change),
        level=Level.WARNING,
        type="trace_silent",
        title=one_line(f"{agent}: its span has been open for {open_for} and nothing has come since {sign:%H:%M}", 300),
        message=message(
            where=f"{_of_agent(change)}, execution {change.subject_id}",
            since=f"{clock(began)}. Newest span {clock(sign)}",
            bad=f"silent for {span(change.at - sign)}; only its trace tells of it, so nobody can ask it",
            done="nothing: it takes no commands.",
            otherwise="after the project's limit it counts as timed out. Look whether the program lives.",
            path=f"/executions/{change.subject_id}",
        ),
        data=dict(facts),
        agent=facts.get("agent", ""),
        run_id=facts.get("run_id", ""),
        execution_id=UUID(change.subject_id),
        conversation_id=execution.conversation_id if execution else "",
    )


def trace_heard(change: StateChange, execution: Execution | None) -> Judgement:
    return Settle(fingerprint(change), change.note)


def _of_agent(change: StateChange) -> str:
    agent, run_id = change.data.get("agent"), change.data.get("run_id")
    return (f"agent {agent}" if agent else "an agent") + (f", run {run_id}" if run_id else "")


def _moment(value: Any) -> datetime:
    return datetime.fromisoformat(value)
