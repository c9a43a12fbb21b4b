"""How many parts an export has: what takes two bytes to send takes microseconds and hundreds of bytes to read."""

from typing import Any, NamedTuple

MOST_PARTS = 250_000
OF_A_RECORD = 5


class Layout(NamedTuple):
    """Where the records of a signal lie in its exports, in protobuf as in JSON."""

    resources: str
    scopes: str
    records: str


TRACES = Layout("resource_spans", "scope_spans", "spans")
LOGS = Layout("resource_logs", "scope_logs", "log_records")
METRICS = Layout("resource_metrics", "scope_metrics", "metrics")


def protobuf_parts(message: Any, layout: Layout) -> int:
    """The groups, records, events, attributes and their values; counted no further than just above MOST_PARTS."""
    groups = getattr(message, layout.resources)
    parts = len(groups)
    for group in groups:
        if parts > MOST_PARTS:
            return parts
        scopes = getattr(group, layout.scopes)
        parts += len(scopes) + _values(group.resource.attributes, parts)
        for scope in scopes:
            records = getattr(scope, layout.records)
            parts += OF_A_RECORD * len(records)
            if parts > MOST_PARTS:
                return parts
            for record in records:
                parts += _of_record(record, parts)
                if parts > MOST_PARTS:
                    return parts
    return parts


def _of_record(record: Any, before: int) -> int:
    events = getattr(record, "events", ())
    parts = len(events) + _values(getattr(record, "attributes", ()), before)
    if before + parts > MOST_PARTS:
        return parts
    for event in events:
        parts += _values(event.attributes, before + parts)
    body = getattr(record, "body", None)
    return parts if body is None else parts + _inner(body, before + parts)


def _values(attributes: Any, before: int) -> int:
    """Of attributes, with what their lists hold; a list too many is not looked into."""
    parts = len(attributes)
    if before + parts > MOST_PARTS:
        return parts
    for attribute in attributes:
        parts += _inner(attribute.value, before + parts)
    return parts


def _inner(value: Any, before: int) -> int:
    kind = value.WhichOneof("value")
    if kind == "kvlist_value":
        return _values(value.kvlist_value.values, before)
    if kind != "array_value":
        return 0
    values = value.array_value.values
    parts = len(values)
    if before + parts > MOST_PARTS:
        return parts
    for one in values:
        parts += _inner(one, before + parts)
    return parts


def json_parts(request: Any, layout: Layout) -> int:
    """The groups and records; what is in a record is read quickly enough."""
    groups = getattr(request, layout.resources) or ()
    parts = len(groups)
    for group in groups:
        scopes = getattr(group, layout.scopes) or ()
        parts += len(scopes) + sum(OF_A_RECORD * len(getattr(scope, layout.records) or ()) for scope in scopes)
    return parts
