"""Do the documents say what the code does? `python -m docs.check`, a part of `make check`.

Every setting that the code reads has its heading in settings.md, every call its line in api.md, every command its
name in operations.md, every code of a fault its line in settings.md, and none of them more. Every decision is linked
from adr/README.md, and every link and every path in the documents leads somewhere.
"""

import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from config.settings import DEPARTMENTS
from monitor.api import openapi

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
APPS = ("config", "dashboard", "alerts", "monitor", "launcher", "frontend")
SHELL = ("launcher/setup", ".ci/run")
# What reads a setting: the first text among the arguments is its name.
READERS = {"_usd", "_number", "_share"}
ENVIRONMENTS = {"env", "environ", "os.environ"}
MADE_ELSEWHERE = {"changepassword"}  # A command of Django, which operators need.

HEADING = re.compile(r"^### `([A-Z_]+)`", re.MULTILINE)
CALL = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`\s]*)`")
CODE = re.compile(r"\bE0\d\d\b")
COMMAND = re.compile(r"`(?:python )?manage\.py (\w+)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
PLACE = re.compile(rf"`((?:{'|'.join((*APPS, 'docs', 'tests', 'static', 'templates'))})/[\w./-]*)`")
SHELL_NAME = re.compile(r"\$\{?(HANDRAIL_[A-Z_]+)")


def settings_read() -> set[str]:
    """The names of all environment variables that the code reads."""
    names = {name for script in SHELL for name in SHELL_NAME.findall((ROOT / script).read_text())}
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            names |= _names(node)
    return names


def _names(node: ast.AST) -> set[str]:
    """The settings that one node reads; a name in two parts, `f"{…}_BUDGET"`, stands for one of each department."""
    match node:
        case ast.Call(func=ast.Name(id=reader), args=args) if reader in READERS:
            return _texts(args)
        case ast.Call(func=ast.Attribute(value=value, attr=attr), args=[first, *_]) if ast.unparse(
            value
        ) in ENVIRONMENTS and attr not in {"setdefault", "update", "pop"}:
            return _texts([first])
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]) if (
            ast.unparse(right) in ENVIRONMENTS
        ):
            return _texts([left])
        case ast.Subscript(value=value, slice=name, ctx=ast.Load()) if ast.unparse(value) in ENVIRONMENTS:
            return _texts([name])
    return set()


def _texts(args: Iterable[ast.expr]) -> set[str]:
    for arg in args:
        match arg:
            case ast.Constant(value=str(name)):
                return {name}
            case ast.JoinedStr(values=[ast.FormattedValue(), ast.Constant(value="_BUDGET")]):
                return {f"{name.upper()}_BUDGET" for name in DEPARTMENTS}
    return set()


def calls_made() -> set[tuple[str, str]]:
    """(method, path) of every call of the OpenAPI document."""
    return {(call.method.upper(), call.path) for call in openapi.calls()}


def codes_raised() -> set[str]:
    return {code for path in _sources() for code in CODE.findall(path.read_text())}


def commands() -> set[str]:
    found = {path.stem for path in ROOT.glob("*/management/commands/*.py") if path.stem != "__init__"}
    return found | MADE_ELSEWHERE


def _sources() -> Iterator[Path]:
    for app in APPS:
        yield from sorted((ROOT / app).rglob("*.py"))


def documents() -> list[Path]:
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def problems() -> Iterator[str]:
    """Everything that is out of step, one sentence each."""
    settings = (DOCS / "settings.md").read_text()
    operations = (DOCS / "operations.md").read_text()
    written = [f"{method} {path}" for method, path in CALL.findall((DOCS / "api.md").read_text())]
    yield from _differ("docs/settings.md", "the setting", settings_read(), HEADING.findall(settings))
    yield from _differ("docs/settings.md", "the code", codes_raised(), CODE.findall(settings))
    yield from _differ("docs/operations.md", "the command", commands(), COMMAND.findall(operations))
    yield from _differ("docs/api.md", "the call", {f"{method} {path}" for method, path in calls_made()}, written)
    yield from _decisions()
    for document in documents():
        yield from _links(document)


def _differ(where: str, what: str, wanted: set[str], written: Iterable[str]) -> Iterator[str]:
    there = set(written)
    for name in sorted(wanted - there):
        yield f"{where}: {what} {name} is not described."
    for name in sorted(there - wanted):
        yield f"{where}: {what} {name} does not exist."


def _decisions() -> Iterator[str]:
    index = (DOCS / "adr" / "README.md").read_text()
    numbers: dict[str, str] = {}
    for path in sorted((DOCS / "adr").glob("*.md")):
        if path.name == "README.md":
            continue
        number = path.name.partition("-")[0]
        if not re.fullmatch(r"\d{4}", number):
            yield f"docs/adr/{path.name}: its name does not begin with a number of four digits."
        elif number in numbers:
            yield f"docs/adr/{path.name}: {numbers[number]} has this number too."
        numbers[number] = path.name
        title = path.read_text().partition("\n")[0]
        if not title.startswith("# "):
            yield f"docs/adr/{path.name}: the first line is no title."
        elif f"[{title[2:]}]({path.name})" not in index:
            yield f"docs/adr/README.md: [{title[2:]}]({path.name}) is missing."


def _links(document: Path) -> Iterator[str]:
    text = FENCE.sub("", document.read_text())
    for named in PLACE.findall(text):
        if not (ROOT / named).exists():
            yield f"{document.relative_to(ROOT)}: there is no {named}."
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        place = (document.parent / path) if path else document
        if not place.exists():
            yield f"{document.relative_to(ROOT)}: the link to {target} leads nowhere."
        elif anchor and place.suffix == ".md" and anchor not in _anchors(place):
            yield f"{document.relative_to(ROOT)}: {path or document.name} has no heading #{anchor}."


def _anchors(document: Path) -> set[str]:
    """The headings as they are linked to: lower case, without punctuation, spaces as hyphens."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def main() -> int:
    found = list(problems())
    for problem in found:
        print(problem)
    print(f"docs: {len(found)} out of step." if found else "docs: in step.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
