"""Keys over HTTP: what there are, and how many requests a minute each may make. Their texts are shown nowhere."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from django.urls import path
from msgspec import UNSET, UnsetType

from monitor import keys
from monitor.api.caller import Request
from monitor.api.door import Door, endpoint
from monitor.api.problems import Problem
from monitor.models import ApiKey

PerMinute = Annotated[int, msgspec.Meta(ge=0, le=keys.MOST_PER_MINUTE)]


class ChangedKey(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Requests a minute: 0 is no limit, null is what the server gives to all keys."""

    general_per_minute: PerMinute | UnsetType | None = UNSET
    ingest_per_minute: PerMinute | UnsetType | None = UNSET


class KeyOut(msgspec.Struct, kw_only=True):
    """A key without its secret; `prefix` is what its text begins with."""

    id: UUID
    prefix: str
    name: str
    scopes: list[str]
    department: str
    general_per_minute: int | None
    ingest_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class KeyList(msgspec.Struct):
    keys: list[KeyOut]


class Keys(Door):
    @endpoint(scope="admin", answer=KeyList)
    def get(self, request: Request) -> KeyList:
        """The project's keys that are valid, oldest first."""
        found = keys.living(now=request.now).filter(project_id=request.caller.project_id).order_by("created_at", "id")
        return KeyList([_out(key) for key in found])


class OneKey(Door):
    @endpoint(scope="admin", body=ChangedKey, answer=KeyOut)
    def patch(self, request: Request, key_id: UUID, body: ChangedKey) -> KeyOut:
        """Change what is named; the next request of the key is held against it."""
        limits = {name: value for name in keys.LIMITS if (value := getattr(body, name)) is not UNSET}
        caller = request.caller
        key = keys.limit(caller.project_id, key_id, limits, actor=caller.actor, now=request.now)
        if key is None:
            raise Problem(404, "Not found", "This project has no valid key with this id.")
        return _out(key)


def _out(key: ApiKey) -> KeyOut:
    given = {name: getattr(key, name) for name in KeyOut.__struct_fields__ if name != "prefix"}
    return KeyOut(prefix=f"{keys.MARK}_{key.prefix}", **given)


urlpatterns = [
    path("keys", Keys.as_view()),
    path("keys/<uuid:key_id>", OneKey.as_view()),
]
