"""What nobody means to send: every page answers it in words, none fails."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from django.test import Client
from django.test.utils import override_settings

from alerts import lifecycle
from alerts.models import Alert
from dashboard.views import session
from monitor import agents, transitions
from monitor.models import Message, QueueItem
from monitor.tenancy import tenant
from tests.dashboard.builders import SignedIn, an_execution, signed_in
from tests.dashboard.queue_builders import a_chat, act

ONE = UUID(int=1)
MOMENTS = ("0001-01-01T00:00:00+23:59", "0001-01-01", "9999-12-31T23:59:59-23:59", "9999-12-31", "2026-01-01T00:00")
AMOUNTS = ("1e999999", "1e-999999", "NaN", "9" * 400)
CURSORS = (
    *(f"{at}_{ONE}" for at in MOMENTS),
    *(f"{segment}_{at}_{ONE.hex}" for at in MOMENTS for segment in ("0", "9" * 5000, "²")),
    *(f"{usd}~{ONE}" for usd in AMOUNTS),
    *(f"{at}~run" for at in MOMENTS),
)
LISTS = ("/alerts", "/executions", "/costs/trips", "/costs?part=runs", "/costs?part=runs&order=cost")


def sent(visitor: SignedIn) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(visitor.person)
    return client


@pytest.mark.parametrize("address", LISTS)
def test_a_cursor_written_by_hand_fails_no_list(db: None, address: str) -> None:
    client = sent(signed_in())
    path, _, query = address.partition("?")
    given = dict(pair.split("=") for pair in query.split("&")) if query else {}
    assert {cursor: client.get(path, given | {"after": cursor}).status_code for cursor in CURSORS} == dict.fromkeys(
        CURSORS, 200
    )


@pytest.mark.parametrize("address", ["/", "/alerts", "/executions", "/costs", "/agents", "/agents/airline-support"])
def test_a_range_at_the_ends_of_the_calendar_fails_no_page(db: None, address: str) -> None:
    mara = signed_in()
    client = sent(mara)
    with tenant(mara.project_id):
        agents.saw(mara.project_id, "airline-support", now=datetime.now(UTC))
    last, first = ("9999-12-01", "9999-12-31T23:59:59-14:00"), ("0001-01-01T00:00+14:00", "0001-02-01")
    for span in (*((at, "") for at in MOMENTS), last, first, ("9999-12-01", "9999-12-31")):
        answer = client.get(address, {"range": "custom", "from": span[0], "to": span[1]})
        assert answer.status_code == 200, span


def test_a_nul_in_an_address_is_refused_in_words(db: None) -> None:
    client = sent(signed_in())
    for address in (
        "/alerts?q=%00",
        "/alerts?type=a%00",
        "/executions?agent=%00",
        "/costs?run=%00",
        "/agents?q=%00",
        "/agents/%00",
        "/?%00=1",
    ):
        answer = client.get(address)
        assert answer.status_code == 400, address
        assert "This could not be read." in answer.content.decode()
    assert client.get(f"/executions/{ONE}/spans/a%00").status_code == 400


def test_a_nul_in_a_form_is_refused_and_changes_nothing(db: None) -> None:
    mara = signed_in()
    client = sent(mara)
    work, item = an_execution(mara.project_id), a_chat(mara.project_id)
    act(mara, item, "claim")
    with tenant(mara.project_id):
        alert, _ = lifecycle.raise_alert(
            mara.project_id, fingerprint="x", level="warning", type="t", title="t", now=datetime.now(UTC)
        )
        said = Message.objects.count()
    forms = [
        *(
            (f"/queue/{item.pk}/{verb}", field)
            for verb, field in (
                ("say", "content"), ("release", "note"), ("transfer", "to"), ("resolve", "outcome"),
                ("back", "instruction"),
            )
        ),
        (f"/executions/{work.id}/pause", "note"),
        *((f"/alerts/{alert.pk}/{verb}", "note") for verb in ("acknowledge", "note", "resolve", "reopen", "escalate")),
    ]  # fmt: skip
    for address, field in forms:
        assert client.post(address, {field: "a\0b", "kind": "note"}).status_code == 400, address
    act_on = {"command": "pause", "id": str(work.id), "note": "\0"}
    assert client.post("/executions/act", act_on).status_code == 400
    with tenant(mara.project_id):
        assert transitions.get(mara.project_id, work.id).status == "running"
        assert (Alert.objects.get().status, QueueItem.objects.get().status) == ("firing", "claimed")
        assert Message.objects.count() == said


@pytest.mark.parametrize("ago_ms", ["9" * 400, "9" * 5000, "1e9", "x"])
def test_news_since_a_moment_that_cannot_be_is_a_problem(db: None, ago_ms: str) -> None:
    assert sent(signed_in()).get("/events/", {"ago_ms": ago_ms}).status_code == 400


def test_half_a_surrogate_pair_in_a_text_fails_no_page(db: None) -> None:
    mara = signed_in()
    one = an_execution(mara.project_id, output=r'{"a": "half \ud83d of it"}')
    answer = sent(mara).get(f"/executions/{one.id}", {"tab": "payloads"})
    assert answer.status_code == 200
    assert "half ? of it" in answer.content.decode()


def test_people_sign_in_while_redis_is_away(db: None, settings: object) -> None:
    signed_in()
    away = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"}}
    given = {"username": "operator@north.example", "password": "correct horse battery"}
    with override_settings(CACHES=away):
        client = Client(raise_request_exception=False)
        assert client.post("/sign-in", given | {"password": "wrong"}).status_code == 200
        assert client.post("/sign-in", given).headers["location"] == "/"


def test_a_count_of_wrong_tries_that_has_just_expired_fails_no_sign_in(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "WRONG_TRIES_WITHIN_S", 0)
    client = Client(raise_request_exception=False)
    for email in ("nobody@north.example", f"{'a' * 5000}@north.example"):
        assert client.post("/sign-in", {"username": email, "password": "wrong"}).status_code == 200


def test_ten_wrong_tries_make_an_email_wait(db: None) -> None:
    signed_in()
    given = {"username": "operator@north.example", "password": "wrong"}
    client = Client()
    for _ in range(session.WRONG_TRIES):
        assert "do not belong together" in client.post("/sign-in", given).content.decode()
    answer = client.post("/sign-in", given | {"password": "correct horse battery"})
    assert "Too many wrong tries" in answer.content.decode()


def test_a_cookie_that_could_be_no_session_is_none(db: None) -> None:
    client = Client(raise_request_exception=False)
    for value in ("\\000aaaaaaaaaaaaaaaaa", "é" * 32, "a" * 5000, "'; --" * 7):
        client.cookies.load(f'handrail_session="{value}"')
        assert client.get("/").status_code == 302, value
        assert client.get("/api/v1/agents").status_code == 401, value
