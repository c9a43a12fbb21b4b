"""Each state's glyph, colour and word: one table for executions, alerts, the queue and evidence."""

from dataclasses import dataclass
from typing import Literal

Tone = Literal["grey", "blue", "amber", "red", "green", "accent"]


@dataclass(frozen=True, slots=True)
class Look:
    """How one state is shown. `meaning` is the half sentence that explains the word."""

    glyph: str
    tone: Tone
    word: str
    meaning: str = ""

    @property
    def speaks(self) -> bool:
        """Red and amber colour their word too; the other states colour the glyph alone."""
        return self.tone in {"red", "amber"}


EXECUTIONS = {
    "pending": Look("circle-dashed", "grey", "Pending", "accepted, not started"),
    "running": Look("player-play", "blue", "Running", "beats on time"),
    "retrying": Look("refresh", "amber", "Retrying", "try n of 3, with the reason"),
    "zombie": Look("heart-off", "amber", "Zombie", "no beat in time, may come back"),
    "stalled": Look("clock-exclamation", "amber", "Stalled", "alive, not progressing"),
    "paused": Look("player-pause", "grey", "Paused", "held by a person or waits for approval"),
    "hitl_paused": Look("hand-stop", "red", "Needs a person", "tries spent, waits for a decision"),
    "completed": Look("circle-check", "green", "Completed", "done"),
    "failed": Look("circle-x", "amber", "Failed", "the agent said so"),
    "timeout": Look("clock-x", "amber", "Timed out", "outlived its limit"),
    "cancelled": Look("ban", "grey", "Cancelled", "told to stop, and stopped"),
}
ALERTS = {
    "critical": Look("urgent", "red", "Critical", "a person must act now"),
    "warning": Look("alert-triangle", "amber", "Warning", "soon, or degraded"),
    "info": Look("info-circle", "grey", "Info", "worth knowing"),
    "acknowledged": Look("user-check", "grey", "Acknowledged", "somebody has it, with the name"),
    "snoozed": Look("alarm-snooze", "grey", "Snoozed", "back at a stated time"),
    "resolved": Look("check", "grey", "Resolved", "over"),
}
QUEUE = {
    "chat": Look("message-circle", "red", "Chat", "a customer waits"),
    "chat_yours": Look("message-circle", "accent", "Chat", "you have it"),
    "approval": Look("user-check", "red", "Approval", "a tool waits for a yes"),
    "trip": Look("plug-x", "red", "Budget tripped", "stopped by a limit"),
    "loop": Look("repeat", "amber", "Loop", "3 equal calls in a row"),
    "looped": Look("repeat", "grey", "Looped", "3 equal calls in a row, and over"),
}
EVIDENCE = {
    "verified": Look("circle-check", "green", "Verified", "by a tool, a database, an API or the user"),
    "claimed": Look("message-circle", "grey", "Claimed", "by the agent or the customer"),
    "inferred": Look("arrows-split-2", "grey", "Inferred", "derived from other facts"),
}
DELIVERIES = {
    "planned": Look("circle-dashed", "grey", "Planned"),
    "sent": Look("check", "green", "Arrived"),
    "busy": Look("refresh", "amber", "Busy, tried again"),
    "undelivered": Look("circle-x", "amber", "Not delivered"),
    "unknown": Look("help-circle", "amber", "Unknown"),
}
SYSTEM = {
    "on_time": Look("circle-check", "green", "On time"),
    "failing": Look("alert-triangle", "amber", "Fails"),
    "silent": Look("heart-off", "red", "Silent"),
}
AGENTS = {
    "agent_healthy": Look("circle-check", "green", "Healthy", "at most 10 % of 24 hours' work failed"),
    "agent_degraded": Look("alert-triangle", "amber", "Degraded", "more than 10 % of 24 hours' work failed"),
    "agent_failing": Look("circle-x", "red", "Failing", "a quarter or more of 24 hours' work failed"),
    "agent_silent": Look("heart-off", "amber", "Silent", "expected, and not heard from"),
    "agent_idle": Look("moon", "grey", "Idle", "nothing ended in 24 hours, and nobody expects more"),
    "agent_never_seen": Look("circle-dashed", "grey", "Never seen", "entered by a person, not heard from yet"),
}
LOOKS = EXECUTIONS | ALERTS | QUEUE | EVIDENCE | DELIVERIES | SYSTEM | AGENTS


def look_of(state: str) -> Look:
    """The look of a state; one that the table does not know is shown by its own name, not hidden."""
    return LOOKS.get(state) or Look("help-circle", "grey", state.replace("_", " ").capitalize())
