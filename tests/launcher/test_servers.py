"""What every other test stands on: its own database, its own Valkey, and a clean slate after each test."""

import psycopg
import pytest
import redis
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.db import connection

from tests.plugin import servers


@pytest.mark.django_db
def test_a_test_works_as_the_role_that_policies_bind() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT session_user, current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        assert cursor.fetchone() == ("handrail", "handrail_app", False, False)
        assert connection.settings_dict["NAME"] == servers.database


def test_the_owner_is_not_a_superuser(owner_dsn: str) -> None:
    with psycopg.connect(owner_dsn) as owner:
        row = owner.execute("SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
        assert row.fetchone() == ("handrail", False, False)


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_commits_is_seen_by_others_and_gone_in_the_next(
    committed_db: None, owner_dsn: str, turn: int
) -> None:
    with psycopg.connect(owner_dsn) as owner:
        shipped = owner.execute("SELECT count(*) FROM django_content_type").fetchone()
        owner.execute("INSERT INTO django_content_type (app_label, model) VALUES ('tests', 'mark')")
    assert cache.get("mark") is None
    cache.set("mark", turn)
    ContentType.objects.clear_cache()
    assert ContentType.objects.filter(app_label="tests", model="mark").count() == 1
    assert shipped is not None
    assert shipped[0] == ContentType.objects.count() - 1 > 5


def test_the_valkey_of_this_run_is_nobody_elses() -> None:
    assert str(servers.own.home) in settings.REDIS_URL
    assert redis.Redis.from_url(settings.REDIS_URL).ping() is True
