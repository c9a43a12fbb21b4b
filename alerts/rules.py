"""What a change of state means for people: a table from causes to judgements.

The first line of RULES that fits decides; what no line fits concerns nobody. A judgement is a pure function of the
change and the row that it is about: the words stand in verdicts.py and signs.py (executions) and troubles.py (all
else). What ends without a change of its own is looked at in endings.py.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from alerts import signs, troubles, verdicts
from alerts.judgements import Judgement
from monitor.models import RoomLevel, StateChange, Subject
from monitor.models.executions import ENDED, Status, Verdict
from monitor.models.queue import CLOSED_ITEMS, HELD, ItemStatus

GIVEN_UP = (Status.RETRYING, Status.HITL_PAUSED)


class Rule(NamedTuple):
    """A line of the table; what is left empty fits everything."""

    subject: str
    conclude: Callable[[StateChange, Any], Judgement]
    to: Iterable[str] = ()
    was: Iterable[str] = ()
    causes: Iterable[str] = ()

    def fits(self, change: StateChange) -> bool:
        return (
            change.subject == self.subject
            and (not self.to or change.to_state in self.to)
            and (not self.was or change.from_state in self.was)
            and (not self.causes or change.cause in self.causes)
        )


RULES = (
    Rule(Subject.LOOP, signs.loops, to=["found", "found_again", "goes_on"]),
    Rule(Subject.LOOP, signs.loop_over, to=["over", "withdrawn"]),
    Rule(Subject.EXECUTION, signs.trace_silent, causes=["trace_silent"]),
    Rule(Subject.EXECUTION, signs.trace_heard, causes=["trace_heard"]),
    Rule(Subject.EXECUTION, verdicts.late_heartbeat, causes=["came_back"]),
    Rule(Subject.EXECUTION, verdicts.stalled, to=[Status.RUNNING], causes=[Verdict.STALLED]),
    Rule(Subject.EXECUTION, verdicts.moves_again, causes=["progressing"]),
    Rule(Subject.EXECUTION, verdicts.paused_for_a_human, to=[Status.HITL_PAUSED]),
    Rule(Subject.EXECUTION, verdicts.attempt_given_up, to=[Status.RETRYING], causes=Verdict.values),
    Rule(Subject.EXECUTION, verdicts.runs_again, to=[Status.RUNNING, Status.RETRYING], was=GIVEN_UP),
    Rule(Subject.EXECUTION, verdicts.ended, to=ENDED),
    Rule(Subject.TRIP, troubles.trip_reset, to=["reset"]),
    Rule(Subject.TRIP, troubles.trip_over, to=["closed"]),
    Rule(Subject.TRIP, troubles.tripped, to=["open"]),
    Rule(Subject.BUDGET, troubles.budget_warning, to=["warned"]),
    Rule(Subject.BUDGET, troubles.budget_exceeded, to=["exceeded"]),
    Rule(Subject.MODEL, troubles.unpriced, to=["unpriced"]),
    Rule(Subject.QUEUE_ITEM, troubles.unclaimed, causes=["claim_breached"]),
    Rule(Subject.QUEUE_ITEM, troubles.taken, to=[*HELD, *CLOSED_ITEMS], was=[ItemStatus.PENDING]),
    Rule(Subject.AGENT, troubles.agent_silent, to=["silent"]),
    Rule(Subject.AGENT, troubles.agent_heard, to=["heard"]),
    Rule(Subject.AGENT, troubles.agent_excused, to=["excused"]),
    Rule(Subject.JOB, troubles.fleet_silent, causes=["fleet_silent"]),
    Rule(Subject.JOB, troubles.job_silent, to=["silent"]),
    Rule(Subject.JOB, troubles.job_back, to=["alive"]),
    Rule(Subject.ROOM, troubles.room_out, to=[RoomLevel.STOPPED]),
    Rule(Subject.ROOM, troubles.room_not_out, to=[RoomLevel.WARNED], was=[RoomLevel.STOPPED]),
    Rule(Subject.ROOM, troubles.room_tight, to=[RoomLevel.WARNED]),
    Rule(Subject.ROOM, troubles.roomy, to=[RoomLevel.ROOMY]),
)


def judgement(change: StateChange, about: Any) -> Judgement:
    """What the change means; `about` is the execution, trip or queue item that it names, None when it is gone."""
    rule = next((rule for rule in RULES if rule.fits(change)), None)
    return rule.conclude(change, about) if rule else None
