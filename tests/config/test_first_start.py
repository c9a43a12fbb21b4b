"""The first start makes what is needed and shows it once; commands print what can be used."""

from datetime import timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command
from django.test import Client

from alerts.models import Channel
from config.management.commands.demo import prepare
from monitor import keys
from monitor.models import ApiKey, Budget, HumanAgent, Membership, Person, Project
from monitor.retention import PARTITIONED
from monitor.tenancy import crossing
from tests.monitor.api.conftest import now
from tests.monitor.days import days_of, drop_every_day
from tests.monitor.fleets import an_execution


def run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def value_of(text: str, label: str) -> str:
    return next(line.removeprefix(label).strip() for line in text.splitlines() if line.startswith(label))


def limits(project_name: str) -> dict[tuple[str, str, str], Decimal]:
    with crossing():
        found = Budget.objects.filter(project__name=project_name)
        return {(b.scope, b.target, b.period): b.limit_usd for b in found}


def test_the_first_start_shows_a_password_and_a_key_that_work(db: None) -> None:
    text = run("bootstrap")
    assert value_of(text, "Open") == "http://localhost:8000"
    person = authenticate(username=value_of(text, "Sign in as"), password=value_of(text, "Password"))
    assert isinstance(person, Person)
    assert (person.email, person.is_instance_admin) == ("operator@localhost", True)
    key = keys.find(value_of(text, "API key"), now=now())
    assert key is not None
    assert (key.name, key.scopes) == ("first key", ["ingest", "read", "operate"])
    with crossing():
        assert Membership.objects.get().role == "admin"
        assert HumanAgent.objects.get().person == person
        every_level = ["info", "warning", "critical"]
        assert sorted(Channel.objects.values_list("kind", "levels")) == [
            ("console", every_level),
            ("in_app", every_level),
        ]


def test_the_project_begins_with_the_promised_budgets(db: None) -> None:
    run("bootstrap")
    assert limits("default") == {
        ("run", "", "run"): Decimal(5),
        ("project", "", "hour"): Decimal(50),
        ("project", "", "day"): Decimal(500),
        ("project", "", "month"): Decimal(5000),
        ("department", "Sales", "month"): Decimal(500),
        ("department", "Marketing", "month"): Decimal(300),
        ("department", "Operations", "month"): Decimal(200),
        ("department", "Support", "month"): Decimal(150),
        ("department", "", "month"): Decimal(100),
    }
    with crossing():
        assert Budget.objects.get(scope="global").limit_usd == Decimal(1000)


def test_a_start_after_a_long_time_off_makes_the_days_that_are_missing(db: None) -> None:
    drop_every_day()
    text = run("bootstrap")
    api = Client(headers={"authorization": f"Bearer {value_of(text, 'API key')}"})
    answer = api.post("/api/v1/executions", {"agent": "planner"}, content_type="application/json")
    assert (answer.status_code, answer.json()["status"]) == (201, "running")
    today = now().date()
    for table in PARTITIONED:
        made = {f"{table}_p{today + timedelta(days=ahead):%Y%m%d}" for ahead in range(-1, 8)}
        assert days_of(table) == made


def test_a_later_start_tells_the_way_back_until_somebody_has_signed_in(committed_db: None) -> None:
    run("bootstrap")
    assert run("bootstrap").splitlines() == [
        "Nobody has signed in yet. Lost the password? manage.py changepassword operator@localhost"
    ]
    Person.objects.update(last_login=now())
    assert run("bootstrap") == ""


def test_a_later_start_changes_nothing(committed_db: None) -> None:
    run("bootstrap")
    with crossing():
        Budget.objects.filter(scope="run").update(limit_usd=7)
        before = [list(model.objects.values_list("pk")) for model in (Person, ApiKey, Budget, Channel, Project)]
    run("bootstrap")
    with crossing():
        assert [list(model.objects.values_list("pk")) for model in (Person, ApiKey, Budget, Channel, Project)] == before
        assert Budget.objects.get(scope="run").limit_usd == 7


def test_the_environment_names_budgets_and_the_address_for_what_is_critical(db: None, settings: Any) -> None:
    settings.DAILY_BUDGET_USD = Decimal(25)
    settings.DEPARTMENT_BUDGETS_USD = {"Sales": Decimal(1)}
    settings.ALERT_EMAIL_TO = "ceo@example.org"
    run("bootstrap")
    assert limits("default")["project", "", "day"] == Decimal(25)
    assert limits("default")["department", "Sales", "month"] == Decimal(1)
    with crossing():
        email = Channel.objects.get(kind="email")
    assert (email.target, email.levels) == ("ceo@example.org", ["critical"])


def test_create_key_prints_the_key_and_nothing_else(db: None) -> None:
    text = run("create_key", "fleet", "--scopes", "read,act-as", "--project", "new", "--days", "0")
    assert text.count("\n") == 1
    key = keys.find(text.strip(), now=now())
    assert key is not None
    assert (key.name, key.scopes, key.expires_at) == ("fleet", ["read", "act-as"], None)
    assert len(limits("new")) == 9


def test_create_key_says_beside_the_key_when_it_ends(db: None, capsys: pytest.CaptureFixture[str]) -> None:
    text = run("create_key", "fleet", "--days", "30")
    key = keys.find(text.strip(), now=now())
    assert key is not None
    assert key.expires_at is not None
    assert f"It ends on {key.expires_at:%d %b %Y}" in capsys.readouterr().err


def test_a_key_is_listed_until_it_is_revoked(db: None) -> None:
    text = run("create_key", "fleet", "--scopes", "read", "--project", "north").strip()
    other = run("create_key", "fleet", "--project", "south", "--days", "0").strip()
    ours, theirs = text[:15], other[:15]
    assert [line.split("\t")[:5] for line in run("list_keys").splitlines()] == [
        [ours, "north", "fleet", "read", "never used"],
        [theirs, "south", "fleet", "ingest,read", "never used"],
    ]
    with pytest.raises(CommandError, match=f"say which one by its prefix: {ours}"):
        run("revoke_key", "fleet")
    assert run("revoke_key", ours) == f"revoked {ours} (fleet, north)\n"
    assert (keys.find(text, now=now()), keys.find(other, now=now()) is None) == (None, False)
    assert run("list_keys", "--project", "north") == ""
    with pytest.raises(CommandError, match="no valid key has the name or prefix"):
        run("revoke_key", ours)
    assert run("revoke_key", "fleet") == f"revoked {theirs} (fleet, south)\n"
    assert run("list_keys") == ""


def test_a_scope_that_does_not_exist_makes_no_key_and_no_project(db: None) -> None:
    with pytest.raises(CommandError, match="no such scope: reed"):
        run("create_key", "fleet", "--scopes", "reed", "--project", "new")
    with crossing():
        assert not ApiKey.objects.exists()
        assert not Project.objects.filter(name="new").exists()


def test_create_operator_prints_a_password_that_signs_in(db: None) -> None:
    password = run("create_operator", "Ann@Example.org", "--role", "viewer").strip()
    assert isinstance(authenticate(username="ann@example.org", password=password), Person)
    with crossing():
        assert Membership.objects.get(person__email="ann@example.org").role == "viewer"
    with pytest.raises(CommandError, match="has an account already"):
        run("create_operator", "ann@example.org")
    with pytest.raises(CommandError, match="is not an email address"):
        run("create_operator", "ann")


def test_who_has_nothing_to_see_yet_is_led_to_the_simulated_fleet(db: None) -> None:
    run("bootstrap")
    prepare()
    assert str(Person.objects.get().last_project) == "demo"


def test_who_has_work_to_look_at_stays_there(db: None) -> None:
    run("bootstrap")
    with crossing():
        an_execution(Project.objects.get(name="default").pk, now=now())
    prepare()
    assert str(Person.objects.get().last_project) == "default"
