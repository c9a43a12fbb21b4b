"""What was said: messages are numbered from 1 under the lock of their conversation, and read by that number alone."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from monitor import news
from monitor.models import Conversation, Message
from monitor.models.conversations import MessageRole, Visibility

# As many messages as one hand-back carries; the rest is read from the conversation.
STRETCH = 200


class SaidOtherwise(Exception):
    """The author has used this client id for a message with other content."""

    def __init__(self, message: Message) -> None:
        super().__init__(f"message {message.client_id} says something else already, at seq {message.seq}")
        self.message = message


def append(
    held: Conversation,
    role: str,
    content: str,
    *,
    now: datetime,
    said_at: datetime | None = None,
    author: str = "",
    client_id: str | None = None,
    visibility: str = Visibility.PUBLIC,
    data: Mapping[str, Any] | None = None,
) -> Message:
    """Write the next message of a locked conversation; `said_at` is when it was said, where the report comes late."""
    held.last_seq += 1
    held.updated_at = now
    held.save(update_fields=["last_seq", "updated_at"])
    news.tell(held.project_id, "conversations", str(held.pk))
    return Message.objects.create(
        project_id=held.project_id,
        conversation=held,
        seq=held.last_seq,
        role=role,
        author=author,
        content=content,
        visibility=visibility,
        client_id=client_id,
        data=dict(data or {}),
        created_at=said_at or now,
    )


def repeated(held: Conversation, role: str, content: str, *, author: str, client_id: str | None) -> Message | None:
    """The message that its author has sent before under this id. Raises SaidOtherwise when it said something else."""
    if client_id is None:
        return None
    message = Message.objects.filter(conversation=held, role=role, author=author, client_id=client_id).first()
    if message is not None and message.content != content:
        raise SaidOtherwise(message)
    return message


def stretch(held: Conversation, *, after: int) -> list[Message]:
    """The last messages behind `after`, oldest first."""
    return list(Message.objects.filter(conversation=held, seq__gt=after).order_by("-seq")[:STRETCH])[::-1]


def as_data(message: Message) -> dict[str, Any]:
    """A message as events carry it."""
    return {
        "id": str(message.pk),
        "seq": message.seq,
        "role": message.role,
        "author": message.author,
        "content": message.content,
        "created_at": message.created_at.isoformat(),
    }


def summary(messages: Iterable[Message], *, since: datetime | None, now: datetime) -> str:
    """What people did with the conversation, in one sentence or two."""
    said = [message for message in messages if message.visibility == Visibility.PUBLIC]
    people = sorted({message.author for message in said if message.role == MessageRole.HUMAN})
    replies = sum(message.role == MessageRole.HUMAN for message in said)
    asked = sum(message.role == MessageRole.USER for message in said)
    minutes = round((now - since).total_seconds() / 60) if since else 0
    who = ", ".join(people) or "Nobody"
    text = f"{who} wrote {_counted(replies, 'message')} in {_counted(minutes, 'minute')}; the customer wrote {asked}."
    if people:
        last = next(message for message in reversed(said) if message.role == MessageRole.HUMAN)
        text += f" The last reply was: {last.content[:500]}"
    return text


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
