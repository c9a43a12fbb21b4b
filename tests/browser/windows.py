"""A person's window onto a running Handrail, and what its console complains about."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page, expect

from tests.flows.running import address, make_key, manage
from tests.launcher.instance import Instance

# Two cores may be shared with the instance and everything else that runs.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


class Person(NamedTuple):
    name: str
    email: str
    password: str


class Project(NamedTuple):
    key: str
    people: list[Person]


def make_project(
    instance: Instance,
    name: str,
    people: Iterable[str] = ("Ada Lane",),
    *,
    role: str = "operator",
    scopes: str = "ingest,read,operate,admin",
) -> Project:
    """A project with a key and people who may sign in."""
    key = make_key(instance, name, scopes=scopes)
    with ThreadPoolExecutor() as shells:
        return Project(key, list(shells.map(lambda one: make_person(instance, name, one, role), people)))


def make_person(instance: Instance, project: str, name: str, role: str) -> Person:
    """Somebody who may sign in to the project."""
    email = f"{name.split()[0].lower()}.{project}@example.org"
    command = ("create_operator", email, "--role", role, "--project", project, "--name", name)
    return Person(name, email, manage(instance, *command))


class Window:
    """A browser with cookies and storage of its own, and one page in it."""

    def __init__(
        self, chrome: Browser, instance: Instance, *, width: int = 1440, height: int = 960, **how: Any
    ) -> None:
        self.context = chrome.new_context(
            base_url=address(instance),
            viewport={"width": width, "height": height},
            reduced_motion="reduce",
            **how,
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self._hear("error", str(error)))
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind not in ("log", "info", "debug"):
            self.complaints.append(f"{self.page.url} {kind}: {text}")

    def forgive(self, words: str) -> None:
        """Drop the one complaint with these words, which the story is about; raises when it is not there."""
        [expected] = [line for line in self.complaints if words in line]
        self.complaints.remove(expected)

    def sign_in(self, person: Person, path: str = "/") -> Page:
        """Sign in by the form that stands before the path; the page that follows is the path's, and live."""
        self.page.goto(path)
        self.page.get_by_label("Email").fill(person.email)
        self.page.get_by_label("Password").fill(person.password)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("navigation", name="Main")).to_be_visible()
        self.is_live()
        return self.page

    def is_live(self) -> None:
        """Return when the page hears news."""
        expect(self.page.locator("[data-live-state]").first).to_have_attribute("data-live-state", "live")

    def close(self) -> None:
        for page in self.context.pages:
            # A request on its way to a test's own answer fails when the page goes.
            page.unroute_all(behavior="ignoreErrors")
        self.context.close()
