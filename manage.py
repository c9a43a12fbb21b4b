#!/usr/bin/env python
"""The command line. `up` is the supervisor and needs no Django; all else is Django's.

Around `backup` and `restore` the embedded database runs, also while the instance is stopped.
"""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if sys.argv[1:2] == ["up"]:
        from launcher.up import main as up  # noqa: PLC0415  (keeps the supervisor free of Django's memory)

        sys.exit(up(sys.argv[2:]))
    if sys.argv[1:2] in (["backup"], ["restore"]) and not {"-h", "--help"} & set(sys.argv):
        from launcher.fault import Fault  # noqa: PLC0415
        from launcher.offline import server_for  # noqa: PLC0415

        if sys.argv[1] == "restore":
            os.environ["HANDRAIL_DB_ROLE"] = "owner"
        try:
            with server_for(sys.argv[1:]):
                execute()
        except Fault as fault:
            sys.stderr.write(f"{fault}\n")
            sys.exit(1)
        return
    execute()


def execute() -> None:
    """Django's own commands, and ours in config and monitor."""
    from django.core.exceptions import ImproperlyConfigured  # noqa: PLC0415
    from django.core.management import execute_from_command_line  # noqa: PLC0415

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        if not str(error).startswith("handrail."):
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
