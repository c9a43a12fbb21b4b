"""Every call of the API, with what a machine makes up: no fault of ours, and no answer that the contract leaves out."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as fuzzing
from hypothesis import strategies as st
from hypothesis.strategies import binary
from pytest_django.plugin import DjangoDbBlocker

from tests.conftest import Slate
from tests.monitor.api.conftest import ALL, make_key, make_project

EXAMPLES = 6


@pytest.fixture(autouse=True)
def nobody_waits_long(settings: Any) -> None:
    settings.MAX_WAIT_S = 0.05


@pytest.fixture(scope="module")
def key(slate: Slate, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """One project for all calls: what one of them made the next may stumble over."""
    with django_db_blocker.unblock():
        yield make_key(make_project("fuzzed"), [*ALL, "act-as"], general_per_minute=0, ingest_per_minute=0)[1]
        connections.close_all()
        slate.wipe()


schemathesis.openapi.media_type("application/x-protobuf", binary(max_size=200))


@schemathesis.serializer("application/x-protobuf")
def as_it_is(ctx: Any, value: bytes) -> bytes:
    return value


@schemathesis.serializer("application/x-ndjson", "application/ndjson")
def as_lines(ctx: Any, value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="replace")


# The document is served without a look into the database.
schema = schemathesis.openapi.from_wsgi("/api/schema/", WSGIHandler())
OPERATIONS = [found.ok() for found in schema.get_all_operations()]


# Not by the schema's own `parametrize`: its tests go by one id, and side by side only one of them would be run.
@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
@fuzzing(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_whatever_is_sent_is_answered_as_promised(operation: Any, data: Any, key: str) -> None:
    case = data.draw(operation.as_strategy())
    answer = case.call(headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"})
    assert answer.status_code < 500, (answer.status_code, answer.text)
    case.validate_response(
        answer,
        checks=[
            schemathesis.checks.not_a_server_error,
            schemathesis.checks.CHECKS.get_one("status_code_conformance"),
            schemathesis.checks.CHECKS.get_one("content_type_conformance"),
            schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
        ],
    )
