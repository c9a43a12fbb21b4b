"""Sessions in the database, asked only for keys that could be one: a cookie may hold anything."""

from typing import Any

from django.contrib.sessions.backends import db


class SessionStore(db.SessionStore):
    """Django's own, for keys of letters and digits."""

    def _validate_session_key(self, key: Any) -> bool:
        # The stubs do not know the method.
        is_one = bool(super()._validate_session_key(key))  # type: ignore[misc]
        return is_one and key.isascii() and key.isalnum()
