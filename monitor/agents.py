"""The registry: who was heard from, and what people say of an agent. Reading it with its figures is in registry.py."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from django.db import connection
from msgspec import UNSET, Meta, UnsetType

from monitor import changes
from monitor.models import Agent, Execution, Project, Subject
from monitor.models.executions import OPEN
from monitor.pipeline import texts

SEEN_EVERY_S = 10
MOST_NAMES = 50
# What an agent may have of its own; the project has each of them.
DEFAULTS = ("timeout_s", "heartbeat_s", "max_retries", "stall_s")

Description = Annotated[str, Meta(max_length=2000)]
Capability = Annotated[str, Meta(min_length=1, max_length=100)]
ModelName = Annotated[str, Meta(min_length=1, max_length=200)]


class Edit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a person says of an agent; what is left out stays, null falls back to the project or expects nothing.

    With `version` the edit is refused when somebody else's came in between.
    """

    description: Description | UnsetType = UNSET
    type: Annotated[str, Meta(max_length=100)] | UnsetType = UNSET
    capabilities: Annotated[list[Capability], Meta(max_length=MOST_NAMES)] | UnsetType = UNSET
    supported_models: Annotated[list[ModelName], Meta(max_length=MOST_NAMES)] | UnsetType = UNSET
    default_model: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    cost_tier: Annotated[str, Meta(max_length=20)] | UnsetType = UNSET
    mode: Literal["", "explore", "execute", "escalate"] | UnsetType = UNSET
    timeout_s: Annotated[int, Meta(ge=1, le=30 * 86_400)] | UnsetType | None = UNSET
    heartbeat_s: Annotated[int, Meta(ge=1, le=86_400)] | UnsetType | None = UNSET
    max_retries: Annotated[int, Meta(ge=0, le=100)] | UnsetType | None = UNSET
    # 0: no such clock, whatever the project has.
    stall_s: Annotated[int, Meta(ge=0, le=30 * 86_400)] | UnsetType | None = UNSET
    expected_every_s: Annotated[int, Meta(ge=60, le=90 * 86_400)] | UnsetType | None = UNSET
    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | UnsetType = UNSET

    def values(self) -> dict[str, Any]:
        """What is said, by column; lists without repeats."""
        said = {name: getattr(self, name) for name in FIELDS if getattr(self, name) is not UNSET}
        return {name: list(dict.fromkeys(one)) if isinstance(one, list) else one for name, one in said.items()}

    def whole(self) -> "Edit":
        """The same, with what is left out as it is on a new agent."""
        new = Agent()
        unsaid = {name: getattr(new, name) for name in FIELDS if getattr(self, name) is UNSET}
        return msgspec.structs.replace(self, **unsaid)


FIELDS = tuple(name for name in Edit.__struct_fields__ if name != "version")

# Being seen again within SEEN_EVERY_S changes nothing, so that a busy agent's row is not fought over.
SEEN = """
INSERT INTO monitor_agent AS agent (project_id, name, type, description, capabilities, supported_models,
    default_model, cost_tier, first_seen_at, last_seen_at)
SELECT %(project_id)s, seen.name, '', '', '{}', '{}', '', '', %(now)s, %(now)s
  FROM unnest(%(names)s::text[]) AS seen (name)
 WHERE NOT EXISTS (SELECT FROM monitor_agent AS fresh WHERE fresh.project_id = %(project_id)s AND fresh.name = seen.name
                   AND fresh.last_seen_at > %(now)s::timestamptz - make_interval(secs => %(seen_every_s)s))
ON CONFLICT (project_id, name) DO UPDATE SET
    first_seen_at = coalesce(agent.first_seen_at, excluded.first_seen_at),
    last_seen_at = greatest(agent.last_seen_at, excluded.last_seen_at)
"""


class NoAgent(Exception):
    """There is no agent of this name."""


class AtWork(Exception):
    """Some of its executions are open."""


class ChangedMeanwhile(Exception):
    """Somebody else has edited the agent since; nothing has changed. `agent` is as they left it."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(f"the agent was edited meanwhile; its version is {agent.version}")
        self.agent = agent


def sighting(project_id: int, names: Iterable[str], *, now: datetime) -> dict[str, Any]:
    """The parameters of SEEN; names in the order in which everybody locks them."""
    return {"project_id": project_id, "names": texts(sorted(names)), "now": now, "seen_every_s": SEEN_EVERY_S}


def saw(project_id: int, name: str, *, now: datetime) -> None:
    """We hear from an agent."""
    with connection.cursor() as cursor:
        cursor.execute(SEEN, sighting(project_id, [name], now=now))


def enter(project_id: int, name: str, edit: Edit, *, actor: str, now: datetime) -> tuple[Agent, bool]:
    """Say all there is to say of an agent, seen or not; whether it is new. Raises ChangedMeanwhile."""
    _, is_new = Agent.objects.get_or_create(project_id=project_id, name=name)
    did: Literal["entered", "changed"] = "entered" if is_new else "changed"
    return _apply(_locked(project_id, name), edit.whole(), did, actor=actor, now=now), is_new


def enter_unless_known(project_id: int, name: str, *, actor: str, now: datetime) -> bool:
    """Enter an agent of which nothing is said yet; False, and nothing changed, when the registry has it already."""
    agent, is_new = Agent.objects.get_or_create(project_id=project_id, name=name)
    if is_new:
        _apply(agent, Edit().whole(), "entered", actor=actor, now=now)
    return is_new


def change(project_id: int, name: str, edit: Edit, *, actor: str, now: datetime) -> Agent:
    """Set what the edit says; new executions take the new defaults. Raises NoAgent, ChangedMeanwhile."""
    return _apply(_locked(project_id, name), edit, "changed", actor=actor, now=now)


def forget(project_id: int, name: str, *, actor: str, now: datetime) -> None:
    """Take it out of the registry, with what people said of it; what it did stays, and it is back once it is heard.

    Raises NoAgent, AtWork.
    """
    agent = _locked(project_id, name)
    if Execution.objects.of(project_id).filter(agent=name, status__in=OPEN).exists():
        raise AtWork
    was = {field: getattr(agent, field) for field in FIELDS if getattr(agent, field) not in (None, "", [])}
    agent.delete()
    changes.record(
        project_id,
        Subject.AGENT,
        name,
        to_state="forgotten",
        cause="edited",
        actor=actor,
        now=now,
        data={"was": was},
        concerns_alerts=False,
    )
    if agent.missed_at is not None:
        _excuse(agent, actor=actor, now=now)


def applied(agent: Agent, project: Project) -> dict[str, Any]:
    """The defaults of the agent's next execution: its own, or else the project's; None is no clock of progress."""
    own = {name: getattr(agent, name) for name in DEFAULTS}
    found = {name: getattr(project, name) if value is None else value for name, value in own.items()}
    return found | {"stall_s": found["stall_s"] or None}


def _locked(project_id: int, name: str) -> Agent:
    agent = Agent.objects.select_for_update(no_key=True).filter(project_id=project_id, name=name).first()
    if agent is None:
        raise NoAgent
    return agent


def _apply(agent: Agent, edit: Edit, did: Literal["entered", "changed"], *, actor: str, now: datetime) -> Agent:
    if edit.version is not UNSET and edit.version != agent.version:
        raise ChangedMeanwhile(agent)
    values = edit.values()
    was = {name: getattr(agent, name) for name in values if getattr(agent, name) != values[name]}
    if not was and did == "changed":
        return agent
    told: dict[str, Any] = {name: values[name] for name in was}
    was_missed = agent.missed_at is not None
    if "expected_every_s" in was:
        # It has one whole interval from now on, whatever it missed before.
        told |= {"expected_since": None if told["expected_every_s"] is None else now, "missed_at": None}
    for name, value in told.items():
        setattr(agent, name, value)
    if did == "changed":
        agent.version += 1
    agent.save(update_fields=[*told, "version"])
    changes.record(
        agent.project_id,
        Subject.AGENT,
        agent.name,
        to_state=did,
        cause="edited",
        actor=actor,
        now=now,
        data={"was": was, "is": {name: values[name] for name in was}},
        concerns_alerts=False,
    )
    if "expected_every_s" in was and was_missed:
        _excuse(agent, actor=actor, now=now)
    return agent


def _excuse(agent: Agent, *, actor: str, now: datetime) -> None:
    """End what was told of its silence."""
    changes.record(
        agent.project_id,
        Subject.AGENT,
        agent.name,
        from_state="silent",
        to_state="excused",
        cause="edited",
        actor=actor,
        now=now,
        data={"expected_every_s": agent.expected_every_s},
    )
