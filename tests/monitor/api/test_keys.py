"""How many requests a minute a key may make: seen and changed by admins, held at once, and in the journal."""

from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from monitor import keys
from monitor.models import Project, StateChange
from monitor.tenancy import tenant
from tests.monitor.api.conftest import client_with, make_key, make_project, now

JSON = "application/json"


@pytest.fixture
def north(db: None) -> Project:
    return make_project("north")


def journal(project: Project) -> list[tuple[str, str, dict[str, object]]]:
    with tenant(project.pk):
        return list(StateChange.objects.filter(subject="key").order_by("id").values_list("actor", "subject_id", "data"))


def run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out)
    return out.getvalue()


def test_a_limit_is_changed_and_holds_for_the_next_request(north: Project) -> None:
    key, text = make_key(north, ["ingest"], name="fleet")
    admin, fleet = client_with(make_key(north, ["admin"], name="boss")[1]), client_with(text)
    path = f"/api/v1/keys/{key.pk}"
    assert fleet.post("/v1/metrics", b"{}", content_type=JSON).headers["RateLimit-Limit"] == "6000"

    answer = admin.patch(path, {"ingest_per_minute": 1}, content_type=JSON)
    assert (answer.status_code, answer.json()["ingest_per_minute"]) == (200, 1)
    fleet.post("/v1/metrics", b"{}", content_type=JSON)
    held = fleet.post("/v1/metrics", b"{}", content_type=JSON)
    assert (held.status_code, held.headers["RateLimit-Limit"]) == (429, "1")

    assert admin.patch(path, {"ingest_per_minute": 0}, content_type=JSON).json()["ingest_per_minute"] == 0
    free = fleet.post("/v1/metrics", b"{}", content_type=JSON)
    assert (free.status_code, "RateLimit-Limit" in free.headers) == (200, False)

    assert admin.patch(path, {"ingest_per_minute": None}, content_type=JSON).json()["ingest_per_minute"] is None
    assert admin.patch(path, {}, content_type=JSON).status_code == 200
    assert journal(north) == [
        (
            "key:boss",
            f"hr_{key.prefix}",
            {"name": "fleet", "ingest_per_minute": value, "was": {"ingest_per_minute": was}},
        )
        for value, was in ((1, None), (0, 1), (None, 0))
    ]


def test_keys_are_listed_without_their_secrets(north: Project) -> None:
    _, text = make_key(north, ["admin"], name="boss")
    make_key(make_project("south"), name="theirs")
    gone, _ = make_key(north, name="gone")
    with tenant(north.pk):
        keys.revoke(gone.pk, now=now())
    answer = client_with(text).get("/api/v1/keys")
    assert [one["name"] for one in answer.json()["keys"]] == ["boss"]
    assert answer.json()["keys"][0]["prefix"] == text[:15]
    assert text[16:] not in answer.content.decode()


@pytest.mark.parametrize("scopes", [["ingest", "read"], ["operate"]])
def test_only_admins_see_and_change_keys(north: Project, scopes: list[str]) -> None:
    key, text = make_key(north, scopes)
    client = client_with(text)
    assert client.get("/api/v1/keys").status_code == 403
    assert client.patch(f"/api/v1/keys/{key.pk}", {"ingest_per_minute": 0}, content_type=JSON).status_code == 403
    assert journal(north) == []


def test_a_key_of_nobody_of_others_or_ended_is_not_found(north: Project) -> None:
    admin = client_with(make_key(north, ["admin"])[1])
    theirs, _ = make_key(make_project("south"))
    ended, _ = make_key(north)
    with tenant(north.pk):
        keys.revoke(ended.pk, now=now())
    for key_id in (uuid4(), theirs.pk, ended.pk):
        assert admin.patch(f"/api/v1/keys/{key_id}", {"ingest_per_minute": 1}, content_type=JSON).status_code == 404
    for bad in (-1, 10**10, "many", 1.5):
        answer = admin.patch(f"/api/v1/keys/{theirs.pk}", {"ingest_per_minute": bad}, content_type=JSON)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "ingest_per_minute")


def test_the_command_shows_and_changes_limits(north: Project) -> None:
    text = run("create_key", "fleet", "--project", "north", "--ingest-per-minute", "50").strip()
    assert run("limit_key", "fleet") == "general_per_minute   default\ningest_per_minute    50\n"
    changed = run("limit_key", text[:15], "--ingest-per-minute", "0", "--general-per-minute", "9")
    assert changed == "general_per_minute   9\ningest_per_minute    no limit\n"
    assert run("limit_key", "fleet", "--general-per-minute", "default").startswith("general_per_minute   default")
    assert [(actor, prefix) for actor, prefix, _ in journal(north)] == [("manage.py", text[:15])] * 2
    for words, reason in (
        (["--ingest-per-minute", "many"], "say a number"),
        (["--ingest-per-minute", "-1"], "say a number"),
        (["--ingest-per-minute", "9" * 30], "say a number"),
        (["--project", "south"], "no valid key"),
    ):
        with pytest.raises(CommandError, match=reason):
            run("limit_key", "fleet", *words)
