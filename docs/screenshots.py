"""Pictures of every page into screenshots/, and what is wrong with them: `make screenshots`.

Starts an instance in a temporary home, looks at every page while it is empty and once it is full, and ends. Full is
after a replay of ../shared/data, or where there is none, after a minute of the simulated fleet. The exit code is 1 when
a console complained, the content policy refused something, axe found something or a page scrolls sideways.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, sync_playwright

from frontend.look import SCREENSHOTS, Theme, launch, photograph, tell
from launcher.child import Child
from launcher.throwaway import ThrowawayHome

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT.parent / "shared" / "data"
RECORDINGS = ("taubench/gpt-4o-airline.jsonl.gz", "tau2bench/airline_claude-sonnet-4-5.jsonl.gz")
LIVES_S = 60
READY_WITHIN_S = 300.0
LOOKS: tuple[tuple[Theme, int], ...] = (("light", 1440), ("dark", 1440), ("light", 390))
# Pages that no link of the navigation leads to: their address, and what they answer.
BESIDE = {"/search?q=order": 200, "/api/docs/": 200, "/no-such-page": 404}
HREF = re.compile(r"<a\b[^>]*?\bhref=\"(/[^\"#?]*)")
OBJECT = re.compile(r"^/[\w-]+/[0-9a-f]{8}-[0-9a-f-]{27}$|^/agents/.")
NAV = re.compile(r"<nav\b.*?</nav>", re.DOTALL)


class Instance(NamedTuple):
    """A running Handrail, and the environment in which its commands find it."""

    url: str
    environment: Mapping[str, str]

    def manage(self, *command: str) -> str:
        """What a command prints; raises CalledProcessError."""
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return done.stdout.strip()


@contextmanager
def running() -> Iterator[Instance]:
    """An instance of its own; nothing of it stays, whatever happens."""
    with ThrowawayHome() as home:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HANDRAIL_", "DATABASE_URL"))}
        kept.pop("REDIS_URL", None)
        environment = kept | {"HANDRAIL_HOME": str(home.path / "home"), "HANDRAIL_PORT": str(port)}
        if chromium := os.environ.get("HANDRAIL_CHROMIUM"):
            environment["HANDRAIL_CHROMIUM"] = chromium
        said = home.path / "said"
        with said.open("wb") as output:
            child = Child([sys.executable, str(ROOT / "manage.py"), "up"], env=environment, output=output, grace_s=12)
        try:
            deadline_s = time.monotonic() + READY_WITHIN_S
            while "is ready after" not in said.read_text():
                if not child.is_running() or time.monotonic() > deadline_s:
                    raise SystemExit(f"Handrail did not start:\n{said.read_text()[-3000:]}")
                time.sleep(0.2)
            yield Instance(f"http://127.0.0.1:{port}", environment)
        finally:
            child.stop()


@contextmanager
def signed_in(instance: Instance, project: str) -> Iterator[httpx.Client]:
    """A session of a new admin of the project."""
    email = f"{project}@localhost"
    password = instance.manage("create_operator", email, "--role", "admin", "--project", project, "--name", "Ada Lane")
    with httpx.Client(base_url=instance.url, timeout=60) as client:
        client.get("/sign-in")
        form = {"username": email, "password": password, "csrfmiddlewaretoken": client.cookies["handrail_csrf"]}
        answer = client.post("/sign-in", data=form, headers={"referer": f"{instance.url}/sign-in"})
        if answer.status_code != 302:
            raise SystemExit(f"signing in answered {answer.status_code}")
        yield client


def pages(client: httpx.Client) -> dict[str, int]:
    """Every page that the navigation leads to, one object of each list, and those beside; with what they answer."""
    places = list(dict.fromkeys(HREF.findall("".join(NAV.findall(client.get("/").text)))))
    found = dict.fromkeys(["/", *places], 200)
    for place in list(found):
        objects = [link for link in HREF.findall(client.get(place).text) if OBJECT.match(link)]
        # One of a kind is enough: /alerts/<id>, /queue/<id>, …
        for link in objects:
            if not any(OBJECT.match(other) and _kind(other) == _kind(link) for other in found):
                found[link] = 200
    return found | BESIDE


def _kind(path: str) -> str:
    return path.split("/")[1]


def name_of(path: str) -> str:
    if path == "/":
        return "overview"
    return f"{_kind(path)}-one" if OBJECT.match(path) else urlsplit(path).path.strip("/").replace("/", "-")


def look(
    browser: Browser, instance: Instance, state: str, wanted: Mapping[str, int], cookies: Mapping[str, str]
) -> int:
    """Photograph the pages in every look; how much is wrong with them."""
    complaints = 0
    for path, status in wanted.items():
        for theme, width in LOOKS:
            name = f"{state}/{name_of(path)}-{theme}-{width}"
            picture = SCREENSHOTS / f"{name}.png"
            problems = photograph(
                browser,
                f"{instance.url}{path}",
                picture,
                theme=theme,
                width=width,
                cookies=cookies,
                may_answer=status,
            )
            tell(name, problems)
            complaints += len(problems)
    return complaints


def fill(instance: Instance) -> str:
    """Give a project something to show; its name."""
    recordings = [str(RECORDED / name) for name in RECORDINGS if (RECORDED / name).exists()]
    if recordings:
        print(instance.manage("replay", *recordings, "--url", instance.url))
        return "replay"
    print(f"There are no recordings in {RECORDED}: the simulated fleet fills the pages instead.")
    print(instance.manage("demo", "--seconds", str(LIVES_S), "--url", instance.url))
    return "demo"


def main() -> int:
    for state in ("empty", "full"):
        shutil.rmtree(SCREENSHOTS / state, ignore_errors=True)
    complaints = 0
    with running() as instance, sync_playwright() as playwright:
        browser = launch(playwright)
        complaints += look(browser, instance, "empty", {"/sign-in": 200}, {})
        with signed_in(instance, "nobody-sent-anything") as client:
            complaints += look(browser, instance, "empty", pages(client), dict(client.cookies))
        with signed_in(instance, fill(instance)) as client:
            complaints += look(browser, instance, "full", pages(client), dict(client.cookies))
        browser.close()
    print(f"{complaints} problems; the pictures are in {SCREENSHOTS}.")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
