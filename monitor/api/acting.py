"""For whom a caller acts, and what the people's verbs refuse, as problems."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.exceptions import ObjectDoesNotExist

from monitor import claims, conversations, handback, people, queue, transcript, turns
from monitor.api.caller import Request
from monitor.api.problems import Forbidden, Problem, bad_field
from monitor.models import HumanAgent
from monitor.models.keys import Scope

# As many characters as the journal keeps of an actor.
ACTOR_LENGTH = 200


def acting(request: Request, named: str) -> tuple[HumanAgent | None, str]:
    """The person who acts and how the journal names them: `ann@example.org (through key:desk)`.

    A session acts for its own person; a key with `act-as` for the one named by `as`; a key by itself is nobody.
    Raises Forbidden, and a 400 when the name is no human agent's.
    """
    caller = request.caller
    if caller.kind == "person":
        human = people.human_for(caller.project_id, person_id=caller.person_id)
        if human is not None and named and named.strip().lower() != human.person.email:
            raise Forbidden("You act for yourself; only a key with the scope act-as may name somebody.")
        return human, caller.actor
    if not named:
        return None, caller.actor
    if not caller.may(Scope.ACT_AS):
        raise Forbidden("Only a key with the scope act-as may name a person in `as`.")
    human = people.human_for(caller.project_id, email=named)
    if human is None:
        raise bad_field("as", "is not the email of a human agent of this project")
    return human, f"{human.person.email} (through {caller.actor})"[:ACTOR_LENGTH]


def acting_person(request: Request, named: str) -> tuple[HumanAgent, str]:
    """As `acting`, for what only a person can do. Raises Forbidden for a key that names nobody."""
    human, actor = acting(request, named)
    if human is None:
        raise Forbidden("Only a person can do this: sign in, or use a key with the scope act-as and name them in `as`.")
    return human, actor


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the verbs refuse into problems that say what holds at present."""
    try:
        yield
    except ObjectDoesNotExist as error:
        raise Problem(404, "Not found") from error
    except handback.InstructionMissing as error:
        raise bad_field("instruction", str(error)) from error
    except (
        queue.QueueRefusal,
        turns.IllegalMove,
        turns.StaleTurn,
        conversations.NotTheHolder,
        conversations.OpenedOtherwise,
        transcript.SaidOtherwise,
    ) as error:
        title, reason, present = _conflict(error)
        raise Problem(409, title, f"{str(error)[:1].upper()}{str(error)[1:]}.", reason=reason, **present) from error


def _conflict(error: Exception) -> tuple[str, str, dict[str, Any]]:
    """Title, machine-readable reason, and the present state of a conflict."""
    match error:
        case queue.TakenBy():
            return "Taken", "taken", held_by(error.holder, error.at)
        case conversations.NotTheHolder():
            return "Not yours", "not_the_holder", held_by(error.holder, error.at)
        case claims.AtCapacity():
            return "At capacity", "at_capacity", {"held": error.held, "capacity": error.capacity}
        case queue.Closed():
            return "Closed", "closed", {"state": error.status}
        case claims.NotHeld():
            return "Nobody holds it", "not_held", {"state": "pending"}
        case handback.BouncedTooOften():
            return "Stays with people", "bounce_limit", {"bounces": error.bounces}
        case queue.DecidedElsewhere():
            return "Decided elsewhere", "decided_elsewhere", {}
        case turns.IllegalMove():
            return "Illegal transition", "illegal_move", {"state": error.present}
        case turns.StaleTurn():
            return "Stale turn", "stale_turn", {"state": error.conversation.state, "epoch": error.conversation.epoch}
        case transcript.SaidOtherwise():
            return "Said otherwise", "other_content", {"seq": error.message.seq}
        case conversations.OpenedOtherwise():
            return "Exists otherwise", "other_content", {"id": str(error.conversation.pk)}
    raise error


def held_by(human: HumanAgent | None, at: Any) -> dict[str, Any]:
    """The holder as problems and answers name them."""
    if human is None:
        return {"holder": None}
    return {"holder": {"id": human.pk, "email": human.person.email, "name": str(human.person)}, "claimed_at": at}
