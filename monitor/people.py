"""People who take conversations: who they are, what they know, and whether they are there."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Q

from monitor import claims, jobs, news
from monitor.models import Conversation, HumanAgent, Membership, Person, QueueItem
from monitor.models.people import Presence
from monitor.models.queue import HELD, ItemStatus
from monitor.tenancy import crossing, tenant

AWAY_AFTER = timedelta(seconds=90)
GONE_AFTER = timedelta(minutes=5)


def add(
    project_id: int, email: str, *, name: str = "", skills: Iterable[str] = (), capacity: int = 5
) -> tuple[HumanAgent, bool]:
    """The human agent with this email, made unless there is one; True when new. Signing in needs a password besides."""
    email = email.strip().lower()
    person = Person.objects.filter(email=email).first()
    if person is None:
        person = Person(email=email, name=name)
        person.set_unusable_password()
        person.save()
    return HumanAgent.objects.select_related("person").get_or_create(
        project_id=project_id, person=person, defaults={"skills": list(skills), "capacity": capacity}
    )


def change(
    project_id: int, human_id: int, *, skills: Iterable[str] | None = None, capacity: int | None = None
) -> HumanAgent:
    """Change what is given. Raises HumanAgent.DoesNotExist."""
    human = claims.lock_human(project_id, human_id)
    human.skills = human.skills if skills is None else list(skills)
    human.capacity = human.capacity if capacity is None else capacity
    human.save(update_fields=["skills", "capacity"])
    return human


def remove(project_id: int, human_id: int, *, now: datetime, actor: str = "") -> None:
    """Take a person off the queue; everything they hold returns to it. Raises HumanAgent.DoesNotExist."""
    human = claims.lock_human(project_id, human_id)
    _return(human, HELD, now=now, actor=actor, cause="person_removed")
    human.delete()


def human_for(project_id: int, *, person_id: int | None = None, email: str | None = None) -> HumanAgent | None:
    """The human agent behind a signed-in person or an email; members of the project become one as they first act."""
    found = HumanAgent.objects.select_related("person").filter(project_id=project_id)
    if email is not None:
        return found.filter(person__email=email.strip().lower()).first()
    if person_id is None:
        return None
    human = found.filter(person_id=person_id).first()
    if human is None and Membership.objects.filter(project_id=project_id, person_id=person_id).exists():
        human, _ = found.get_or_create(project_id=project_id, person_id=person_id)
    return human


def present(project_id: int, human_id: int, status: str, *, now: datetime, actor: str = "") -> HumanAgent:
    """The person says how they are; going offline returns what they have not answered.

    Raises HumanAgent.DoesNotExist.
    """
    human = claims.lock_human(project_id, human_id)
    _show(human, status, now=now)
    if status == Presence.OFFLINE:
        _return(human, (ItemStatus.CLAIMED,), now=now, actor=actor or human.person.email, cause="went_offline")
    return human


def seen(project_id: int, human_id: int, *, now: datetime) -> bool:
    """The person is at a page, so nobody takes them for gone; who said that they are offline stays so.

    Returns whether it counted.
    """
    there = HumanAgent.objects.filter(project_id=project_id, pk=human_id, last_seen_at__lt=now)
    if there.filter(status=Presence.AWAY, last_seen_at__lt=now - AWAY_AFTER).update(
        status=Presence.ONLINE, last_seen_at=now
    ):
        news.tell(project_id, "queue", str(human_id))
        return True
    return bool(there.exclude(status=Presence.OFFLINE).update(last_seen_at=now))


def presence(*, now: datetime) -> int:
    """Show as away who was not seen for 90 s; who is gone for 5 min is offline and what they left unanswered returns.

    Returns how many people changed.
    """
    with crossing():
        quiet = HumanAgent.objects.filter(
            Q(status=Presence.ONLINE, last_seen_at__lt=now - AWAY_AFTER)
            | Q(status=Presence.AWAY, last_seen_at__lt=now - GONE_AFTER)
        )
        found = list(quiet.values_list("project_id", "pk"))
    return jobs.one_by_one(_lost, found, now=now)


def _lost(project_id: int, human_id: int, *, now: datetime) -> bool:
    with tenant(project_id):
        human = claims.lock_human(project_id, human_id)
        if human.status == Presence.OFFLINE or human.last_seen_at is None or human.last_seen_at >= now - AWAY_AFTER:
            return False
        if human.last_seen_at < now - GONE_AFTER:
            _show(human, Presence.OFFLINE, now=human.last_seen_at)
            _return(human, (ItemStatus.CLAIMED,), now=now, actor="", cause="presence_lost")
            return True
        if human.status == Presence.ONLINE:
            _show(human, Presence.AWAY, now=human.last_seen_at)
            return True
    return False


def _show(human: HumanAgent, status: str, *, now: datetime) -> None:
    human.status = status
    human.last_seen_at = now
    human.save(update_fields=["status", "last_seen_at"])
    news.tell(human.project_id, "queue", str(human.pk))


def _return(human: HumanAgent, statuses: Iterable[str], *, now: datetime, actor: str, cause: str) -> None:
    """Release what the locked person holds. All rows are locked before the first event takes the counter."""
    items = list(
        QueueItem.objects.select_for_update(no_key=True)
        .filter(project_id=human.project_id, assignee=human, status__in=tuple(statuses))
        .order_by("pk")
    )
    chats = sorted(item.conversation_id for item in items if item.conversation_id)
    list(Conversation.objects.select_for_update(no_key=True).filter(pk__in=chats).order_by("pk"))
    for item in items:
        claims.release(human.project_id, item.pk, None, now=now, actor=actor, cause=cause)
