"""An export in JSON that can't be read as a whole: group by group, so that a bad one costs no other."""

from typing import Any, Generic, TypeVar

import msgspec

from monitor.otlp_parts import Layout

T = TypeVar("T")
# An export with more bad groups is refused as a whole.
MOST_UNREAD = 1_000
# Stands for what a group holds of which nobody knows what that is.
_SOMETHING = msgspec.Raw(b"null")
_Raws = list[msgspec.Raw] | None


class Groups(Generic[T]):
    """Reads the exports of a signal.

    `request`, `group` and `scope` are the Structs of an export, with the fields that `layout` names. A group of a scope
    that can't be read is an `unread`, a kind of `scope` that says `why` and has the records still.
    """

    def __init__(self, layout: Layout, request: type[T], group: type, scope: type, unread: type) -> None:
        self._layout = layout
        self._request, self._group, self._unread = request, group, unread
        self._to_group = msgspec.json.Decoder[Any](group).decode
        self._to_scope = msgspec.json.Decoder[Any](scope).decode
        source = [(one.name, one.type, None) for one in msgspec.structs.fields(group) if one.name == "resource"]
        self._to_source = msgspec.json.Decoder[Any](msgspec.defstruct("Source", source)).decode
        self._to_groups, self._to_scopes, self._to_records = (
            msgspec.json.Decoder[Any](msgspec.defstruct("Parts", [(name, _Raws, None)], rename="camel")).decode
            for name in layout
        )

    def read(self, body: bytes) -> T:
        """The export with every group that can be read; raises msgspec.DecodeError where there are none."""
        faults: list[msgspec.DecodeError] = []
        raws = getattr(self._to_groups(body), self._layout.resources) or ()
        return self._request(**{self._layout.resources: [self._read_group(raw, faults) for raw in raws]})

    def _read_group(self, raw: msgspec.Raw, faults: list[msgspec.DecodeError]) -> Any:
        try:
            return self._to_group(raw)
        except msgspec.DecodeError as error:
            _note(error, faults)
            why = f"not a group: {error}"
        try:
            raws = getattr(self._to_scopes(raw), self._layout.scopes) or ()
        except msgspec.DecodeError:
            return self._group(**{self._layout.scopes: [self._as_unread([_SOMETHING], why)]})
        source: dict[str, Any] = {}
        try:
            source = msgspec.structs.asdict(self._to_source(raw))
            why = ""
        except msgspec.DecodeError as error:
            why = f"not a resource: {error}"
        scopes = [self._read_scope(one, why, faults) for one in raws]
        return self._group(**{**source, self._layout.scopes: scopes})

    def _read_scope(self, raw: msgspec.Raw, why: str, faults: list[msgspec.DecodeError]) -> Any:
        """The group of a scope, unread at once where there is a reason `why` already."""
        try:
            if not why:
                return self._to_scope(raw)
        except msgspec.DecodeError as error:
            _note(error, faults)
            why = f"not a group: {error}"
        try:
            records = getattr(self._to_records(raw), self._layout.records)
        except msgspec.DecodeError as error:
            _note(error, faults)
            records = [_SOMETHING]
        return self._as_unread(records, why)

    def _as_unread(self, records: list[msgspec.Raw] | None, why: str) -> Any:
        return self._unread(**{self._layout.records: records, "why": why})


def _note(error: msgspec.DecodeError, faults: list[msgspec.DecodeError]) -> None:
    faults.append(error)
    if len(faults) > MOST_UNREAD:
        raise faults[0]
