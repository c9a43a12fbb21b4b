"""One command for many executions; each has its own answer."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from django.db import DatabaseError, InterfaceError
from django.urls import path
from msgspec import Meta

from monitor import orders
from monitor.api import problems
from monitor.api.door import Door, Request, endpoint
from monitor.models.executions import StatusName
from monitor.orders import MOST_AT_ONCE, Outcome, Verb


class OrdersBody(msgspec.Struct, kw_only=True):
    command: Verb
    ids: Annotated[list[UUID], Meta(min_length=1, max_length=MOST_AT_ONCE)]
    note: Annotated[str, Meta(max_length=10_000)] = ""


class OrderOut(msgspec.Struct, kw_only=True):
    """What became of it: `status` is the state that it has now, null when it is not there or was not tried."""

    id: UUID
    done: bool
    status: StatusName | None
    detail: str


class OrdersOut(msgspec.Struct, kw_only=True):
    results: list[OrderOut]


class Orders(Door):
    @endpoint(scope="operate", body=OrdersBody, answer=OrdersOut, bound=False)
    def post(self, request: Request, body: OrdersBody) -> OrdersOut:
        """Command up to 200 executions, each by itself: what one refuses stops no other."""
        caller = request.caller
        results: list[OrderOut] = []
        wanted = list(dict.fromkeys(body.ids))
        try:
            for one in wanted:
                outcome = orders.carry_out(
                    caller.project_id, one, body.command, now=request.now, actor=caller.actor, note=body.note
                )
                results.append(_out(outcome))
        except (DatabaseError, InterfaceError) as error:
            # What is done already stays done, so its sender has to hear of it.
            if problems.of(error) is None or not results:
                raise
            left = wanted[len(results) :]
            detail = "It was not tried: the database did not answer."
            results += [OrderOut(id=one, done=False, status=None, detail=detail) for one in left]
        return OrdersOut(results=results)


def _out(outcome: Outcome) -> OrderOut:
    if outcome.execution is None:
        return OrderOut(id=outcome.id, done=False, status=None, detail="There is no execution with this id.")
    detail = f"{outcome.refusal}." if outcome.refusal else ""
    status: Any = outcome.execution.status
    return OrderOut(id=outcome.id, done=outcome.done, status=status, detail=detail)


urlpatterns = [path("executions/commands", Orders.as_view())]
