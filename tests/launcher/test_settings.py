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
            {"HANDRAIL_LOG_LEVEL": "loud"},
            "handrail.E011: HANDRAIL_LOG_LEVEL is 'loud'. Give one of DEBUG, INFO, WARNING, ERROR, CRITICAL, "
            "or unset it for INFO.",
        ),
        (
            {"HANDRAIL_PUBLIC_URL": "nonsense", "HANDRAIL_PORT": "8123"},
            "handrail.E011: HANDRAIL_PUBLIC_URL is 'nonsense'. Give http://host:port or https://host, "
            "or unset it for http://localhost:8123.",
        ),
        (
            {"HANDRAIL_SECRET_KEY": "short"},
            "handrail.E001: HANDRAIL_SECRET_KEY has 5 characters. Give at least 50 random ones, "
            "or unset it for the one that the first start makes.",
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
    ids=["port", "high port", "number", "log level", "address", "key", "host", "database", "database away", "redis"],
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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("HANDRAIL_HTTPS", "maybe", "handrail.E011: HANDRAIL_HTTPS is 'maybe'. Give true or false, or unset it."),
        (
            "HANDRAIL_RATE_INGEST",
            "much",
            "handrail.E011: HANDRAIL_RATE_INGEST is 'much'. Give a whole number, or unset it.",
        ),
        *(
            (name, text, f"handrail.E011: {name} is '{text}'. Give a whole number from {bounds}, or unset it.")
            for name, text, bounds in (
                ("HANDRAIL_WEB_THREADS", "0", "1 to 1000"),
                ("HANDRAIL_INGEST_THREADS", "-3", "1 to 1000"),
                ("HANDRAIL_MOST_WAITING", "-1", "1 to 1000000"),
                ("HANDRAIL_MOST_LISTENING", "0", "1 to 1000000"),
                ("HANDRAIL_MAX_OTLP_BYTES", "-1", "1024 to 1073741824"),
                ("HANDRAIL_RATE_GENERAL", "-1", "0 to 1000000000"),
                ("HANDRAIL_DB_MAX_BYTES", "-1", "0 to 9223372036854775807"),
            )
        ),
        (
            "EMAIL_URL",
            "foo",
            "handrail.E011: EMAIL_URL is 'foo'. Give smtp+tls://user:password@host:587 or the like, or unset it.",
        ),
        ("DAILY_BUDGET", "lots", "handrail.E007: DAILY_BUDGET is 'lots'. Give US dollars, 0 to 1000000, such as 500."),
    ],
)
def test_a_wrong_setting_ends_every_command_with_one_line(name: str, text: str, message: str) -> None:
    environment = clean_environment(HANDRAIL_SECRET_KEY="k" * 50, HANDRAIL_PORT="", **{name: text})
    done = subprocess.run(
        [sys.executable, "manage.py", "migrate"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr, done.stdout) == (os.EX_CONFIG, f"{message}\n", "")
