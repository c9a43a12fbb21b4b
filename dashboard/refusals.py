"""What the people's verbs refuse, in words that name who was faster and what to do."""

from datetime import datetime

from dashboard import words
from monitor import claims, conversations, handback, queue, transitions, trips, turns

REFUSALS = (
    queue.QueueRefusal,
    turns.IllegalMove,
    conversations.NotTheHolder,
    turns.StaleTurn,
    transitions.Refused,
    trips.ResetRefused,
)
ENDED = {"resolved": "resolved", "back_to_ai": "given back to the AI", "expired": "expired", "cancelled": "cancelled"}


def in_words(error: Exception, about: str, *, now: datetime) -> tuple[str, str]:
    """The refusal as a short first sentence and the rest."""
    match error:
        case queue.TakenBy():
            return f"{error.holder.person} was faster.", _faster(about, error.at, now=now)
        case claims.AtCapacity():
            held = f"{error.held} of at most {error.capacity} conversations are with this person."
            return "No place is free.", f"{held} Resolve one or put one back first."
        case queue.Closed():
            return "It is over.", f"{about} was {ENDED.get(error.status, error.status)} meanwhile."
        case claims.NotHeld():
            return "Nobody has it.", f"{about} waits in the queue already."
        case conversations.NotTheHolder():
            return _not_the_holder(error, about, now=now)
        case handback.InstructionMissing():
            return "An instruction is missing.", "Say what the AI is to do next, or choose that there is none."
        case handback.BouncedTooOften():
            return "It stays with people.", f"The AI has sent {about} back {error.bounces} times within 24 hours."
        case trips.ResetRefused():
            head = "It is reset already." if error.trip.reset_by else "It is over."
            return head, f"{str(error)[:1].upper()}{str(error)[1:]}."
    return "That did not happen.", f"{str(error)[:1].upper()}{str(error)[1:]}."


def _faster(about: str, at: datetime | None, *, now: datetime) -> str:
    if at is None:
        return f"{about} is taken."
    ahead_s = (now - at).total_seconds()
    if ahead_s <= 0:
        return f"{about} was claimed in the same moment."
    ahead = f"{ahead_s:.1f}{words.GAP}s" if ahead_s < 60 else words.took(ahead_s)
    return f"{about} was claimed {ahead} before you tried."


def _not_the_holder(error: conversations.NotTheHolder, about: str, *, now: datetime) -> tuple[str, str]:
    if error.holder is None:
        return "Not sent.", f"Nobody has {about}: claim it first. Your text is kept as a draft."
    since = f" since {words.clock(error.at, now=now)}" if error.at else ""
    return "Not sent.", f"{error.holder.person} has had {about}{since}. Your text is kept as a draft."
