"""Runs benchmarks by their names, without one all but the long ones, each on throw-away servers of its own.

A benchmark is a module of this package with `main()`, which prints what it measured.
"""

import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import django

ROOT = Path(__file__).resolve().parent.parent
ALONE = "--on-these-servers"
# Takes an hour and much of a disk: only when it is asked for.
LONG = {"scale"}


def names() -> list[str]:
    """Every benchmark: the modules beside this one, but for those that only serve them."""
    found = [module.name for module in pkgutil.iter_modules([str(ROOT / "bench")])]
    return [name for name in found if not name.startswith("_")]


def main(wanted: list[str]) -> int:
    """The exit code: 0, or that of the last benchmark that failed."""
    unknown = sorted(set(wanted) - set(names()))
    if unknown:
        print(f"There is no benchmark {', '.join(unknown)}; there are {', '.join(names())}.", file=sys.stderr)
        return 2
    failed = 0
    for name in wanted or [name for name in names() if name not in LONG]:
        print(f"\n{name}", flush=True)
        alone = [sys.executable, "-m", "launcher.throwaway", "--", sys.executable, "-m", "bench", ALONE, name]
        failed = subprocess.run(alone, cwd=ROOT, check=False).returncode or failed
    return failed


def measure(name: str) -> None:
    """Run one on the servers that the environment names."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", "migrate", "--verbosity", "0"],
        cwd=ROOT,
        env=os.environ | {"HANDRAIL_DB_ROLE": "owner"},
        check=True,
    )
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    django.setup()
    import_module(f"bench.{name}").main()


if __name__ == "__main__":
    if sys.argv[1:2] == [ALONE]:
        measure(sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:]))
