"""Whoever sits at the terminal, or holds the supervisor in another way."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(sentence: str) -> None:
    try:
        sys.stderr.write(f"handrail: {sentence}.\n")
        sys.stderr.flush()
    except OSError:
        pass  # Nobody sits there any more.


@contextmanager
def listening(heard: Callable[[int], object]) -> Iterator[None]:
    """Hear the signals that want an end. What whoever started us ignores, as nohup does, stays ignored."""
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda told, _: heard(told)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
