"""Every call of the API, with what a machine makes up: no fault of ours, and no answer that the contract leaves out."""

from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from hypothesis import HealthCheck, Phase, settings

from tests.monitor.api.conftest import ALL, make_key, make_project

EXAMPLES = 6


@pytest.fixture
def key(committed_db: None) -> str:
    return make_key(make_project("fuzzed"), [*ALL, "act-as"], general_per_minute=0, ingest_per_minute=0)[1]


# The document is served without a look into the database.
schema = schemathesis.openapi.from_wsgi("/api/schema/", WSGIHandler())


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_sent_is_answered_as_promised(case: Any, key: str) -> None:
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
