"""Plain builders for stories about the queue."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from django.test import Client

from monitor import conversations, handover
from monitor.models import (
    HumanAgent,
    Membership,
    Person,
    QueueItem,
)
from monitor.tenancy import crossing, tenant
from tests.dashboard.builders import SignedIn

HTMX = {"HX-Request": "true"}


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def a_chat(project_id: int, name: str = "Yara Garcia", *, at: datetime | None = None, **handed: Any) -> QueueItem:
    """A conversation that the agent has handed over."""
    at = at or ago(60)
    customer = {"id": name.lower().replace(" ", "_"), "name": name, "email": "yara@example.com"}
    with tenant(project_id):
        talk, _ = conversations.open_conversation(
            project_id, f"chat-{uuid4()}", agent="airline-support", channel="web chat", customer=customer, now=at
        )
        conversations.say(project_id, talk.pk, "user", "I need another flight.", now=at)
        values: dict[str, Any] = {"reason": "The policy says no"} | handed
        return handover.hand_over(project_id, talk.pk, now=at, **values).item


def a_colleague(project_id: int, name: str = "Jonas Weber", **human: Any) -> SignedIn:
    with crossing():
        person = Person.objects.create_user(f"{name.split()[0].lower()}@north.example", "correct horse", name=name)
        Membership.objects.create(project_id=project_id, person=person, role="operator")
        HumanAgent.objects.create(project_id=project_id, person=person, **human)
    client = Client()
    client.force_login(person)
    return SignedIn(client, person, project_id)


def act(who: SignedIn, item: QueueItem, verb: str, **fields: str) -> Any:
    return who.client.post(f"/queue/{item.pk}/{verb}", fields, headers=HTMX)


def now_of(item: QueueItem) -> QueueItem:
    with tenant(item.project_id):
        return QueueItem.objects.select_related("assignee__person", "conversation").get(pk=item.pk)


def shown(who: SignedIn, url: str) -> str:
    answer = who.client.get(url)
    assert answer.status_code == 200
    return str(answer.content.decode())
