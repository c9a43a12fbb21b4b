"""What is old leaves, what is open stays, and looking for it reads no whole table."""

from datetime import timedelta

import pytest
from django.db import connection

from monitor import claims, conversations, executions, handover, retention
from monitor.models import Command, Conversation, Execution, Message, QueueEvent, QueueItem, Trace
from monitor.models.conversations import MessageRole
from monitor.retention import EACH_PROJECT, PRUNED, Pruned
from monitor.tenancy import crossing, tenant
from tests.monitor import spending
from tests.monitor.fleets import NOW, a_project, an_execution
from tests.monitor.spending import a_span
from tests.monitor.test_queue import a_human

DAY = timedelta(days=1)


INDEXES = """
SELECT array_agg(attribute.attname::text ORDER BY place)
  FROM pg_index AS held
 CROSS JOIN generate_subscripts(held.indkey, 1) AS place
  JOIN pg_attribute AS attribute ON attribute.attrelid = held.indrelid AND attribute.attnum = held.indkey[place]
 WHERE held.indrelid = %(table)s::regclass
 GROUP BY held.indexrelid
"""


@pytest.mark.parametrize("pruned", PRUNED, ids=[one.table for one in PRUNED])
def test_an_index_leads_to_what_is_old(db: None, pruned: Pruned) -> None:
    with crossing(), connection.cursor() as cursor:
        cursor.execute(INDEXES, {"table": pruned.table})
        indexes = [columns for (columns,) in cursor.fetchall()]
    leads = ["project_id", pruned.column] if EACH_PROJECT in pruned.also else [pruned.column]
    assert any(columns[: len(leads)] == leads for columns in indexes), indexes


def a_talk(project_id: int, name: str, *, handed_over: bool = False) -> Conversation:
    with tenant(project_id):
        talk, _ = conversations.open_conversation(project_id, name, now=NOW)
        conversations.say(project_id, talk.pk, role=MessageRole.USER, content="Good morning", now=NOW)
        if handed_over:
            handover.hand_over(project_id, talk.pk, reason="They ask for a person.", now=NOW)
    return talk


def kept(project_id: int) -> dict[str, list[str]]:
    with tenant(project_id):
        talks = dict(Conversation.objects.values_list("pk", "conversation_id"))
        return {
            "talks": sorted(talks.values()),
            "messages": sorted(talks[one] for one in Message.objects.values_list("conversation", flat=True)),
            "items": sorted(QueueItem.objects.values_list("status", flat=True)),
        }


def test_conversations_leave_after_what_was_said_and_asked_unless_a_person_has_them(db: None) -> None:
    project = a_project()
    answered = a_talk(project, "answered", handed_over=True)
    a_talk(project, "waiting", handed_over=True)
    a_talk(project, "quiet")
    ada = a_human(project, "ada")
    with tenant(project):
        item = handover.open_chat(project, answered.pk)
        assert item is not None
        claims.claim(project, item.pk, ada, now=NOW)
        claims.resolve(project, item.pk, ada, now=NOW)
    everything = kept(project)
    assert everything == {
        "talks": ["answered", "quiet", "waiting"],
        "messages": ["answered", "quiet", "waiting"],
        "items": ["pending", "resolved"],
    }
    assert retention.prune(now=NOW + 89 * DAY) == 0
    retention.prune(now=NOW + 91 * DAY)
    assert kept(project) == everything | {"messages": ["waiting"]}
    with tenant(project):
        assert not QueueEvent.objects.exists()
    retention.prune(now=NOW + 181 * DAY)
    assert kept(project) == {"talks": ["waiting"], "messages": ["waiting"], "items": ["pending"]}


def test_executions_leave_half_a_year_after_their_end(db: None) -> None:
    project = a_project()
    ended, runs = (an_execution(project, agent=name) for name in ("done", "runs"))
    with tenant(project):
        executions.complete(project, ended, now=NOW, actor="key:agents")
    retention.prune(now=NOW + 181 * DAY)
    with tenant(project):
        assert [one.id for one in Execution.objects.all()] == [runs]


def test_commands_leave_half_a_year_after_they_were_given_but_what_is_open_keeps_its_own(db: None) -> None:
    project = a_project()
    ended, waits = (an_execution(project, agent=name) for name in ("done", "waits"))
    with tenant(project):
        executions.cancel(project, ended, now=NOW, actor="ann@example.org")
        executions.pause(project, waits, now=NOW, actor="ann@example.org")
    retention.prune(now=NOW + 179 * DAY)
    with tenant(project):
        assert Command.objects.count() == 2
    retention.prune(now=NOW + 181 * DAY)
    with tenant(project):
        assert [(one.execution_id, one.command) for one in Command.objects.all()] == [(waits, "pause")]


def test_a_trace_that_goes_on_is_kept_however_long_ago_it_began(db: None) -> None:
    project = spending.a_project()
    long_ago = spending.NOW - 80 * DAY
    told = [a_span(1, 1, started_at=long_ago), a_span(2, 1, started_at=long_ago), a_span(2, 2, 1)]
    spending.accept(project, told)
    retention.prune(now=spending.NOW + 13 * DAY)
    with tenant(project.pk):
        assert [one.trace_id.int for one in Trace.objects.all()] == [2]
