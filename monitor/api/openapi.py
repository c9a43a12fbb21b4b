"""The OpenAPI document, made from what the doors enforce: routes, Structs, contracts. Nothing is said twice."""

import inspect
import re
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, NamedTuple

import msgspec
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, get_resolver
from django.views import View

from monitor.api import bodies, problems
from monitor.api.caller import PROJECT_HEADER
from monitor.api.door import Contract, Door, dumps
from monitor.api.waiting import EVENT_STREAM, LongPoll, contract_of

METHODS = ("get", "post", "put", "patch", "delete")
REFERENCE = "#/components/schemas/{name}"
INFO = {
    "title": "Handrail",
    "version": "v1",
    "description": (
        "Times are ISO 8601 with an offset, answered in UTC. Money is a decimal string in US dollars. "
        "Durations are integers in milliseconds (…_ms) but for settings in seconds (…_s). "
        "Errors are problem details (RFC 9457). Request bodies may be gzip or deflate encoded."
    ),
}
SECURITY_SCHEMES = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `Authorization: Bearer hr_…`. It belongs to one project and has scopes.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "handrail_session",
        "description": f"A signed-in person, with `X-CSRFToken` on writes; `{PROJECT_HEADER}` names the project.",
    },
}
CONVERTERS: dict[str, dict[str, Any]] = {
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": 0},
}
REFUSALS = {
    400: "Malformed; `errors` names the fields",
    401: "No key, or a dead one",
    402: "Refused by a budget",
    403: "The key or role lacks the scope",
    404: "No such thing in this project",
    409: "Not a legal move from the present state, or in conflict with what is stored",
    413: "Too large, counted after decompression",
    415: "Not a media type or encoding that this call takes",
    429: "Too many requests; see `Retry-After`",
    503: "A store is down or full; see `Retry-After`",
}
RATE_HEADERS = {
    "RateLimit-Limit": "Requests a minute",
    "RateLimit-Remaining": "How many may follow at once",
    "RateLimit-Reset": "Seconds until all may",
}


class FieldError(msgspec.Struct):
    """One bad field, such as `calls[3].input_tokens`."""

    field: str
    message: str


class ProblemDetails(msgspec.Struct, omit_defaults=True):
    """Problem details (RFC 9457); some problems add members of their own."""

    type: str
    title: str
    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    detail: str = ""
    errors: list[FieldError] = []


class Call(NamedTuple):
    """One method of one address."""

    path: str
    parameters: list[dict[str, Any]]
    method: str
    contract: Contract
    handler: Any
    view: type[View]


def calls(urlconf: str | None = None) -> Iterator[Call]:
    """Every call of the API, in the order of the urls."""
    for route, view in _routes(get_resolver(urlconf), ""):
        path, parameters = _path(route)
        if issubclass(view, LongPoll):
            yield Call(path, parameters, "get", contract_of(view), view.look, view)
            continue
        for method in METHODS:
            handler = getattr(view, method, None)
            contract = getattr(handler, "contract", None)
            if contract is not None:
                yield Call(path, parameters, method, contract, handler, view)


def _routes(resolver: URLResolver, prefix: str) -> Iterator[tuple[str, type[View]]]:
    for entry in resolver.url_patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from _routes(entry, route)
        elif isinstance(entry, URLPattern):
            view = getattr(entry.callback, "view_class", None)
            if view is not None and issubclass(view, Door | LongPoll):
                yield route, view


def _path(route: str) -> tuple[str, list[dict[str, Any]]]:
    parameters: list[dict[str, Any]] = []

    def named(found: re.Match[str]) -> str:
        schema = CONVERTERS.get(found["kind"] or "str", {"type": "string", "minLength": 1})
        parameters.append({"name": found["name"], "in": "path", "required": True, "schema": schema})
        return f"{{{found['name']}}}"

    return "/" + re.sub(r"<(?:(?P<kind>\w+):)?(?P<name>\w+)>", named, route), parameters


def document(urlconf: str | None = None) -> dict[str, Any]:
    """The whole document."""
    every = list(calls(urlconf))
    types: list[Any] = [ProblemDetails]
    for call in every:
        contract = call.contract
        types += [t for t in (contract.body, contract.query, contract.answer) if t not in (None, bytes, dict, list)]
    types = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for call in every:
        paths.setdefault(call.path, {})[call.method] = _operation(call, of, components)
    queries = {_name(of[call.contract.query]) for call in every}
    kept = {name: schema for name, schema in components.items() if name not in queries}
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": kept, "securitySchemes": SECURITY_SCHEMES},
    }


def _operation(call: Call, of: dict[Any, dict[str, Any]], components: dict[str, Any]) -> dict[str, Any]:
    contract = call.contract
    summary, description = _words(call)
    operation: dict[str, Any] = {
        "operationId": f"{call.method}_{re.sub(r'[^a-z0-9]+', '_', call.path.lower()).strip('_')}",
        "tags": [_area(call.path)],
        "summary": summary,
        "description": f"{description}\n\nScope: `{contract.scope}`. Rate limit: {contract.rate}.".strip(),
        "security": [{"key": []}, {"session": []}],
        "parameters": call.parameters + _query(contract.query, of, components),
        "responses": _responses(call, of),
    }
    if contract.body is not None or contract.content_types != bodies.JSON:
        content = {kind: _content(kind, contract.body, of) for kind in contract.content_types}
        operation["requestBody"] = {"content": content, "required": _requires(contract.body)}
    return operation


def _content(kind: str, body: type | None, of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if kind in bodies.LINES:
        return {"schema": {"type": "string", "description": "One JSON object a line; empty lines are left out"}}
    return {"schema": of[body]} if body in of else {}


def _query(query: type, of: dict[Any, dict[str, Any]], components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components[_name(of[query])]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _given(given)}
        for name, given in schema["properties"].items()
    ]


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without the null that stands for "not given"."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {key: value for key, value in schema.items() if key not in ("anyOf", "default")} | kinds[0]


def _responses(call: Call, of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    contract = call.contract
    headers = {name: {"description": text, "schema": {"type": "integer"}} for name, text in RATE_HEADERS.items()}
    good: dict[str, Any] = {"description": "Done", "headers": headers}
    if contract.status != 204:
        # Raw bytes are answered in the encoding that they came in.
        kinds = contract.content_types if contract.body in (bytes, None) else bodies.JSON
        good["content"] = {kind: {"schema": of.get(contract.answer, {})} for kind in kinds}
        if issubclass(call.view, LongPoll) and call.view.following is not LongPoll.following:
            good["content"][EVENT_STREAM] = {"schema": {"type": "string"}}
    statuses = {400, 401, 403, 429, 503, *(status for status in contract.also if status >= 400)}
    if call.parameters:
        statuses.add(404)
    if contract.body is not None or contract.content_types != bodies.JSON:
        statuses |= {413, 415}
    if call.method != "get":
        statuses.add(409)
    problem = {problems.CONTENT_TYPE: {"schema": of[ProblemDetails]}}
    refusals = {str(status): {"description": REFUSALS[status], "content": problem} for status in sorted(statuses)}
    more = {str(status): good for status in contract.also if status < 400}
    return {str(contract.status): good} | more | refusals


def _requires(body: type | None) -> bool:
    return body in (bytes, None) or any(field.required for field in msgspec.structs.fields(body or bytes))


def _words(call: Call) -> tuple[str, str]:
    text = inspect.cleandoc(call.handler.__doc__ or call.view.__doc__ or "")
    first, _, rest = (text or re.sub(r"(?<!^)(?=[A-Z])", " ", call.view.__name__).capitalize()).partition("\n")
    return first.strip(), rest.strip()


def _area(path: str) -> str:
    parts = [part for part in path.split("/") if part and part not in ("api", "v1")]
    return parts[0] if parts else "api"


def _name(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


@cache
def _rendered(urlconf: str | None) -> bytes:
    return dumps(document(urlconf))


def schema(request: HttpRequest) -> HttpResponse:
    """`GET /api/schema/`"""
    return HttpResponse(_rendered(getattr(request, "urlconf", None)), content_type="application/json")
