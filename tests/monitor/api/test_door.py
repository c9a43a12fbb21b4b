from django.test import Client


def test_a_handler_gets_the_caller_and_answers_json(api: Client) -> None:
    answer = api.get("/api/v1/sample/who/x")
    assert answer.status_code == 200
    assert answer.json()["scopes"] == ["admin", "ingest", "operate", "read"]
