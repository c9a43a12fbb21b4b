"""What `handrail run` may be told on its command line."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
LONGEST_S = 30 * 86_400

ABOUT = """\
Runs COMMAND and watches over it: Handrail sees that it lives, ends it together with everything that it started when
it hangs or runs too long, starts it again when it fails, and asks a person when nothing helps. Its output passes
through as it comes, and its exit code is yours.
"""

MORE = """\
environment:
  HANDRAIL_URL, HANDRAIL_API_KEY
                        the server and a key with the scope ingest; without them COMMAND is watched all the same,
                        and nobody hears of it
  HANDRAIL_EXECUTION_ID, HANDRAIL_RUN_ID
                        what this work belongs to, where it was started by other work; COMMAND finds its own there,
                        and the number of its attempt in HANDRAIL_ATTEMPT

exit codes:
  of COMMAND; 128 + n when signal n ended it
  124                   --no-wait: the last attempt hung or ran out of time
  126                   COMMAND can't be executed
  127                   there is no such COMMAND
  143                   Handrail cancelled it
  2                     these options make no sense

DURATION is a number of seconds, or a number with s, m, h or d: 90, 15m, 2h.
"""


@dataclass(frozen=True)
class Options:
    """Times in seconds; None leaves it to what the server has for this agent or project."""

    agent: str
    command: tuple[str, ...]
    run_id: str = ""
    task: str = ""
    department: str = ""
    parent_id: str | None = None
    timeout_s: int | None = None
    heartbeat_s: int | None = None
    retries: int | None = None
    # 0 never looks.
    hang_after_s: float = 300.0
    grace_s: float = 5.0
    on_pause: str = "stop"
    tells_output: bool = True
    waits: bool = True


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="run a command and watch over it",
        usage="handrail run --agent NAME [options] -- COMMAND [ARGUMENT ...]",
        description=ABOUT,
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what it is")
    what.add_argument("--agent", required=True, metavar="NAME", help="the agent whose work this is")
    what.add_argument("--task", metavar="TEXT", help="what it works at (default: the name of COMMAND)")
    what.add_argument(
        "--run-id", metavar="ID", help="the run that it is part of (default: HANDRAIL_RUN_ID, or its own)"
    )
    what.add_argument("--department", default="", metavar="NAME", help="who pays for it")
    clocks = parser.add_argument_group("clocks", "Of the first three the server may have its own for this agent.")
    clocks.add_argument(
        "--timeout", type=whole, metavar="DURATION", help="the longest that an attempt may take (default: 60)"
    )
    clocks.add_argument(
        "--heartbeat",
        type=whole,
        metavar="DURATION",
        help="without a sign for one and a half of these it counts as lost (default: 30)",
    )
    clocks.add_argument(
        "--retries", type=int, metavar="N", help="how often it is started again before a person is asked (default: 3)"
    )
    clocks.add_argument(
        "--hang-after",
        type=duration,
        default=300.0,
        metavar="DURATION",
        help="without output and processor time for so long it hangs and is ended; 0 never looks (default: 5m)",
    )
    clocks.add_argument(
        "--grace", type=duration, default=5.0, metavar="DURATION", help="from SIGTERM to SIGKILL (default: 5)"
    )
    ways = parser.add_argument_group("ways")
    ways.add_argument(
        "--on-pause",
        choices=("stop", "kill", "leave"),
        default="stop",
        help="when it is paused: stop its processes where they are (default), kill it and start it again later, "
        "or leave it be",
    )
    ways.add_argument(
        "--no-output", dest="output", action="store_false", help="keep what it writes; else its last lines are shown"
    )
    ways.add_argument(
        "--no-wait", dest="wait", action="store_false", help="end when retries are spent; else a person is waited for"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.set_defaults(parser=parser)


def options(told: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Options:
    """Ends the program with an explanation when something makes no sense."""
    command: Sequence[str] = told.command[1:] if told.command[:1] == ["--"] else told.command
    if not command:
        told.parser.error("there is no COMMAND; it stands behind --")
    if told.retries is not None and not 0 <= told.retries <= 100:
        told.parser.error("--retries lies between 0 and 100")
    if told.heartbeat is not None and told.heartbeat > 86_400:
        told.parser.error("--heartbeat is at most a day")
    return Options(
        agent=told.agent[:200],
        command=tuple(command),
        run_id=(told.run_id if told.run_id is not None else environ.get("HANDRAIL_RUN_ID", ""))[:200],
        task=(told.task if told.task is not None else os.path.basename(command[0]))[:500],
        department=told.department[:100],
        parent_id=environ.get("HANDRAIL_EXECUTION_ID") or None,
        timeout_s=told.timeout,
        heartbeat_s=told.heartbeat,
        retries=told.retries,
        hang_after_s=told.hang_after,
        grace_s=told.grace,
        on_pause=told.on_pause,
        tells_output=told.output,
        waits=told.wait,
    )


def duration(text: str) -> float:
    """Seconds from `90`, `1.5h`, `15m`."""
    found = DURATION.fullmatch(text.strip())
    if found is None or float(found[1]) * UNITS_S[found[2]] > LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration of at most 30 days, such as 90, 15m or 2h")
    return float(found[1]) * UNITS_S[found[2]]


def whole(text: str) -> int:
    seconds = duration(text)
    if seconds < 1 or seconds != int(seconds):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of seconds, at least one")
    return int(seconds)
