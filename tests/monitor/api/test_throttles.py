"""Rate limits: per key, per bucket, told on every answer."""

from collections.abc import Callable

from django.test import Client

from monitor.models import Project

WHO = "/api/v1/sample/who/x"
CALLS = "/api/v1/sample/calls"


def headers(answer: object) -> dict[str, str]:
    names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
    return {name: answer.headers[name] for name in names}  # type: ignore[attr-defined]


def test_every_answer_says_what_is_left_and_the_one_too_many_is_a_429(api_with: Callable[..., Client]) -> None:
    api = api_with("read", general_per_minute=3)
    seen = [api.get(WHO) for _ in range(4)]
    assert [answer.status_code for answer in seen] == [200, 200, 200, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in seen] == ["2", "1", "0", "0"]
    assert {answer.headers["RateLimit-Limit"] for answer in seen} == {"3"}
    assert [int(answer.headers["RateLimit-Reset"]) for answer in seen] == [20, 40, 60, 60]
    refused = seen[-1]
    assert 19 <= int(refused.headers["Retry-After"]) <= 20
    assert refused.json()["detail"].startswith("This key may make 3 general requests a minute")


def test_a_refusal_counts_and_tells_too(api_with: Callable[..., Client]) -> None:
    api = api_with("ingest", general_per_minute=2)
    seen = [api.get(WHO) for _ in range(3)]
    assert [answer.status_code for answer in seen] == [403, 403, 429]
    assert headers(seen[0])["RateLimit-Remaining"] == "1"


def test_ingest_has_a_bucket_of_its_own(api_with: Callable[..., Client]) -> None:
    api = api_with("ingest", "read", general_per_minute=1, ingest_per_minute=500)
    assert api.get(WHO).status_code == 200
    assert api.get(WHO).status_code == 429
    answer = api.post(CALLS, {"calls": []}, content_type="application/json")
    assert (answer.status_code, headers(answer)["RateLimit-Limit"]) == (201, "500")


def test_one_key_does_not_slow_another(api_with: Callable[..., Client], project: Project) -> None:
    first, second = api_with("read", general_per_minute=1), api_with("read", general_per_minute=1)
    assert [first.get(WHO).status_code for _ in range(2)] == [200, 429]
    assert second.get(WHO).status_code == 200


def test_the_default_is_a_hundred_a_minute(api: Client) -> None:
    assert headers(api.get(WHO)) == {"RateLimit-Limit": "100", "RateLimit-Remaining": "99", "RateLimit-Reset": "1"}


def test_zero_is_no_limit(api_with: Callable[..., Client]) -> None:
    assert "RateLimit-Limit" not in api_with("read", general_per_minute=0).get(WHO).headers
