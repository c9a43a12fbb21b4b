"""A stand-in for the server, as the package ships it to its users."""

from collections.abc import Iterator

import handrail.testing
import pytest
from handrail.testing import Captured


@pytest.fixture
def captured() -> Iterator[Captured]:
    with handrail.testing.capture() as captured:
        yield captured
