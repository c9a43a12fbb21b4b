"""The door of the API: who calls, how often, with what scope, in which transaction, and what goes out.

    class Executions(Door):
        @endpoint(scope="read", query=ExecutionQuery, answer=ExecutionPage)
        def get(self, request, query): ...

A handler runs inside `tenant(request.caller.project_id)`, and after a deadlock once more; it returns a Struct, a
dict, a list or an Answer, and refuses by raising Problem, which rolls back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import wraps
from typing import Any, Literal, NoReturn

import msgspec
import orjson
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from rest_framework.views import APIView

from monitor import masking, room
from monitor.api import bodies, problems, throttles
from monitor.api.caller import Request, identify, require
from monitor.api.problems import Problem, Throttled
from monitor.deadlocks import unhindered

ScopeName = Literal["ingest", "read", "operate", "admin", "ingest or operate", "ingest or read"]
Handler = Callable[..., Any]
JSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True)
class Contract:
    """What one call promises: read by the door, and by the OpenAPI document."""

    scope: ScopeName
    rate: throttles.Bucket
    body: type | None
    query: type
    answer: Any
    status: int
    content_types: tuple[str, ...]
    also: tuple[int, ...]
    bound: bool
    verbatim: bool = False
    grows: bool = False

    @property
    def is_telemetry(self) -> bool:
        """Whether the body is masked where a project asks for it."""
        return self.scope == "ingest" and not self.verbatim


@dataclass(frozen=True)
class Answer:
    """An answer with another status or more headers than the contract's. `body` None is an empty one."""

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def endpoint(
    *,
    scope: ScopeName,
    rate: throttles.Bucket = "general",
    body: type | None = None,
    query: type = bodies.Nothing,
    answer: Any = None,
    status: int = 200,
    content_types: tuple[str, ...] = bodies.JSON,
    also: tuple[int, ...] = (),
    bound: bool = True,
    verbatim: bool = False,
    grows: bool = False,
) -> Callable[[Handler], Handler]:
    """Make a method of a Door a call of the API.

    `body` and `query` are the Structs that the method gets by these names (`body=bytes`: the decompressed bytes);
    `answer` is the Struct it returns; `also` lists further statuses it may answer, for the OpenAPI document.
    With `bound` false the method opens its transactions itself. What agents report is masked where the project asks
    for it, unless it is `verbatim`; who takes a body of bytes, or spans, masks what it makes of them.
    What `grows` is refused while the disk is nearly full.
    """
    contract = Contract(scope, rate, body, query, answer, status, content_types, also, bound, verbatim, grows)

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        def method(self: "Door", request: Request, **path: Any) -> HttpResponse:
            self.admit(request, contract, path)
            given = dict(path)
            if query is not bodies.Nothing:
                given["query"] = bodies.decode_query(request, query)
            elif request.GET:
                bodies.decode_query(request, query)
            if body is not None:
                raw = bodies.read(request, limit=settings.MAX_BODY_BYTES, content_types=content_types)
                given["body"] = raw if body is bytes else bodies.decode_as(request.content_type, raw, body)
                rule = request.caller.rule
                if rule is not None and contract.is_telemetry and isinstance(given["body"], msgspec.Struct):
                    given["body"] = masking.body(given["body"], rule)
            if not bound:
                return respond(handler(self, request, **given), contract.status)
            result = unhindered(request.caller.project_id, lambda: handler(self, request, **given))
            return respond(result, contract.status)

        method.contract = contract  # type: ignore[attr-defined]
        return method

    return decorate


class Door(APIView):
    """A view of the API; its methods are made by `endpoint`."""

    http_method_names = ["get", "post", "put", "patch", "delete", "head"]
    toll: throttles.Toll | None = None

    # REST framework's life cycle, with our own caller, limits, parsing and rendering in place of its own.

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        request.now = datetime.now(UTC)  # type: ignore[attr-defined]
        return request

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def admit(self, request: Request, contract: Contract, path: Mapping[str, Any]) -> None:
        """Let the caller in, or raise what is wrong: 401, 429, 403, 503, in this order."""
        request.caller = identify(request, now=request.now)
        self.toll = throttles.take(request.caller, contract.rate)
        if self.toll is not None and not self.toll.allowed:
            raise Throttled(contract.rate, self.toll.per_minute, self.toll.retry_after_s)
        require(request.caller, contract.scope)
        if contract.grows and room.gate.is_shut(now=request.now):
            raise problems.no_room()
        if any(isinstance(value, str) and "\0" in value for value in path.values()):
            raise Problem(404, "Not found")

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        allow = ", ".join(self.allowed_methods)
        raise Problem(405, "Method not allowed", f"This address takes {allow}.", headers={"Allow": allow})

    def get_exception_handler(self) -> Any:
        return problems.exception_handler

    def raise_uncaught_exception(self, exc: Exception) -> NoReturn:
        raise exc

    def finalize_response(self, request: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if self.toll is not None:
            for name, value in self.toll.headers().items():
                response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def respond(result: Any, status: int) -> HttpResponse:
    """The HTTP answer of what a handler returned."""
    if isinstance(result, HttpResponse):
        return result
    if not isinstance(result, Answer):
        result = Answer(result)
    content = b"" if result.body is None else dumps(result.body)
    response = HttpResponse(content, status=result.status or status, headers=dict(result.headers))
    if result.body is None:
        del response.headers["Content-Type"]
    else:
        response.headers["Content-Type"] = result.content_type
    return response


def dumps(value: Any) -> bytes:
    """JSON: Structs as objects, money as plain decimal strings, times in ISO 8601, in UTC."""
    try:
        return orjson.dumps(value, default=_plain, option=JSON_OPTIONS)
    except orjson.JSONEncodeError:
        return orjson.dumps(_floats(value), default=_plain, option=JSON_OPTIONS)


def _floats(value: Any) -> Any:
    """The same with every integer beyond 64 bits as the float that it was: PostgreSQL keeps 1e20 as its digits."""
    match value:
        case msgspec.Struct():
            return _floats(_plain(value))
        case dict():
            return {name: _floats(item) for name, item in value.items()}
        case list() | tuple():
            return [_floats(item) for item in value]
        case int() if value not in bodies.INT64:
            return float(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {
            f.encode_name: item
            for f in msgspec.structs.fields(value)
            if (item := getattr(value, f.name)) is not msgspec.UNSET
        }
    if isinstance(value, Decimal):
        # Never an exponent: 1E-8 dollars are "0.00000001".
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    raise TypeError(f"not for JSON: {type(value)!r}")
