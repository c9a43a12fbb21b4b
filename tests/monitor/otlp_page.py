"""The tables of docs/otlp.md, made from the tables that the mapper reads.

`python -m tests.monitor.otlp_page` writes them into the page.
"""

from pathlib import Path

from monitor import semconv

PAGE = Path(__file__).resolve().parents[2] / "docs/otlp.md"
BEGIN, END = "<!-- {} begins -->\n", "<!-- {} ends -->\n"

KIND_SOURCES = (
    ("langfuse.observation.type", semconv.VENDOR_KINDS),
    ("openinference.span.kind", semconv.OPENINFERENCE_KINDS),
    ("gen_ai.operation.name", semconv.OPERATIONS),
    ("traceloop.span.kind", semconv.TRACELOOP_KINDS),
    ("ai.operationId", semconv.AI_OPERATIONS),
    ("llm.request.type", semconv.REQUEST_TYPES),
)


def code(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def names_table(table) -> str:
    rows = [f"| {field.replace('_', ' ')} | {code(names)} |" for field, names in table.items()]
    return "\n".join(["| field | names, the first non-empty wins |", "|---|---|", *rows]) + "\n"


def kinds_table() -> str:
    kinds: dict[str, list[str]] = {}
    for attribute, values in KIND_SOURCES:
        for kind in dict.fromkeys(values.values()):
            said = code(value for value, meant in values.items() if meant == kind)
            kinds.setdefault(kind, []).append(f"`{attribute}` = {said}")
    rows = [f"| {kind} | {'<br>'.join(evidence)} |" for kind, evidence in kinds.items()]
    return "\n".join(["| kind | evidence |", "|---|---|", *rows]) + "\n"


def tables() -> dict[str, str]:
    return {
        "kinds": kinds_table(),
        "fields": names_table(semconv.FIELDS),
        "tokens": names_table(semconv.TOKENS),
    }


def refreshed(page: str) -> str:
    """Return the page with its tables as the mapper has them; raises ValueError when a mark is missing."""
    for name, table in tables().items():
        begin = page.index(BEGIN.format(name)) + len(BEGIN.format(name))
        page = page[:begin] + table + page[page.index(END.format(name)) :]
    return page


if __name__ == "__main__":
    PAGE.write_text(refreshed(PAGE.read_text()))
