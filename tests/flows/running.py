"""What a user does with a running Handrail: commands from another shell, the API, the pages, a look at the rows."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg

from launcher.places import Places
from tests.launcher.instance import ROOT, Instance

PATIENCE_S = 60


def manage(instance: Instance, *words: str) -> str:
    """What `manage.py` prints, run as from another shell; its errors are shown when it fails."""
    done = subprocess.run(
        [sys.executable, "manage.py", *words], cwd=ROOT, env=instance.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"manage.py {' '.join(words)}:\n{done.stdout}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def address(instance: Instance) -> str:
    return f"http://127.0.0.1:{instance.port}"


def make_key(
    instance: Instance, project: str, *, scopes: str = "ingest,read,operate", per_minute: int = 1_000_000
) -> str:
    """A key with that allowance, which as it comes no test would meet."""
    return manage(
        instance,
        *("create_key", "flows", "--project", project, "--scopes", scopes),
        *("--general-per-minute", str(per_minute), "--ingest-per-minute", str(per_minute)),
    )


def api(instance: Instance, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=address(instance), headers=headers, timeout=PATIENCE_S)


@contextmanager
def sign_in(instance: Instance, email: str, password: str) -> Iterator[httpx.Client]:
    """A person's browser after the sign-in form."""
    with httpx.Client(base_url=address(instance), timeout=PATIENCE_S) as browser:
        _fill_form(browser, email, password)
        yield browser


def _fill_form(browser: httpx.Client, email: str, password: str) -> None:
    form = browser.get("/sign-in").raise_for_status().text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
    assert token is not None
    answer = browser.post(
        "/sign-in", data={"username": email, "password": password, "csrfmiddlewaretoken": token.group(1)}
    )
    assert (answer.status_code, answer.headers.get("location")) == (302, "/"), answer.text[:500]


def seen(browser: httpx.Client, path: str) -> str:
    """The words of a page as a person reads them."""
    html = browser.get(path).raise_for_status().text
    html = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@contextmanager
def rows_of(instance: Instance) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """The instance's database, past row-level security."""
    places = Places(instance.home)
    with psycopg.connect(host=str(places.sockets), user="postgres", dbname="handrail", autocommit=True) as connection:
        yield connection


def ask(instance: Instance, statement: str, **values: object) -> list[tuple[Any, ...]]:
    with rows_of(instance) as connection:
        return connection.execute(statement, values).fetchall()
