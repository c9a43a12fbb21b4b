"""The order of locks, and transactions that are tried again where it could not be kept.

Whoever writes takes what it needs of these in this order, several of one kind in the order of their keys:

1. the ids that clients bring with their reports
2. the executions that spans name, and the traces (advisory locks); a day without a partition is made before, in a
   transaction of its own
3. messages in log records, then the spans that they complete
4. runs, traces, agents, the ids by which models without a price are told of once, and executions that were named early
5. the hours of the rollups, then their minutes; whoever closes hours, what was ever counted, then their days
6. the windows of budgets
7. the row of a person
8. executions, parent before child
9. items of the queue
10. the conversations that spans charge (advisory locks), then conversations
11. the counter of the agents' events, held until commit
12. commands
13. the quarters of an hour in which runs begin and end
14. the loops of a project (an advisory lock), how long it keeps things (its own row), the state of the room: each for
    itself alone

A verb that needs a later lock to know which earlier one it wants may close a circle all the same: a trip cancels
a run's executions one after the other. So every door that writes does it through `unhindered`, and what it runs may
run again: it reads anew what it decides on, and does nothing outside of the database before the commit.
"""

from collections.abc import Callable
from typing import TypeVar

import psycopg
from django.db import OperationalError, ProgrammingError

from monitor import days, keeping
from monitor.tenancy import tenant

T = TypeVar("T")
TRIES = 3


def unhindered(project_id: int, work: Callable[[], T]) -> T:
    """Run `work` in a transaction of the project; after a deadlock, which left nothing behind, once more.

    So too when a day is missing: who makes one needs a lock that must not be waited for with others in hand. And when
    one was dropped under its hands, because it is kept for less than this process knew.
    """
    for left in reversed(range(TRIES)):
        try:
            with tenant(project_id):
                return work()
        except days.Missing as missing:
            if not left:
                raise
            days.make(missing.days)
        except OperationalError as error:
            if not left or not isinstance(error.__cause__, psycopg.errors.DeadlockDetected):
                raise
        except ProgrammingError as error:
            if not left or not isinstance(error.__cause__, psycopg.errors.UndefinedTable):
                raise
            keeping.forget()
    raise AssertionError("the last try returns or raises")
