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


def two_columns(head: str, rows) -> str:
    return "\n".join([head, "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]) + "\n"


def objects_table() -> str:
    rows = (
        ((semconv.USAGE_BLOB,), "the span's [tokens](#tokens), also where no attribute counts any"),
        (semconv.USAGE_DETAIL_BLOBS, "tokens that a span with an input or output total leaves unsaid"),
        (
            (semconv.COST_BLOB,),
            "the cost in US dollars, where no attribute says one: `total`, else the sum of all parts",
        ),
        (semconv.METADATA_BLOBS, f"{', '.join(semconv.METADATA_KEYS)}, where no attribute says them"),
    )
    return two_columns("| attributes | what is read of the object |", ((code(names), told) for names, told in rows))


def object_keys_table() -> str:
    keys = semconv.BLOB_TOKENS | semconv.METADATA_KEYS
    rows = ((field.replace("_", " "), code(names)) for field, names in keys.items())
    return two_columns("| field | keys, the first non-empty wins |", rows)


def events_table() -> str:
    input_name, output_name = semconv.FIELDS["input"][0], semconv.FIELDS["output"][0]
    rows = (
        (
            (semconv.EXCEPTION_EVENT,),
            f"the error; of one named {code(sorted(semconv.INTERRUPTS))} that the span waits for a person",
        ),
        (sorted(semconv.INPUT_EVENTS), "a message of the input"),
        (sorted(semconv.OUTPUT_EVENTS), "a message of the output, and why it was finished"),
        ((semconv.DETAILS_EVENT,), f"input and output as a whole, by its `{input_name}` and `{output_name}`"),
        (sorted(semconv.FIRST_TOKEN_EVENTS), "when the first token came"),
        (sorted(semconv.NOISE_EVENTS), "nothing: dropped"),
    )
    return two_columns("| events | what they tell |", ((code(names), told) for names, told in rows))


def said_table() -> str:
    """What names of spans and single values of attributes decide."""
    of = {field: names[0] for field, names in semconv.FIELDS.items()}
    agents = (
        *(f"{prefix}NAME" for prefix in semconv.AGENT_PREFIXES),
        *(f"NAME{suffix}" for suffix in semconv.AGENT_SUFFIXES),
    )
    flags, entity = code(semconv.FIELDS["error_flag"]), code(semconv.FIELDS["entity"])
    wrappers = code(sorted(semconv.SPREAD_WRAPPERS))
    rows = (
        (
            f"a tool's span named `{semconv.TOOL_PREFIX}NAME`",
            f"the tool's name, where no attribute says it ({entity} too)",
        ),
        (f"an agent's span named {code(agents)}", f"the agent's name, where no attribute says it ({entity} too)"),
        (
            f"a span named `{semconv.AGENT_RUN}`, or ` run` after its agent",
            "an agent's span, where nothing says its kind",
        ),
        (f"`{of['operation']}` that ends in {code(semconv.MEMORY_SUFFIXES)}", "kind `memory`"),
        (f"`{of['operation']}` = {code(sorted(semconv.REREADS))}", "reads back what was paid before: no usage"),
        (f"`{of['mcp_method']}` = `{semconv.MCP_TOOL_CALL}`", "kind `tool`, where nothing else says one"),
        (f"`{of['response_status']}` = {code(sorted(semconv.PENDING_STATUSES))}", "still going on, whatever its end"),
        (f"`{of['pending_type']}` = `{semconv.PENDING_SPAN}`", "announces the span above it, which is still going on"),
        (f"{flags} = {code(sorted(semconv.ERROR_FLAGS))}, or a number from {semconv.ERROR_LEVEL}", "failed"),
        *(
            (f"names that begin with `{prefix}`", f"a list of the {field}, put together by index; {wrappers} only wrap")
            for prefix, field in semconv.SPREAD.items()
        ),
    )
    return two_columns("| what is said | what it means |", rows)


def tables() -> dict[str, str]:
    return {
        "kinds": kinds_table(),
        "fields": names_table(semconv.FIELDS),
        "objects": objects_table(),
        "keys": object_keys_table(),
        "events": events_table(),
        "said": said_table(),
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
