"""A web process over real sockets, and a project whose keys it takes."""

from collections.abc import Iterator

import pytest
from django.conf import settings

from monitor.models import Project
from tests.conftest import Slate
from tests.monitor.api.conftest import make_project
from tests.monitor.api.web import Web, serving


@pytest.fixture(scope="module")
def web(slate: Slate) -> Iterator[Web]:
    with serving(settings.REDIS_URL) as started:
        yield started
    # It says that somebody listens until it has ended, after the last test has cleaned up.
    slate.wipe()


@pytest.fixture
def north(committed_db: None) -> Project:
    return make_project("north")
