"""Checks at start: a session of the application must be one that row-level security binds.

handrail.E004  the session's role is not handrail_app
handrail.E005  the session's role is a superuser, which no policy binds
handrail.E006  the session's role has BYPASSRLS
handrail.E008  a restore was begun and has not ended
"""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.checks import Tags as DjangoTags
from django.db import OperationalError, connection

from monitor.tenancy import TENANT_ROLE

# The schema that a restore has while it is under way.
RESTORING = "handrail_restoring"
IS_RESTORING = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)"
SESSION = "SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"


@register(DjangoTags.database)
def session_is_bound(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """The session's role, as PostgreSQL says it. Migrations run as the owner and are not asked."""
    if not databases or settings.DB_ROLE != "app":
        return []
    return role_problems()


@register(DjangoTags.database)
def is_whole(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Whether a restore stopped half-way; then nothing starts on it, not even a migration."""
    if not databases:
        return []
    try:
        with connection.cursor() as cursor:
            cursor.execute(IS_RESTORING, [RESTORING])
            (is_restoring,) = cursor.fetchone()
    except OperationalError:
        return []
    if not is_restoring:
        return []
    hint = "Run manage.py restore again with the same backup; it goes on where it stopped."
    return [Error("A restore into this database was begun and has not ended.", hint=hint, id="handrail.E008")]


def role_problems() -> list[CheckMessage]:
    """What is wrong with the role of the present connection."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(SESSION)
            role, is_superuser, bypasses = cursor.fetchone()
    except OperationalError:
        return []  # Whether the database can be reached is for /ready to say.
    found: list[CheckMessage] = []
    if role != TENANT_ROLE:
        hint = f"Grant {TENANT_ROLE} to the user of DATABASE_URL, and let no pooler drop the connection's options."
        found.append(Error(f"The session runs as {role}, not as {TENANT_ROLE}.", hint=hint, id="handrail.E004"))
    if is_superuser:
        hint = "ALTER ROLE handrail_app NOSUPERUSER: a superuser sees every project's rows."
        found.append(Error(f"The role {role} is a superuser.", hint=hint, id="handrail.E005"))
    if bypasses:
        hint = "ALTER ROLE handrail_app NOBYPASSRLS: such a role sees every project's rows."
        found.append(Error(f"The role {role} bypasses row-level security.", hint=hint, id="handrail.E006"))
    return found
