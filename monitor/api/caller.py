"""Who calls: a key, or a person through their session; both with a project and scopes."""

import re
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import Literal
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, HttpResponse, parse_cookie
from rest_framework.authentication import CSRFCheck

from monitor import keys
from monitor.api.problems import Forbidden, Unauthenticated
from monitor.masking import Rule, rule_of
from monitor.models import Membership, Person
from monitor.models.keys import Scope
from monitor.models.people import Role
from monitor.tenancy import crossing

PROJECT_HEADER = "X-Handrail-Project"
# Where a request says by which of its headers somebody was let in, for those who stand at the gate.
KNOWN_BY = "handrail.known_by"
AUTHORIZATION, SESSION = "authorization", "session"
INVALID_KEY = "This key is not valid: unknown, expired or revoked."
NO_KEY = "Send an API key as `Authorization: Bearer <key>`, or sign in."
# Where clients of Langfuse call, which send their keys as a name and a password.
BASIC_PATHS = "/api/public/"
_OURS = re.compile(rf"(?:^|;)(\s*{re.escape(settings.SESSION_COOKIE_NAME)}\s*=[^;]*)")
SCOPES_OF_ROLE: dict[str, frozenset[str]] = {
    Role.VIEWER: frozenset({Scope.READ}),
    Role.OPERATOR: frozenset({Scope.READ, Scope.OPERATE}),
    Role.ADMIN: frozenset({Scope.INGEST, Scope.READ, Scope.OPERATE, Scope.ADMIN}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """`actor` is how the journal names the caller: a person's email, or `key:<name>`."""

    project_id: int
    actor: str
    kind: Literal["key", "person"]
    scopes: frozenset[str]
    person_id: int | None = None
    key_id: UUID | None = None
    department: str = ""
    general_per_minute: int | None = None
    ingest_per_minute: int | None = None
    is_instance_admin: bool = False
    # What the project masks in telemetry, None for nothing.
    rule: Rule | None = None

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    @property
    def rate_key(self) -> str:
        """Whose rate limit a request counts against."""
        return f"key:{self.key_id}" if self.key_id else f"person:{self.person_id}"


class Request(HttpRequest):
    """What a handler of the API gets: Django's request with the caller and the time of arrival."""

    caller: Caller
    now: datetime


def identify(request: HttpRequest, *, now: datetime) -> Caller:
    """The caller. Raises Unauthenticated, or Forbidden for a session without CSRF token or membership."""
    header = request.headers.get("Authorization")
    if header is not None:
        caller = _by_key(key_text(request.path, header), now=now)
        request.META[KNOWN_BY] = AUTHORIZATION
        return caller
    return identify_person(request, request.headers.get(PROJECT_HEADER))


def known_by(request: HttpRequest, *, now: datetime) -> str | None:
    """By which of its headers a request is somebody's, whatever they may do here; None for nobody's."""
    header = request.headers.get("Authorization")
    if header is not None and keys.find(key_text(request.path, header), now=now) is not None:
        return AUTHORIZATION
    attach_person(request)
    person = getattr(request, "user", None)
    return SESSION if person is not None and person.is_authenticated else None


def shown(path: str, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """What a request shows of who it is, as the doors read it: by AUTHORIZATION a key, then by SESSION a session.

    Neither has been looked up. However the headers are written, it is the same text for the same key or session.
    """
    authorization, cookies = [], []
    for name, value in headers:
        if name == b"authorization":
            authorization.append(value)
        elif name == b"cookie":
            cookies.append(value)
    found: dict[str, str] = {}
    if authorization and (text := key_text(path, b",".join(authorization).decode("latin-1"))):
        found[AUTHORIZATION] = text
    if cookies:
        # Of several with one name the last counts. Of the others, which may be many, nothing is made.
        ours = _OURS.findall(b"; ".join(cookies).decode(errors="replace"))
        if ours and (session := parse_cookie(ours[-1])[settings.SESSION_COOKIE_NAME]):
            found[SESSION] = session
    return found


def with_one_cookie(path: str, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers with no cookie but the session, as `shown` reads it.

    Where a call comes to Django without the bridge, it would take another of several, and one session count as many.
    """
    others = [(name, value) for name, value in headers if name != b"cookie"]
    session = shown(path, headers).get(SESSION, "")
    if not (session.isascii() and session.isalnum()):
        return others
    return [*others, (b"cookie", f"{settings.SESSION_COOKIE_NAME}={session}".encode())]


def key_text(path: str, header: str) -> str:
    """The key that an Authorization header shows at this path, "" for none."""
    scheme, _, text = header.partition(" ")
    scheme, text = scheme.lower(), text.strip()
    if scheme == "basic" and path.startswith(BASIC_PATHS):
        return _password(text).strip()
    return text if scheme == "bearer" else ""


def identify_person(request: HttpRequest, project_name: str | None) -> Caller:
    """The person of the session in a project of theirs, by name or the last one; raises as `identify`."""
    person = getattr(request, "user", None)
    if person is None or not person.is_authenticated:
        raise Unauthenticated(NO_KEY)
    _check_csrf(request)
    request.META[KNOWN_BY] = SESSION
    return _by_person(person, project_name)


def attach_person(request: HttpRequest) -> None:
    """Give a request the person of its session, as the middleware would, but asked anew each time."""
    if settings.SESSION_COOKIE_NAME not in request.COOKIES:
        return
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(request.COOKIES[settings.SESSION_COOKIE_NAME])
    request.user = get_user(request)


def require(caller: Caller, scope: str) -> None:
    """Raise Forbidden unless the caller has the scope, or one of those in "ingest or operate"."""
    if any(caller.may(name) for name in scope.split(" or ")):
        return
    has = ", ".join(sorted(caller.scopes)) or "none"
    raise Forbidden(f"This needs the scope {scope}; {'this key' if caller.kind == 'key' else 'your role'} has {has}.")


def _by_key(text: str, *, now: datetime) -> Caller:
    key = keys.find(text, now=now)
    if key is None:
        raise Unauthenticated(INVALID_KEY)
    keys.touch(key, now=now)
    return Caller(
        project_id=key.project_id,
        actor=f"key:{key.name}",
        kind="key",
        scopes=frozenset(key.scopes),
        key_id=key.id,
        department=key.department,
        general_per_minute=key.general_per_minute,
        ingest_per_minute=key.ingest_per_minute,
        rule=rule_of(key.mask_pii, key.mask_ips),
    )


def _password(credentials: str) -> str:
    """The password of HTTP Basic credentials, "" when they are none; the name may be any."""
    try:
        return b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _by_person(person: Person, project_name: str | None) -> Caller:
    with crossing():
        memberships = Membership.objects.select_related("project").filter(person_id=person.pk)
        if project_name is not None:
            membership = memberships.filter(project__name=project_name.replace("\0", "")).first()
        else:
            membership = memberships.filter(project_id=person.last_project_id or 0).first()
            membership = membership or memberships.order_by("id").first()
    if membership is None:
        raise Forbidden(f"You are not a member of the project {project_name}." if project_name else "No project yet.")
    return Caller(
        project_id=membership.project_id,
        actor=person.email,
        kind="person",
        scopes=SCOPES_OF_ROLE[membership.role],
        person_id=person.pk,
        is_instance_admin=person.is_instance_admin,
        rule=rule_of(membership.project.mask_pii, membership.project.mask_ips),
    )


def _check_csrf(request: HttpRequest) -> None:
    check = CSRFCheck(_passed)
    check.process_request(request)
    reason = check.process_view(request, _passed, (), {})
    if reason:
        raise Forbidden(f"CSRF check failed: {reason}")


def _passed(_: HttpRequest) -> HttpResponse:
    return HttpResponse()
