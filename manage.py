#!/usr/bin/env python
"""The command line. `up` is the supervisor and needs no Django; all else is Django's."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if sys.argv[1:2] == ["up"]:
        from launcher.up import main as up  # noqa: PLC0415  (keeps the supervisor free of Django's memory)

        sys.exit(up(sys.argv[2:]))
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
