"""Lists, page by page: the keyset of the last row is the cursor, so a page costs the same however deep it lies."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from django.core.exceptions import ValidationError
from django.db.models import Field, Model, Q, QuerySet
from django.http import HttpRequest, QueryDict

from monitor.api.problems import bad_field

M = TypeVar("M", bound=Model)

Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
Cursor = Annotated[str, msgspec.Meta(max_length=2000)]


class PageQuery(msgspec.Struct, kw_only=True):
    """The parameters of every list; filters are added by inheritance."""

    limit: Limit = 50
    cursor: Cursor = ""


def paginate(
    queryset: QuerySet[M], order: Sequence[str], query: PageQuery, request: HttpRequest
) -> tuple[list[M], str | None]:
    """One page in `order` (columns without nulls, the last unique; "-" is descending), and the next page's URL.

    The URL is relative to the host. Raises a 400 for a cursor that is not one of ours.
    """
    if query.cursor:
        queryset = queryset.filter(_after(queryset.model, order, query.cursor))
    rows = list(queryset.order_by(*order)[: query.limit + 1])
    if len(rows) <= query.limit:
        return rows, None
    rows.pop()
    parameters: QueryDict = request.GET.copy()
    parameters["cursor"] = _cursor(rows[-1], order)
    return rows, f"{request.path}?{parameters.urlencode()}"


def _cursor(row: Model, order: Sequence[str]) -> str:
    values = [getattr(row, name.removeprefix("-")) for name in order]
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).rstrip(b"=").decode()


def _after(model: type[Model], order: Sequence[str], cursor: str) -> Q:
    """Rows behind the cursor: past it in the first column, or equal there and past it in the next, and so on."""
    columns = [name.removeprefix("-") for name in order]
    values = _values([model._meta.get_field(name) for name in columns], cursor)
    steps = ["lt" if name.startswith("-") else "gt" for name in order]
    behind = Q()
    for n in range(len(columns)):
        same = dict(zip(columns[:n], values[:n], strict=True))
        behind |= Q(**same, **{f"{columns[n]}__{steps[n]}": values[n]})
    # Said once more for the planner: a plain bound on the first column makes it an index range.
    return Q(**{f"{columns[0]}__{steps[0]}e": values[0]}) & behind


def _values(fields: Sequence[Any], cursor: str) -> list[Any]:
    try:
        texts = msgspec.json.decode(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), type=list[Any])
        return [_value(field, text) for field, text in zip(fields, texts, strict=True)]
    except (binascii.Error, ValueError, TypeError, RecursionError, ValidationError) as error:
        raise bad_field("cursor", "is not one that this list gave out") from error


def _value(field: "Field[Any, Any]", text: Any) -> Any:
    if text is None or isinstance(text, list | dict | bool) or (isinstance(text, str) and "\0" in text):
        raise ValueError("not a key")
    return field.to_python(text)
