"""A wrong setting fails at the start, with a code and with what to do, and starts nothing."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher.instance import ROOT, clean_environment, free_port


def up(home: Path, **settings: object) -> tuple[int, str]:
    environment = {"HANDRAIL_PORT": free_port(), "HANDRAIL_HOME": home} | settings
    done = subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"HANDRAIL_PORT": "http"},
            "handrail.E011: HANDRAIL_PORT is 'http'. Give a whole number from 1 to 65535, or unset it for 8000.",
        ),
        (
            {"HANDRAIL_PORT": "70000"},
            "handrail.E011: HANDRAIL_PORT is '70000'. Give a whole number from 1 to 65535, or unset it for 8000.",
        ),
        (
            {"HANDRAIL_WORKER_CONCURRENCY": "0"},
            "handrail.E011: HANDRAIL_WORKER_CONCURRENCY is '0'. Give a whole number from 1 to 256, or unset it for 2.",
        ),
        (
            {"HANDRAIL_HOST": "no.such.host.invalid"},
            "handrail.E011: HANDRAIL_HOST is 'no.such.host.invalid', which is no address of this machine.",
        ),
        (
            {"DATABASE_URL": "mysql://localhost/handrail"},
            "handrail.E002: DATABASE_URL is not a PostgreSQL URL: it must begin with postgresql://. "
            "Give postgresql://user:password@host:5432/name, or unset it for the embedded server.",
        ),
        (
            {"DATABASE_URL": "postgresql://handrail:hidden@127.0.0.1:1/handrail"},
            "handrail.E016: no PostgreSQL answers at 127.0.0.1:1. Start it, or correct DATABASE_URL.",
        ),
        (
            {"REDIS_URL": "localhost:6379"},
            "handrail.E003: REDIS_URL must begin with redis://, rediss:// or unix://. "
            "Give redis://host:6379/0, or unset it for the embedded server.",
        ),
    ],
    ids=["port", "high port", "number", "host", "database", "database away", "redis"],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    assert up(tmp_path / "home", **settings) == (1, message)
    assert not (tmp_path / "home" / "postgres").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert up(tmp_path / "home", HANDRAIL_PORT=port) == (
            1,
            f"handrail.E010: port {port} is in use. Set HANDRAIL_PORT to a free one, for example 8001.",
        )


def test_a_home_that_is_a_file_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.write_text("mine")
    code, message = up(home)
    assert code == 1
    assert message.startswith(f"handrail.E012: {home} cannot be used")
    assert home.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_a_home_of_another_user_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    assert up(home) == (
        1,
        f"handrail.E012: {home} belongs to another user. Set HANDRAIL_HOME to a folder of your own.",
    )
