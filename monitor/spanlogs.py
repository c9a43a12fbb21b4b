"""Messages that came as log records complete their span, whichever of the two comes first.

The span's own words win: a record fills only what the span leaves unsaid. Both sides work under the lock of the trace,
so that neither can miss the other. Records leave before their span: what they told stays with it then, and with its
newer versions.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from monitor import masking, news, pipeline, semconv
from monitor.ground import ONE_SPAN, Ground, locking
from monitor.masking import ARGUMENTS, Rule
from monitor.otlp_logs import Message
from monitor.otlp_text import clean
from monitor.pipeline import Statement, array, texts
from monitor.spanrows import INPUT, OUTPUT, Row
from monitor.story import Event, told

# Of one span no more is put together than a page could show.
MOST_RECORDS = 1_000
MOST_BYTES = 2_000_000
SPANS_AT_ONCE = 50
# Where a record that tells everything at once says what went in.
INPUT_MESSAGES = "gen_ai.input.messages"

RULE = "SELECT mask_pii, mask_ips FROM monitor_project WHERE id = %(project_id)s"
KEEP = """
INSERT INTO monitor_spanlog (project_id, received_at, pii_masked, ips_masked, trace_id, span_id, digest, at_ns, place,
    name, said, arguments)
SELECT %(project_id)s, %(now)s, %(pii)s, %(ips)s, * FROM unnest(%(traces)s::uuid[], %(spans)s::bigint[],
    %(digests)s::bytea[], %(ats)s::bigint[], %(places)s::int[], %(names)s::text[], %(said)s::text[],
    %(arguments)s::text[])
ON CONFLICT (project_id, trace_id, span_id, digest) DO NOTHING
RETURNING encode(uuid_send(trace_id), 'hex'), span_id, digest
"""
READ = """
SELECT encode(uuid_send(wanted.trace_id), 'hex'), wanted.span_id, log.digest, project.mask_pii, project.mask_ips,
       log.pii_masked, log.ips_masked, log.name, log.at_ns, log.said, log.arguments
  FROM monitor_project AS project, unnest(%(traces)s::uuid[], %(spans)s::bigint[]) AS wanted (trace_id, span_id),
LATERAL (
    SELECT name, at_ns, said, arguments, pii_masked, ips_masked, place, digest,
           sum(octet_length(said)) OVER (ORDER BY at_ns, place, digest) AS bytes
      FROM monitor_spanlog
     WHERE project_id = %(project_id)s AND trace_id = wanted.trace_id AND span_id = wanted.span_id
     ORDER BY at_ns, place, digest LIMIT %(most)s
) AS log
 WHERE project.id = %(project_id)s AND log.bytes <= %(bytes)s ORDER BY 1, 2, log.at_ns, log.place, log.digest
"""
# The days between which a trace lies keep the others from being looked into.
STORED = """
SELECT encode(uuid_send(wanted.trace_id), 'hex'), wanted.span_id, span.started_at
  FROM unnest(%(traces)s::uuid[], %(spans)s::bigint[]) AS wanted (trace_id, span_id)
  JOIN monitor_trace AS trace ON trace.project_id = %(project_id)s AND trace.trace_id = wanted.trace_id,
LATERAL (
    SELECT started_at FROM monitor_span
     WHERE project_id = %(project_id)s AND trace_id = wanted.trace_id AND span_id = wanted.span_id
       AND started_at BETWEEN trace.first_at AND trace.last_at
    OFFSET 0
) AS span
"""
STOOD = f"""
SELECT CASE WHEN inherits & {INPUT} <> 0 THEN input END, CASE WHEN inherits & {OUTPUT} <> 0 THEN output END,
       coalesce(attributes ->> '{ARGUMENTS}', '')
  FROM monitor_span WHERE {ONE_SPAN}
"""  # noqa: S608
# Whether what the span says of its input comes from its records.
_IS_TOLD = f"%(input)s::text IS NOT NULL AND (input IS NULL OR inherits & {INPUT} <> 0)"
# A tool's call that now has its arguments may make a loop: whoever looks for loops looks at what was just received.
FILL = f"""
UPDATE monitor_span SET
    input = CASE WHEN {_IS_TOLD} THEN %(input)s::text ELSE input END,
    attributes = CASE WHEN {_IS_TOLD} AND kind = 'tool' AND (attributes ? '{ARGUMENTS}' OR %(mark)s::text <> '{{}}')
                      THEN attributes - '{ARGUMENTS}' || %(mark)s::text::jsonb ELSE attributes END,
    output = CASE WHEN output IS NULL OR inherits & {OUTPUT} <> 0 THEN coalesce(%(output)s::text, output)
                  ELSE output END,
    inherits = inherits | CASE WHEN input IS NULL AND %(input)s::text IS NOT NULL THEN {INPUT} ELSE 0 END
                        | CASE WHEN output IS NULL AND %(output)s::text IS NOT NULL THEN {OUTPUT} ELSE 0 END,
    received_at = CASE WHEN kind = 'tool' THEN %(now)s ELSE received_at END
 WHERE {ONE_SPAN} AND (input IS NULL OR output IS NULL OR inherits & {INPUT | OUTPUT} <> 0)
"""  # noqa: S608

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
Place = tuple[str, int]
# The digests of records by what they are of.
Digests = Collection[tuple[Place, bytes]]


class Said(NamedTuple):
    """A record of a span; `arguments` is a keyed hash of what went in, "" where masking changed nothing of it."""

    name: str
    at_ns: int
    said: dict[str, Any]
    arguments: str = ""


class Contents(NamedTuple):
    """What the records of a span tell: what went in, what came out; `arguments` as in Said."""

    input: str | None
    output: str | None
    arguments: str = ""

    @property
    def mark(self) -> dict[str, str]:
        """What a tool's call has among its attributes, so that it is told from others that look alike."""
        return {ARGUMENTS: self.arguments} if self.arguments else {}


class Kept(NamedTuple):
    """How many records were new, and how many repeated what was known."""

    accepted: int
    duplicates: int


def accept(project_id: int, messages: Sequence[Message], *, now: datetime) -> Kept:
    """Keep the messages and complete the spans that are here already; the others take them when they come."""
    if not messages:
        return Kept(0, 0)
    listed = {(one.trace_id, one.span_id, one.digest): one for one in messages}
    # In the order of the key, in which everybody inserts.
    rows = [listed[key] for key in sorted(listed)]
    (((mask_pii, mask_ips),),) = pipeline.flush([Statement(RULE, {"project_id": project_id})])
    # Masked before the traces are locked: long messages take their time.
    keeping = _keeping(project_id, rows, masking.rule_of(mask_pii, mask_ips), now=now)
    *_, kept = pipeline.flush([*locking(project_id, {one.trace_id.hex() for one in rows}), keeping])
    new = {((trace, span_id), digest) for trace, span_id, digest in kept}
    filled = 0
    for part in _parts(sorted({place for place, _ in new})):
        filled += _fill(project_id, part, new, now=now)
    if filled:
        news.tell(project_id, "spans")
    return Kept(len(new), len(messages) - len(new))


def complete(project_id: int, rows: Iterable[Row], ground: Ground) -> None:
    """Give new rows what log records told of their spans before; under the lock of the traces."""
    wanting: dict[Place, Row] = {}
    standing: dict[Place, datetime] = {}
    for row in rows:
        if row.input is not None and row.output is not None:
            continue
        place = (row.trace_id, row.span_id)
        held = ground.known.get(row.trace_id, {}).get(row.span_id)
        if held is not None and held.inherits & (INPUT | OUTPUT):
            standing[place] = held.started_at
        elif row.trace_id not in ground.logged:
            continue
        wanting[place] = row
    for part in _parts(list(wanting)):
        for place, contents in _contents(project_id, part, standing).items():
            row = wanting[place]
            if row.input is None and contents.input is not None:
                row.input, row.inherits = contents.input, row.inherits | INPUT
                if row.kind == "tool" and contents.mark:
                    row.attributes = _encode(_decode(row.attributes) | contents.mark).decode()
            if row.output is None and contents.output is not None:
                row.output, row.inherits = contents.output, row.inherits | OUTPUT


def contents(records: Iterable[Said]) -> Contents:
    """What the records of one span tell, given in order.

    Messages that come whole are more than those that come one by one.
    """
    events: list[Event] = []
    whole: dict[str, Any] = {}
    of_whole, of_each = "", []
    for name, at_ns, said, arguments in records:
        if name == semconv.DETAILS_EVENT:
            whole |= said
            of_whole = arguments if INPUT_MESSAGES in said else of_whole
        else:
            events.append(Event(name, at_ns, said))
            if name in semconv.INPUT_EVENTS:
                of_each.append((arguments, said))
    if whole:
        events.append(Event(semconv.DETAILS_EVENT, 0, whole))
    story = told(events)
    arguments = of_whole if whole.get(INPUT_MESSAGES) else _together(of_each)
    return Contents(story.input and clean(story.input), story.output and clean(story.output), arguments)


def _together(messages: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The keyed hash of several messages, of which some have one and the others are as they were sent."""
    if len(messages) < 2 or not any(one for one, _ in messages):
        return messages[0][0] if messages else ""
    return masking.hashed(_encode([one or said for one, said in messages]).decode())


def _masked(one: Said, rule: Rule) -> Said:
    """The record as the rule leaves it, with a keyed hash of what went in if that is not what it was."""
    was = _encode(one.said).decode()
    text = masking.text(was, rule)
    if text == was:
        return one
    masked = one._replace(said=_decode(text))
    given = contents([one]).input
    is_changed = given is not None and contents([masked]).input != given
    # Of what was masked before, the hash is that of what was sent.
    return masked._replace(arguments=one.arguments or masking.hashed(given)) if given and is_changed else masked


def _keeping(project_id: int, rows: Sequence[Message], rule: Rule | None, *, now: datetime) -> Statement:
    said, arguments = [one.said for one in rows], [""] * len(rows)
    if rule:
        masked = [_masked(Said(one.name, one.at_ns, _decode(one.said)), rule) for one in rows]
        said, arguments = [_encode(one.said).decode() for one in masked], [one.arguments for one in masked]
    return Statement(
        KEEP,
        {
            "project_id": project_id,
            "now": now,
            "pii": bool(rule and rule.pii),
            "ips": bool(rule and rule.ips),
            "traces": array(one.trace_id.hex() for one in rows),
            "spans": array(one.span_id for one in rows),
            "digests": texts(f"\\x{one.digest.hex()}" for one in rows),
            "ats": array(one.at_ns for one in rows),
            "places": array(one.place for one in rows),
            "names": texts(one.name for one in rows),
            "said": texts(said),
            "arguments": texts(arguments),
        },
    )


def _fill(project_id: int, places: Sequence[Place], new: Digests, *, now: datetime) -> int:
    """Complete the stored spans among these, of which the `new` records were not known; how many there are."""
    (stored,) = pipeline.flush([Statement(STORED, _named(project_id, places))])
    if not stored:
        return 0
    standing = {(trace, span_id): at for trace, span_id, at in stored}
    found = _contents(project_id, list(standing), standing, new)
    pipeline.flush([_filling(project_id, place, at, found[place], now=now) for place, at in standing.items()])
    return len(stored)


def _filling(project_id: int, place: Place, at: datetime, contents: Contents, *, now: datetime) -> Statement:
    told = {"input": contents.input, "output": contents.output, "mark": _encode(contents.mark).decode()}
    return Statement(FILL, _at(project_id, place, at) | told | {"now": now})


def _contents(
    project_id: int, places: Sequence[Place], standing: Mapping[Place, datetime], new: Digests = ()
) -> dict[Place, Contents]:
    """What each of these spans has from its records; `standing` says where those are stored that have some already."""
    stored = [place for place in places if place in standing]
    reading = Statement(READ, _named(project_id, places) | {"most": MOST_RECORDS, "bytes": MOST_BYTES})
    stood = [Statement(STOOD, _at(project_id, place, standing[place])) for place in stored]
    rows, *answers = pipeline.flush([reading, *stood])
    records: dict[Place, list[Said]] = {}
    known: dict[Place, list[Said]] = {}
    asked = None
    for trace, span_id, digest, pii, ips, pii_masked, ips_masked, name, at_ns, said, arguments in rows:
        one, place = Said(name, at_ns, _decode(said), arguments), (trace, span_id)
        # What came before the project asked for it is masked now, so that no page shows it from now on.
        asked = masking.rule_of(pii, ips)
        if rule := masking.rule_of(pii and not pii_masked, ips and not ips_masked):
            one = _masked(one, rule)
        records.setdefault(place, []).append(one)
        if (place, digest) not in new:
            known.setdefault(place, []).append(one)
    found = {place: contents(records.get(place, ())) for place in places}
    for place, answer in zip(stored, answers, strict=True):
        for fields in answer:
            found[place] = _staying(Contents(*fields), contents(known.get(place, ())), found[place], asked)
    return found


def _staying(stood: Contents, known: Contents, now: Contents, rule: Rule | None) -> Contents:
    """What the records tell `now`; what stands stays where those `known` do not say it, for some have left then."""
    heard = now if stood.input is None or _says(known.input, stood.input, rule) else stood
    said = now if stood.output is None or _says(known.output, stood.output, rule) else stood
    return Contents(heard.input, said.output, heard.arguments)


def _says(told: str | None, stood: str, rule: Rule | None) -> bool:
    """Whether this says what stands, however much more of it is masked by now."""
    return told is not None and (stood == told or (rule is not None and masking.text(stood, rule) == told))


def _at(project_id: int, place: Place, at: datetime) -> dict[str, Any]:
    return {"project_id": project_id, "trace_id": place[0], "span_id": place[1], "at": at}


def _named(project_id: int, places: Sequence[Place]) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "traces": array(trace for trace, _ in places),
        "spans": array(span_id for _, span_id in places),
    }


def _parts(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """The spans a few at a time, so that what they say fits into memory."""
    for begin in range(0, len(places), SPANS_AT_ONCE):
        yield places[begin : begin + SPANS_AT_ONCE]
