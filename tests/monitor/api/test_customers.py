"""Who a conversation is with: an id that can be found again, of whatever kind."""

import json
import random
from typing import Any

import pytest
from django.test import Client

from tests.monitor.api.conftest import client_with, make_key, make_project

DIGITS = "0123456789"
# Incompressible, and four bytes each.
LETTERS = [chr(letter) for letter in range(0x20000, 0x28000)]


@pytest.fixture
def client(db: None) -> Client:
    return client_with(make_key(make_project("north"))[1])


def opened(client: Client, customer: Any, name: str = "talk") -> Any:
    body = json.dumps({"conversation_id": name, "customer": customer})
    return client.post("/api/v1/conversations", body, content_type="application/json")


def letters(count: int) -> str:
    return "".join(random.Random(1).choices(LETTERS, k=count))


@pytest.mark.parametrize("known", [letters(201), letters(50_000), [DIGITS] * 20, {"a": DIGITS * 20}])
def test_a_customer_of_a_long_id_is_refused_by_name(client: Client, known: Any) -> None:
    answer = opened(client, {"id": known, "name": "Amelia Davis"})
    message = "must have at most 200 characters"
    assert (answer.status_code, answer.json()["errors"]) == (400, [{"field": "customer.id", "message": message}])


@pytest.mark.parametrize("known", [letters(200), "", None, 4711, 1.5, True, ["a"], {"a": 1}, 2**63 - 1])
def test_a_customer_of_any_other_id_is_kept(client: Client, known: Any) -> None:
    # Other facts may be long.
    customer = {"id": known, "notes": letters(5_000)}
    assert [opened(client, customer).status_code for _ in range(2)] == [201, 200]
    assert client.get("/api/v1/conversations/talk").json()["customer"] == customer


@pytest.mark.parametrize("known", [f"{2**70}", "9" * 5_000, "[" * 900 + "]" * 900], ids=["big", "huge", "deep"])
def test_what_is_no_id_at_all_is_a_fault_of_the_sender(client: Client, known: str) -> None:
    body = f'{{"conversation_id": "talk", "customer": {{"id": {known}}}}}'
    answer = client.post("/api/v1/conversations", body, content_type="application/json")
    assert answer.status_code == 400, answer.content
