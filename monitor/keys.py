"""API keys: made once, shown once, found by prefix, compared in constant time."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet

from monitor import changes
from monitor.models import ApiKey, Project, Subject
from monitor.models.keys import Scope
from monitor.tenancy import tenant

MARK = "hr"
PREFIX_BYTES = 6
SECRET_BYTES = 32
LASTS = timedelta(days=90)
LIMITS = ("general_per_minute", "ingest_per_minute")
MOST_PER_MINUTE = 1_000_000_000
TOUCH_EVERY = timedelta(minutes=1)

# The function runs as the owner of the tables: one query, before any project is known; what the project masks with it.
FIND = "SELECT (found.key).*, found.mask_pii, found.mask_ips FROM handrail_key(%s) AS found"


class UnknownScope(ValueError):
    """A scope that does not exist was asked for."""


class NotNamed(LookupError):
    """No living key goes by the words, or several do; says which."""


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


def named(words: str, *, project_name: str = "", now: datetime) -> ApiKey:
    """The one living key of this name, or that begins so, with its project. Raises NotNamed.

    Call it inside `crossing()`.
    """
    found = living(now=now).filter(Q(name=words) | Q(prefix=words.removeprefix(f"{MARK}_")))
    if project_name:
        found = found.filter(project__name=project_name)
    several = list(found.select_related("project").order_by("created_at"))
    if not several:
        raise NotNamed(f"no valid key has the name or prefix {words}; list_keys shows those there are")
    if len(several) > 1:
        prefixes = ", ".join(f"{MARK}_{key.prefix} ({key.project.name})" for key in several)
        raise NotNamed(f"several keys are named {words}: say which one by its prefix: {prefixes}")
    return several[0]


def limit(
    project_id: int, key_id: UUID, limits: Mapping[str, int | None], *, actor: str, now: datetime
) -> ApiKey | None:
    """Set requests a minute by the names of LIMITS: 0 is no limit, None what the server gives to all.

    The next request is held against it, and the journal tells who changed what. None when there is no living key.
    """
    key = living(now=now).select_for_update().filter(project_id=project_id, id=key_id).first()
    if key is None:
        return None
    changed = {name: value for name, value in limits.items() if getattr(key, name) != value}
    if changed:
        was = {name: getattr(key, name) for name in changed}
        ApiKey.objects.filter(id=key_id).update(**changed)
        for name, value in changed.items():
            setattr(key, name, value)
        changes.record(
            project_id,
            Subject.KEY,
            f"{MARK}_{key.prefix}",
            to_state="changed",
            cause="edited",
            actor=actor,
            now=now,
            data={"name": key.name, **changed, "was": was},
            concerns_alerts=False,
        )
    return key


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
