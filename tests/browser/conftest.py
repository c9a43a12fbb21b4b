"""One running instance and one Chromium for all stories; every story takes a project of its own."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from frontend.look import FLAGS
from tests.browser.windows import Window
from tests.launcher.instance import Instance
from tests.plugin import chromium


# Of the package, not of the session: while Playwright's loop runs, Django refuses to ask a database in this thread.
@pytest.fixture(scope="package")
def chrome() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def handrail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("browser") / "home")
    try:
        yield instance.begin().ready()
    finally:
        instance.end()


@pytest.fixture
def window(chrome: Browser, handrail: Instance) -> Iterator[Callable[..., Window]]:
    """Opens windows, each a browser of its own; at the end none of their consoles may have complained."""
    opened: list[Window] = []

    def open_window(**how: object) -> Window:
        opened.append(Window(chrome, handrail, **how))
        return opened[-1]

    yield open_window
    for one in opened:
        one.close()
    assert [line for one in opened for line in one.complaints] == []
