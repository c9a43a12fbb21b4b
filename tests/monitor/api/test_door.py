"""Who may pass the door, and what a refusal leaves behind: nothing."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from monitor import keys, memberships
from monitor.models import Agent, ApiKey, Person, Project
from monitor.models.people import Role
from monitor.tenancy import crossing, tenant
from tests.loglines import line
from tests.monitor.api.conftest import client_with, make_key, make_project, now

WHO = "/api/v1/sample/who/x"
AGENTS = "/api/v1/sample/agents"


def make_agent(project: Project, name: str) -> Agent:
    with tenant(project.pk):
        return Agent.objects.create(project=project, name=name, first_seen_at=now(), last_seen_at=now())


def agent_names(project: Project) -> list[str]:
    with tenant(project.pk):
        return sorted(Agent.objects.values_list("name", flat=True))


def test_a_handler_knows_the_caller_of_a_key(api_with: Callable[..., Client], project: Project) -> None:
    answer = api_with("read", "ingest", name="fleet").get(WHO)
    assert answer.json() == {
        "actor": "key:fleet",
        "project": project.pk,
        "scopes": ["ingest", "read"],
        "name": "x",
    }


def test_money_is_a_plain_decimal_string(api: Client, project: Project) -> None:
    make_agent(project, "thrifty")
    assert api.get(AGENTS).json()["results"] == [{"name": "thrifty", "cost_usd": "0.00000001"}]


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer hr_", "Bearer hr_abc_", "Bearer hr_%00_x", "Basic YTpi", "Bearer é", "hr_a_b"],
)
def test_what_is_no_key_is_a_401(sample_api: None, project: Project, header: str) -> None:
    answer = Client(headers={"authorization": header}).get(WHO)
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="handrail"'


def test_no_key_at_all_is_a_401_that_says_how(sample_api: None, db: None) -> None:
    assert "Authorization: Bearer" in Client().get(WHO).json()["detail"]


def test_a_right_prefix_with_a_wrong_secret_is_a_401(sample_api: None, project: Project) -> None:
    _, text = make_key(project)
    _, other = make_key(project)
    mixed = "_".join([*text.split("_", 2)[:2], other.split("_", 2)[2]])
    assert client_with(text).get(WHO).status_code == 200
    assert client_with(mixed).get(WHO).status_code == 401


def test_a_key_ends_when_it_expires_and_not_before(sample_api: None, project: Project) -> None:
    _, old = make_key(project, at=now() - timedelta(days=90, seconds=1))
    _, fresh = make_key(project, at=now() - timedelta(days=89))
    _, eternal = make_key(project, at=now() - timedelta(days=9000), lasts=None)
    assert [client_with(text).get(WHO).status_code for text in (old, fresh, eternal)] == [401, 200, 200]


def test_a_revoked_key_ends_at_once_and_for_good(sample_api: None, project: Project) -> None:
    key, text = make_key(project)
    client = client_with(text)
    assert client.get(WHO).status_code == 200
    with tenant(project.pk):
        assert keys.revoke(key.pk, now=now())
        assert not keys.revoke(key.pk, now=now())
    assert client.get(WHO).status_code == 401


def test_the_use_of_a_key_is_noted_once_a_minute(sample_api: None, project: Project) -> None:
    _, text = make_key(project)
    at = now()
    found = keys.find(text, now=at)
    assert found is not None
    assert keys.touch(found, now=at)
    again = keys.find(text, now=at)
    assert again is not None
    assert again.last_used_at == at
    assert not keys.touch(again, now=at + timedelta(seconds=59))
    assert not keys.touch(found, now=at + timedelta(seconds=59)), "one that read the row earlier loses the race"
    assert keys.touch(again, now=at + timedelta(seconds=60))


def test_only_a_hash_of_the_secret_is_kept(project: Project) -> None:
    key, text = make_key(project)
    secret = text.split("_", 2)[2]
    with tenant(project.pk):
        row = ApiKey.objects.filter(pk=key.pk).values().get()
    assert len(row["secret_hash"]) == 32
    assert secret not in repr({name: bytes(v) if isinstance(v, memoryview) else v for name, v in row.items()})


@pytest.mark.parametrize(
    ("method", "path", "needs"),
    [
        ("post", "/api/v1/sample/calls", "ingest"),
        ("get", AGENTS, "read"),
        ("post", AGENTS, "operate"),
        ("delete", AGENTS, "admin"),
    ],
)
def test_each_scope_opens_its_own_calls_only(
    api_with: Callable[..., Client], method: str, path: str, needs: str
) -> None:
    body = None if method == "get" else {"calls": [], "name": "a"}
    statuses = {
        scope: getattr(api_with(scope), method)(path, body, content_type="application/json").status_code
        for scope in ("ingest", "read", "operate", "admin", "act-as")
    }
    assert {scope for scope, status in statuses.items() if status < 300} == {needs}
    assert {status for scope, status in statuses.items() if scope != needs} == {403}


def test_a_key_sees_and_takes_nothing_of_another_project(api: Client, project: Project) -> None:
    south = make_project("south")
    make_agent(south, "theirs")
    make_agent(project, "ours")
    assert [row["name"] for row in api.get(AGENTS).json()["results"]] == ["ours"]
    assert api.post(AGENTS, {"name": "theirs"}, content_type="application/json").status_code == 201
    assert api.post(AGENTS, {"name": "ours"}, content_type="application/json").status_code == 409
    assert agent_names(south) == ["theirs"]
    assert agent_names(project) == ["ours", "theirs"]


def test_a_refusal_rolls_back_and_says_what_it_adds(api: Client, project: Project) -> None:
    answer = api.post(AGENTS, {"name": "refused"}, content_type="application/json")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Refused",
        "status": 402,
        "scope": "run",
        "limit_usd": "5.00",
    }
    assert agent_names(project) == []


def test_a_fault_of_ours_is_a_500_without_a_trace(api: Client) -> None:
    answer = api.get("/api/v1/sample/fault")
    assert answer.status_code == 500
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert b"RuntimeError" not in answer.content
    assert b"a fault of ours" not in answer.content


def test_the_log_of_a_500_quotes_nothing_that_the_database_quotes(
    api: Client, caplog: pytest.LogCaptureFixture
) -> None:
    answer = api.post("/api/v1/sample/store", {"name": "SELECT hunter22"}, content_type="application/json")
    assert (answer.status_code, b"hunter22" in answer.content) == (500, False)
    [told] = [one for one in caplog.records if one.name == "django.request"]
    assert told.exc_info is not None
    assert "hunter22" in str(told.exc_info[1])
    written = line(told)
    assert "hunter22" not in written
    assert "Internal Server Error: /api/v1/sample/store" in written
    assert "ProgrammingError: SQLSTATE 42703" in written


def test_an_address_that_is_none_is_a_problem_for_the_api_and_a_page_for_people(api: Client) -> None:
    assert api.get("/api/v1/nothing").headers["Content-Type"] == "application/problem+json"
    assert api.get("/v1/nothing").json()["status"] == 404
    assert api.get("/nothing").headers["Content-Type"].startswith("text/html")


# People


@pytest.fixture
def ann(sample_api: None, project: Project) -> Person:
    with crossing():
        memberships.invite(project, "ann@example.org", role=Role.OPERATOR)
        return Person.objects.get(email="ann@example.org")


def signed_in(person: Person, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_a_signed_in_person_calls_with_the_scopes_of_their_role(ann: Person, project: Project) -> None:
    assert signed_in(ann).get(WHO).json() == {
        "actor": "ann@example.org",
        "project": project.pk,
        "scopes": ["operate", "read"],
        "name": "x",
    }
    assert signed_in(ann).delete(AGENTS).status_code == 403


@pytest.mark.parametrize(
    ("role", "scopes"), [(Role.VIEWER, ["read"]), (Role.ADMIN, ["admin", "ingest", "operate", "read"])]
)
def test_the_role_decides(ann: Person, project: Project, role: str, scopes: list[str]) -> None:
    with crossing():
        memberships.join(project, ann, role=role)
    assert signed_in(ann).get(WHO).json()["scopes"] == scopes


def test_a_header_names_one_of_their_projects_and_no_other(ann: Person, project: Project) -> None:
    second, foreign = make_project("second"), make_project("foreign")
    with crossing():
        memberships.join(second, ann, role=Role.VIEWER)
    client = signed_in(ann)
    assert client.get(WHO).json()["project"] == project.pk
    assert client.get(WHO, headers={"X-Handrail-Project": "second"}).json()["project"] == second.pk
    for name in (foreign.name, "nowhere", "a\0b"):
        assert client.get(WHO, headers={"X-Handrail-Project": name}).status_code == 403


def test_a_session_writes_with_its_csrf_token_only(ann: Person, project: Project) -> None:
    client = signed_in(ann, enforce_csrf_checks=True)
    body = {"name": "written"}
    assert client.post(AGENTS, body, content_type="application/json").status_code == 403
    assert agent_names(project) == []
    client.cookies["handrail_csrf"] = token = "a" * 32
    answer = client.post(AGENTS, body, content_type="application/json", headers={"X-CSRFToken": token})
    assert answer.status_code == 201
    assert agent_names(project) == ["written"]


def test_who_has_signed_out_or_is_switched_off_is_nobody(ann: Person) -> None:
    client = signed_in(ann)
    Person.objects.filter(pk=ann.pk).update(is_active=False)
    assert client.get(WHO).status_code == 401
    Person.objects.filter(pk=ann.pk).update(is_active=True)
    assert client.get(WHO).status_code == 200
    client.logout()
    assert client.get(WHO).status_code == 401
