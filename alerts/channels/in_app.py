"""In the application: open pages are told to look at the alert."""

from alerts.channels.message import Message
from monitor import news


def send(message: Message) -> str:
    """Never fails: the alert is stored, and a page that misses the news finds it by itself."""
    news.tell(message.project_id, "alerts", message.alert_id)
    return message.id


def objection(target: str) -> str:
    return "in-app messages have no address" if target else ""
