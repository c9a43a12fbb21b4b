"""Counts that several threads bring to Redis: whoever reads them misses none of its own process."""

import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from monitor.doorcounts import Counts
from monitor.redisline import client

ROUNDS = 300
READERS = 3


@pytest.fixture
def counts() -> Iterator[Counts]:
    key = f"handrail:counted:{uuid4()}"
    yield Counts(key)
    client().delete(key)


def test_what_was_added_is_read_although_another_thread_is_bringing_it(counts: Counts) -> None:
    is_over = threading.Event()

    def read_on() -> None:
        while not is_over.is_set():
            counts.totals()

    readers = [threading.Thread(target=read_on) for _ in range(READERS)]
    for one in readers:
        one.start()
    try:
        for number in range(1, ROUNDS):
            counts.add({"spans kept": 1})
            assert counts.totals() == {"spans kept": number}
    finally:
        is_over.set()
        for one in readers:
            one.join()
