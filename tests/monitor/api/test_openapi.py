"""The published contract says what the doors do."""

from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from django.test import Client

from monitor.api import openapi
from tests.monitor.api import sample_urls

DRAFT = "https://json-schema.org/draft/2020-12/schema"
SAMPLE = sample_urls.__name__


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    return openapi.document(SAMPLE)


def test_the_document_is_served_without_a_key(db: None) -> None:
    answer = Client().get("/api/schema/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json()["openapi"] == "3.1.0"
    assert answer.json()["paths"]["/api/v1/executions"]["post"]["tags"] == ["executions"]


def test_every_operation_can_be_read_by_a_tool(db: None) -> None:
    document = Client().get("/api/schema/").json()
    schema = schemathesis.openapi.from_dict(document)
    read = [operation.ok().label for operation in schema.get_all_operations()]
    written = [f"{method.upper()} {path}" for path, calls in document["paths"].items() for method in calls]
    assert sorted(read) == sorted(written)
    ids = [call["operationId"] for calls in document["paths"].values() for call in calls.values()]
    assert len(ids) == len(set(ids))


def test_every_shape_is_valid_json_schema(db: None) -> None:
    document = Client().get("/api/schema/").json()
    shapes = document["components"]["schemas"].values()
    assert shapes
    for shape in shapes:
        jsonschema_rs.meta.validate(shape | {"$schema": DRAFT})


def test_every_reference_leads_somewhere(db: None) -> None:
    document = Client().get("/api/schema/").json()

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(inner) for inner in value.values()))
        if isinstance(value, list):
            return set().union(*(references(inner) for inner in value))
        return set()

    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= named


def test_an_operation_says_its_scope_its_parameters_and_every_answer(sample: dict[str, Any]) -> None:
    listing = sample["paths"]["/api/v1/sample/agents"]["get"]
    assert listing["description"].endswith("Scope: `read`. Rate limit: general.")
    assert listing["security"] == [{"key": []}, {"session": []}]
    parameters = {given["name"]: given["schema"] for given in listing["parameters"]}
    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    assert parameters["name"] == {"type": "array", "items": {"type": "string"}}
    assert list(listing["responses"]) == ["200", "400", "401", "403", "429", "503"]
    made = sample["paths"]["/api/v1/sample/agents"]["post"]
    assert made["requestBody"]["required"]
    assert made["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Named"}
    assert {"201", "409", "413", "415"} <= set(made["responses"])
    assert not sample["paths"]["/api/v1/sample/agents"]["delete"]["requestBody"]["required"]


def test_a_path_names_its_parameters(sample: dict[str, Any]) -> None:
    who = sample["paths"]["/api/v1/sample/who/{name}"]["get"]
    assert who["parameters"] == [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    ]
    assert "404" in who["responses"]


def test_refusals_are_problem_details(sample: dict[str, Any]) -> None:
    who = sample["paths"]["/api/v1/sample/who/{name}"]["get"]
    assert who["responses"]["401"]["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}
    }
    shape = sample["components"]["schemas"]["ProblemDetails"]
    assert shape["required"] == ["type", "title", "status"]


def test_the_page_for_people_lists_every_call_and_loads_nothing_foreign(db: None) -> None:
    document = Client().get("/api/schema/").json()
    page = Client().get("/api/docs/")
    text = page.content.decode()
    for calls in document["paths"].values():
        for call in calls.values():
            assert f'id="{call["operationId"]}"' in text
    assert "<script" not in text
    assert "https://" not in text
    assert "style=" not in text
