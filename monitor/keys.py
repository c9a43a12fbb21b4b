"""API keys: made once, shown once, found by prefix, compared in constant time."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet

from monitor.models import ApiKey, Project
from monitor.models.keys import Scope
from monitor.tenancy import tenant

MARK = "hr"
PREFIX_BYTES = 6
SECRET_BYTES = 32
LASTS = timedelta(days=90)
TOUCH_EVERY = timedelta(minutes=1)

# The function runs as the owner of the tables: one query, before any project is known; what the project masks with it.
FIND = "SELECT (found.key).*, found.mask_pii, found.mask_ips FROM handrail_key(%s) AS found"


class UnknownScope(ValueError):
    """A scope that does not exist was asked for."""


def make(
    project: Project,
    name: str,
    scopes: Iterable[str],
    *,
    now: datetime,
    department: str = "",
    lasts: timedelta | None = LASTS,
    general_per_minute: int | None = None,
    ingest_per_minute: int | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text `hr_<prefix>_<secret>`, which exists nowhere else. Raises UnknownScope."""
    wanted = list(dict.fromkeys(scopes))
    if unknown := set(wanted) - set(Scope.values):
        raise UnknownScope(f"no such scope: {', '.join(sorted(unknown))}; there are {', '.join(Scope.values)}")
    prefix = secrets.token_hex(PREFIX_BYTES)
    secret = secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey.objects.create(
        project=project,
        name=name,
        prefix=prefix,
        secret_hash=_digest(secret),
        scopes=wanted,
        department=department,
        expires_at=now + lasts if lasts is not None else None,
        general_per_minute=general_per_minute,
        ingest_per_minute=ingest_per_minute,
    )
    return key, f"{MARK}_{prefix}_{secret}"


def find(text: str, *, now: datetime) -> ApiKey | None:
    """The living key that this text is, or None: unknown, wrong, expired and revoked look the same."""
    mark, _, rest = text.partition("_")
    prefix, _, secret = rest.partition("_")
    if mark != MARK or not secret or not (prefix.isascii() and prefix.isalnum()) or len(prefix) > 16:
        return None
    key = next(iter(ApiKey.objects.raw(FIND, [prefix])), None)
    # An unknown prefix costs the same comparison.
    known = bytes(key.secret_hash) if key else b"\0" * 32
    if not hmac.compare_digest(known, _digest(secret)) or key is None:
        return None
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        return None
    return key


def living(*, now: datetime) -> QuerySet[ApiKey]:
    """The keys that are neither revoked nor expired."""
    return ApiKey.objects.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)


def touch(key: ApiKey, *, now: datetime) -> bool:
    """Note that the key was used, at most once a minute; whether it was noted."""
    stale = now - TOUCH_EVERY
    if key.last_used_at is not None and key.last_used_at > stale:
        return False
    with tenant(key.project_id):
        unused = ApiKey.objects.filter(id=key.id).filter(Q(last_used_at=None) | Q(last_used_at__lte=stale))
        return unused.update(last_used_at=now) == 1


def revoke(key_id: UUID, *, now: datetime) -> bool:
    """End a key for good; False when it had ended already."""
    return ApiKey.objects.filter(id=key_id, revoked_at=None).update(revoked_at=now) == 1


def _digest(secret: str) -> bytes:
    # A plain hash is enough: the secret has 256 random bits, so there is nothing to guess.
    return hashlib.sha256(secret.encode()).digest()
