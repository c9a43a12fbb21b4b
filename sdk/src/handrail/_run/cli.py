"""The command `handrail`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from handrail import _settings
from handrail._run import options
from handrail._run.leash import kernel
from handrail._run.supervisor import Supervisor
from handrail._transport import VERSION

ABOUT = "Keeps AI agents in human reach."


def main(words: Sequence[str] | None = None) -> int:
    """The exit code of the command that was run."""
    parser = argparse.ArgumentParser(prog="handrail", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"%(prog)s {VERSION}")
    options.add_to(parser.add_subparsers(title="commands", metavar="COMMAND", required=True))
    wanted = options.options(parser.parse_args(words))
    if not hasattr(os, "fork"):
        sys.exit("handrail run needs a system with process groups: Linux, macOS or a BSD.")
    kernel.inherit_orphans()
    return Supervisor(wanted, _settings.read(), environ=os.environ).run()
