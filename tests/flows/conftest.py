"""A running Handrail that the flows share: starting one takes seconds."""

from collections.abc import Iterator

import pytest

from tests.launcher.instance import Instance


@pytest.fixture(scope="session")
def handrail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance after its first start; each flow takes a project of its own."""
    instance = Instance(tmp_path_factory.mktemp("flows") / "home")
    try:
        yield instance.begin().ready()
    finally:
        instance.end()
