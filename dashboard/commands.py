"""What a person may command an execution to do, and what is said about it afterwards."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from dashboard import words
from dashboard.states import look_of
from monitor import changes, orders, transitions
from monitor.models import Execution, Person
from monitor.models.executions import ENDED, MOVES, OPEN, Status
from monitor.orders import Verb
from monitor.tenancy import tenant


@dataclass(frozen=True)
class Command:
    """One verb of people: its button (label, icon, key), what it did, and from which states it goes."""

    name: Verb
    label: str
    icon: str
    key: str
    done: str
    means: str
    states: frozenset[str]


COMMANDS: dict[str, Command] = {
    one.name: one
    for one in (
        Command(
            "pause",
            "Pause",
            "player-pause",
            "p",
            "paused",
            "Its clocks stop; the agent is told at its next beat.",
            frozenset(MOVES[Status.PAUSED]),
        ),
        Command(
            "resume",
            "Resume",
            "player-play",
            "u",
            "resumed",
            "It goes on with the same try.",
            frozenset({Status.PAUSED, Status.HITL_PAUSED}),
        ),
        Command(
            "retry",
            "Retry",
            "refresh",
            "t",
            "retried",
            "The next try may start at once.",
            frozenset(MOVES[Status.RETRYING]),
        ),
        Command(
            "cancel",
            "Cancel",
            "ban",
            "z",
            "cancelled",
            "It ends, with all open work below it.",
            frozenset(OPEN),
        ),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What became of one command: `done`, or refused for the reason in `words`."""

    id: UUID
    name: str
    done: bool
    words: str


def offered(execution: Execution) -> list[Command]:
    """The commands that the execution can be given as it is, in the order of their buttons."""
    if execution.from_spans:
        return []
    return [one for one in COMMANDS.values() if execution.status in one.states]


def carry_out(
    project_id: int, execution_id: UUID, command: Command, *, now: datetime, actor: str, note: str = ""
) -> Outcome:
    """Give one command in a transaction of its own; a refusal says in words what the execution has become."""
    ordered = orders.carry_out(project_id, execution_id, command.name, now=now, actor=actor, note=note)
    if ordered.execution is None:
        return Outcome(execution_id, f"Execution {words.short_id(execution_id)}", False, "is not there any more")
    name = name_of(ordered.execution)
    if isinstance(ordered.refusal, transitions.KnownFromSpans):
        return Outcome(execution_id, name, False, "is known from its trace alone; nobody listens")
    if ordered.refusal is not None:
        with tenant(project_id):
            return Outcome(execution_id, name, False, _refusal(ordered.execution, now=now))
    return Outcome(execution_id, name, True, look_of(ordered.execution.status).word.lower())


def name_of(execution: Execution) -> str:
    """What people call it: its task, else its agent."""
    return execution.task or execution.agent


def _refusal(execution: Execution, *, now: datetime) -> str:
    """`has ended, cancelled at 14:05:31 by Mara Lind`; `has been paused since …` while it is open."""
    last = changes.journal_of(execution).order_by("-id").first()
    word = look_of(execution.status).word.lower()
    is_so = f"has ended, {word} at" if execution.status in ENDED else f"has been {word} since"
    if last is None:
        return f"has ended, {word}" if execution.status in ENDED else f"is {word}"
    who = actor_names([last.actor]).get(last.actor, "")
    by = f" by {who}" if who else ""
    return f"{is_so} {words.clock(last.at, now=now)}{by}"


def actor_names(actors: list[str]) -> dict[str, str]:
    """How the journal's actors are called on pages: a person's name, `the key agents`, `the watchdog`."""
    emails = {one for one in actors if "@" in one}
    people = {one.email: str(one) for one in Person.objects.filter(email__in=emails)} if emails else {}
    return {one: people.get(one) or _machine(one) for one in actors}


def _machine(actor: str) -> str:
    if actor.startswith("key:"):
        return f"key “{actor.removeprefix('key:')}”"
    return {"watchdog": "the watchdog", "watch": "the watchdog", "": ""}.get(actor, actor)
