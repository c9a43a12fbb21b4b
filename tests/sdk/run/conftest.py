"""One running Handrail for all supervised commands: its watchdog and its workers turn as everywhere."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.running import address, api, make_key
from tests.launcher.instance import Instance
from tests.sdk.run.supervised import Supervised


@pytest.fixture(scope="session")
def handrail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("run") / "home")
    try:
        yield instance.begin().ready()
    finally:
        instance.end()


@pytest.fixture(scope="session")
def key(handrail: Instance) -> str:
    return make_key(handrail, "run")


@pytest.fixture
def people(handrail: Instance, key: str) -> Iterator[httpx.Client]:
    """What a person sees and does."""
    with api(handrail, key) as client:
        yield client


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """Starts commands, without a server unless one is named; at the end of the test nothing of them is left."""
    started: list[Supervised] = []

    def start(*words: str, **options: Any) -> Supervised:
        started.append(Supervised(tmp_path, *words, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def watched(supervise: Callable[..., Supervised], handrail: Instance, key: str) -> Callable[..., Supervised]:
    """Starts commands that the running Handrail watches, with a heartbeat each second."""

    def start(*words: str, options: tuple[str, ...] = (), **others: Any) -> Supervised:
        quick = ("--heartbeat", "1", "--grace", "1", *options)
        return supervise(*words, options=quick, **({"url": address(handrail), "key": key} | others))

    return start


@pytest.fixture(scope="session", autouse=True)
def listening_to_ctrl_c() -> Iterator[None]:
    """What ignores Ctrl-C, as a job in the background does, begets children that ignore it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
