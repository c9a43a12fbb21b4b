"""Alerts about money, models, the human queue, silent agents and our own jobs."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from alerts.judgements import Judgement, Raise, Settle, fingerprint
from alerts.models import Level
from alerts.wording import clock, interval, message, one_line, size, span, usd
from monitor.models import QueueItem, StateChange, Trip
from monitor.models.money import BudgetScope

# What all projects spend together is not told in one of them.
OF_ALL = ("spent_usd", "limit_usd", "share", "total_cost_usd", "threshold_usd", "cost_by_model", "call_count")
ALL_SPENT = "administrators of the instance see how much, on the page of costs"
# Paused executions and trips have a critical alert of their own.
WAITING_FOR = {"chat": "conversation", "approval": "approval"}


def tripped(change: StateChange, trip: Trip | None) -> Judgement:
    """A budget was passed and work was stopped."""
    facts = _money(change, trip)
    spent, limit = facts.get("total_cost_usd", ""), facts.get("threshold_usd", "")
    calls, models = facts.get("call_count") or 0, facts.get("cost_by_model") or {}
    bad = f"{usd(spent)} spent, the limit is {usd(limit)}; {calls} calls"
    dearest = ", ".join(f"{model} {usd(cost)}" for model, cost in list(models.items())[:3])
    scope, target = facts.get("scope", ""), facts.get("target", "")
    is_shared = scope == BudgetScope.GLOBAL
    return Raise(
        fingerprint=f"trip:{change.subject_id}",
        level=Level.CRITICAL,
        type="budget_tripped",
        title=one_line(f"Budget passed for {_scope(facts)}" + _amounts(facts, spent, limit), 300),
        message=message(
            where=_scope(facts),
            since=clock(change.at),
            bad=ALL_SPENT if is_shared else bad + (f" ({dearest})" if dearest else ""),
            done="further calls in this scope are refused, and what runs there was told to stop.",
            otherwise="it stays stopped until a person resets the trip or the budget renews.",
            path="/costs/trips",
        ),
        data={"trip_id": change.subject_id, "scope": scope, "target": target},
        agent=target if scope == "agent" else "",
        run_id=target if scope == "run" else "",
    )


def trip_reset(change: StateChange, trip: Trip | None) -> Judgement:
    return Settle(f"trip:{change.subject_id}", _by("the trip was reset", change), change.actor)


def trip_over(change: StateChange, trip: Trip | None) -> Judgement:
    return Settle(f"trip:{change.subject_id}", "the budget has renewed", change.actor)


def budget_warning(change: StateChange, about: None) -> Judgement:
    """A budget is nearly used up."""
    return _of_budget(
        change,
        level=Level.WARNING,
        type="budget_warning",
        happened="nearly used up",
        done="nothing was stopped yet.",
        otherwise="at the limit further calls in this scope are refused, if the budget is set to stop.",
    )


def budget_exceeded(change: StateChange, about: None) -> Judgement:
    """A budget that stops nothing was passed: only a person can."""
    return _of_budget(
        change,
        level=Level.CRITICAL,
        type="budget_exceeded",
        happened="passed, and nothing stops it,",
        done="nothing: this budget is set to tell and not to stop.",
        otherwise="the spending goes on.",
    )


def _of_budget(change: StateChange, *, level: str, type: str, happened: str, done: str, otherwise: str) -> Raise:
    """Each window has an episode of its own for each state and limit: none may hide the next."""
    facts = change.data
    spent, limit = facts.get("spent_usd", ""), facts.get("limit_usd", "")
    scope, target = facts.get("scope", ""), facts.get("target", "")
    window = facts.get("window_starts_at", ""), scope, target, facts.get("period", "")
    is_shared = scope == BudgetScope.GLOBAL
    return Raise(
        fingerprint=fingerprint("budget", change.to_state, *window, *([] if is_shared else [limit])),
        level=level,
        type=type,
        title=one_line(f"Budget {happened} for {_scope(facts)}" + _amounts(facts, spent, limit), 300),
        message=message(
            where=_scope(facts),
            since=clock(change.at),
            bad=ALL_SPENT if is_shared else f"{usd(spent)} of {usd(limit)} spent",
            done=done,
            otherwise=otherwise,
            path="/costs",
        ),
        data={name: value for name, value in facts.items() if not (is_shared and name in OF_ALL)},
        agent=target if scope == "agent" else "",
        run_id=target if scope == "run" else "",
    )


def unpriced(change: StateChange, about: None) -> Judgement:
    """A model without a known price is used: its calls are counted, and their cost is not known."""
    model, provider = change.data.get("model") or change.subject_id, change.data.get("provider", "")
    name = f"{model} ({provider})" if provider else model
    return Raise(
        fingerprint=fingerprint("model", change.subject_id),
        level=Level.WARNING,
        type="model_unpriced",
        title=one_line(f"No price is known for calls of model {name}", 300),
        message=message(
            where=f"model {name}" + (f", first used by {change.data['agent']}" if change.data.get("agent") else ""),
            since=clock(change.at),
            bad="no price list has the model, or its calls tell no tokens: they are counted, and no budget sees them.",
            done="each call is marked as unpriced.",
            otherwise="spending on this model stays unseen. Have its calls report their `cost_usd`: that is counted.",
            path="/costs/unpriced",
        ),
        data=dict(change.data),
        agent=str(change.data.get("agent", "")),
    )


def unclaimed(change: StateChange, item: QueueItem | None) -> Judgement:
    """Somebody waits for a person, and nobody has come in time."""
    kind = str(change.data.get("kind", ""))
    waits = WAITING_FOR.get(kind)
    if waits is None:
        return None
    requested_at = item.requested_at if item else None
    waiting = f" It has waited for {span(change.at - requested_at)}." if requested_at else ""
    title, agent = str(change.data.get("title", "")), str(change.data.get("agent", ""))
    where = ["the human queue", *([f"agent {agent}"] if agent else []), *([one_line(title, 120)] if title else [])]
    return Raise(
        fingerprint=f"handover:{change.subject_id}",
        level=Level.WARNING,
        type="handover_unclaimed",
        title=one_line(f"Unclaimed {waits}" + (f": {title}" if title else ""), 300),
        message=message(
            where=", ".join(where),
            since=clock(requested_at or change.at),
            bad=f"the time to claim is over.{waiting}",
            done="it stays in the queue at its place.",
            otherwise="the customer or the work goes on waiting. Claim it.",
            path=f"/queue/{change.subject_id}",
        ),
        data=dict(change.data),
        agent=agent,
        conversation_id=item.conversation.conversation_id if item and item.conversation else "",
    )


def taken(change: StateChange, item: QueueItem | None) -> Judgement:
    return Settle(f"handover:{change.subject_id}", _by(f"it is {change.to_state}", change), change.actor)


def agent_silent(change: StateChange, about: None) -> Judgement:
    """An agent was not heard from for longer than somebody expects."""
    name, facts = change.subject_id, change.data
    last, every = _moment(facts.get("last_seen_at")), timedelta(seconds=int(facts.get("expected_every_s", 0)))
    silent_since = last or _moment(facts.get("expected_since")) or change.at
    silence = f"not heard from {name} for {span(change.at - silent_since)}" if last else f"never heard from {name}"
    return Raise(
        fingerprint=fingerprint("agent", name),
        level=Level.WARNING,
        type="agent_silent",
        title=one_line(f"We have {silence}; it is expected every {interval(every)}", 300),
        message=message(
            where=f"agent {name}",
            since=clock(silent_since),
            bad=f"no execution, call, span or heartbeat of it has reached us; one is due every {interval(every)}.",
            done="we have listened all that time.",
            otherwise="what it should do stays undone. Look at what starts it, or change what is expected of it.",
            path=f"/agents/{quote(name, safe='/')}",
        ),
        data=dict(facts),
        agent=name,
    )


def agent_heard(change: StateChange, about: None) -> Judgement:
    return Settle(fingerprint("agent", change.subject_id), "we hear from it again", change.actor)


def agent_excused(change: StateChange, about: None) -> Judgement:
    every_s = change.data.get("expected_every_s")
    said = (
        f"it is expected every {interval(timedelta(seconds=every_s))} now" if every_s else "nobody expects it any more"
    )
    return Settle(fingerprint("agent", change.subject_id), _by(said, change), change.actor)


def fleet_silent(change: StateChange, about: None) -> Judgement:
    """Many executions fell silent at once: their agents, or we ourselves."""
    silent, running = change.data.get("silent", "many"), change.data.get("running", "many")
    return Raise(
        fingerprint=fingerprint("fleet", change.at.isoformat()),
        level=Level.CRITICAL,
        type="fleet_silent",
        title=f"The fleet is silent: {silent} of {running} running executions at once. Is it us?",
        message=message(
            where="all agents of this project, or the way from them to Handrail",
            since=clock(change.at),
            bad=f"{silent} of {running} running executions stopped sending heartbeats within 2 min",
            done="their verdicts wait for at most 2 min.",
            otherwise="they are judged one by one and retried. Look at the network and at Handrail itself first.",
            path="/executions?status=running",
        ),
        data={**change.data, "silent_at": change.at.isoformat()},
    )


def job_silent(change: StateChange, about: None) -> Judgement:
    """A periodic job or a process of ours has stopped."""
    name, facts = change.subject_id, change.data
    last = _moment(facts.get("last_ok_at"))
    every_s = float(facts.get("every_s", 0))
    error = one_line(str(facts.get("error", "")), 300)
    what = "The process" if name.startswith("process:") else "The periodic job"
    return Raise(
        fingerprint=fingerprint("job", name),
        level=Level.CRITICAL,
        type="job_silent",
        title=one_line(f"{what} {name.removeprefix('process:')} of Handrail itself is silent", 300),
        message=message(
            where=f"Handrail itself, {name}" + (f" on {facts['node']}" if facts.get("node") else ""),
            since=f"last success {clock(last)}" if last else f"{clock(change.at)}; it has never succeeded",
            bad=f"it should run every {every_s:g} s" + (f"; last error: {error}" if error else ""),
            done="the other processes go on, and the web processes turn the crank when nobody else does.",
            otherwise="what this job watches is not watched. Look at its log and start it again.",
            path="/system",
        ),
        data={**facts, "job": name},
    )


def job_back(change: StateChange, about: None) -> Judgement:
    return Settle(fingerprint("job", change.subject_id), "it runs again", change.actor)


def room_tight(change: StateChange, about: None) -> Judgement:
    """The disk of the database, or the limit that was set for it, is nearly used up."""
    return _of_room(
        change,
        level=Level.WARNING,
        type="room_tight",
        done="nothing was stopped, and nothing was deleted but what is old.",
        otherwise=f"at {_percent(change.data.get('stops_at'))} agents' new work is refused until there is room again.",
    )


def room_out(change: StateChange, about: None) -> Judgement:
    """So little is left that agents' doors are shut."""
    return _of_room(
        change,
        level=Level.CRITICAL,
        type="room_out",
        done="traces, batches, calls, new executions and new conversations are refused; who sent them tries again. "
        "Heartbeats, ends, messages and everything that people do still work.",
        otherwise="what agents report is lost once they can't hold it any longer.",
    )


def room_not_out(change: StateChange, about: None) -> Judgement:
    return Settle("room:room_out", "there is room for what agents report again")


def roomy(change: StateChange, about: None) -> Judgement:
    return Settle("room:room_tight", "there is room again")


def _of_room(change: StateChange, *, level: str, type: str, done: str, otherwise: str) -> Raise:
    facts = change.data
    what = "disk" if facts.get("is_disk") else "room of the database"
    left = int(facts.get("total_bytes", 0)) - int(facts.get("used_bytes", 0))
    return Raise(
        fingerprint=fingerprint("room", type),
        level=level,
        type=type,
        title=f"The {what} is {_percent(facts.get('share'))} full",
        message=message(
            where=f"Handrail itself, the {what}",
            since=clock(change.at),
            bad=f"{size(left)} of {size(facts.get('total_bytes', 0))} are left.",
            done=done,
            otherwise=otherwise,
            path="/system/growth",
        ),
        data=dict(facts),
    )


def _percent(share: Any) -> str:
    return f"{100 * float(share or 0):.0f} %"


def _money(change: StateChange, trip: Trip | None) -> dict[str, Any]:
    """The trip's own figures, then those that came with the change."""
    names = ("scope", "target", "period", "total_cost_usd", "threshold_usd", "cost_by_model", "call_count")
    own = {name: getattr(trip, name) for name in names} if trip else {}
    return {**change.data, **own}


def _amounts(facts: dict[str, Any], spent: Any, limit: Any) -> str:
    return "" if facts.get("scope") == BudgetScope.GLOBAL else f": {usd(spent)} of {usd(limit)}"


def _scope(facts: dict[str, Any]) -> str:
    scope, target, period = (str(facts.get(name, "")) for name in ("scope", "target", "period"))
    if scope == "global":
        name = "all projects together"
    elif scope == "project" or not scope:
        name = "the whole project"
    else:
        name = f"{scope} {target}".strip()
    return f"{name}, per {period}" if period and period != scope else name


def _by(said: str, change: StateChange) -> str:
    return f"{said} ({change.actor})" if change.actor else said


def _moment(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None
