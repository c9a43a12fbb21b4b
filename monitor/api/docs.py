"""The API on one plain page: the OpenAPI document for people, without scripts."""

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from monitor.api import openapi


def page(request: HttpRequest) -> HttpResponse:
    """`GET /api/docs/`"""
    return HttpResponse(_rendered(getattr(request, "urlconf", None)))


@cache
def _rendered(urlconf: str | None) -> str:
    document = openapi.document(urlconf)
    areas: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {})
            call = {
                "method": method.upper(),
                "path": path,
                "id": operation["operationId"],
                "summary": operation["summary"],
                "description": operation["description"],
                "parameters": [
                    {"name": given["name"], "in": given["in"], "required": given["required"]} | words(given["schema"])
                    for given in operation["parameters"]
                ],
                "body": next((words(content["schema"])["kind"] for content in body.values() if content), ""),
                "answers": [
                    {"status": status, "text": answer["description"]} | words(_content(answer))
                    for status, answer in operation["responses"].items()
                ],
            }
            areas.setdefault(operation["tags"][0], []).append(call)
    shapes = {
        name: {
            "description": shape.get("description", ""),
            "fields": [
                {"name": field, "required": field in shape.get("required", [])} | words(schema)
                for field, schema in shape.get("properties", {}).items()
            ],
        }
        for name, shape in sorted(document["components"]["schemas"].items())
    }
    return render_to_string("api/docs.html", {"info": document["info"], "areas": areas, "shapes": shapes})


def _content(answer: dict[str, Any]) -> dict[str, Any]:
    kinds: list[dict[str, Any]] = list(answer.get("content", {}).values())
    return kinds[0].get("schema", {}) if kinds else {}


def words(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in a few words: its kind, its limits, its default, the shape that it refers to."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return {"kind": name, "shape": name, "limits": ""}
    if "anyOf" in schema:
        parts = [words(part) for part in schema["anyOf"]]
        shape = next((part["shape"] for part in parts if part["shape"]), "")
        limits = ", ".join(part["limits"] for part in parts if part["limits"])
        kind = " or ".join(part["kind"] for part in parts)
        return {"kind": kind, "shape": shape, "limits": limits} | _default(schema)
    if "enum" in schema:
        return {"kind": " | ".join(map(str, schema["enum"])), "shape": "", "limits": ""} | _default(schema)
    if schema.get("type") == "array":
        inner = words(schema.get("items", {}))
        return {"kind": f"list of {inner['kind']}", "shape": inner["shape"], "limits": inner["limits"]}
    kind = schema.get("format") or schema.get("type") or "any"
    limits = ", ".join(f"{text} {schema[key]}" for key, text in LIMITS.items() if key in schema)
    return {"kind": kind, "shape": "", "limits": limits} | _default(schema)


LIMITS = {"minimum": "at least", "maximum": "at most", "minLength": "length from", "maxLength": "length to"}


def _default(schema: dict[str, Any]) -> dict[str, Any]:
    default = schema.get("default")
    return {} if default in (None, "", [], {}) else {"default": default}
