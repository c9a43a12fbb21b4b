"""Pictures of pages, what axe finds on them, what their console says: `python frontend/look.py http://host/kit …`.

Writes screenshots/<page>-<theme>-<width>.png; exits 1 when axe finds something or the console complained.
"""

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Playwright, TimeoutError, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SCREENSHOTS = ROOT / "screenshots"
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
Theme = Literal["light", "dark"]
TOO_WIDE = """() => [...document.querySelectorAll("html, .page, .cols, .pane, .pane-body, [class*=pane-]")]
  .filter((part) => part.checkVisibility() && part.scrollWidth > part.clientWidth)
  .map((part) => `${part.localName}#${part.id}.${part.className} by ${part.scrollWidth - part.clientWidth} px`)"""
# The last cell of a row that is seen, where it comes nearer to the edge than all else on the page.
IN_THE_MARGIN = """() => [...document.querySelectorAll(".table tr")].flatMap((row) => {
  const cell = [...row.cells].findLast((one) => one.checkVisibility());
  if (!cell) return [];
  const style = getComputedStyle(cell);
  const kept = parseFloat(style.paddingInlineEnd) + parseFloat(getComputedStyle(row).paddingInlineEnd);
  const gutter = parseFloat(style.getPropertyValue("--gutter"));
  return kept < gutter ? [`${cell.innerText.slice(0, 20)} keeps ${kept} px`] : [];
}).slice(0, 3)"""
SETTLES_MS = 5_000
HEIGHT = 960
PHONE_HEIGHT = 844


def launch(playwright: Playwright) -> Browser:
    """The browser of HANDRAIL_CHROMIUM, or the first of the usual names on the path."""
    named = os.environ.get("HANDRAIL_CHROMIUM")
    path = named or next((found for name in NAMES if (found := shutil.which(name))), None)
    return playwright.chromium.launch(executable_path=path, args=FLAGS)


def photograph(
    browser: Browser,
    url: str,
    path: Path,
    *,
    theme: Theme = "light",
    width: int = 1440,
    height: int = HEIGHT,
    full: bool = False,
    cookies: Mapping[str, str] | None = None,
    may_answer: int = 200,
) -> list[str]:
    """Write a picture of the page; what is wrong with it: console, content policy, axe, sideways scrolling."""
    size = ViewportSize(width=width, height=height if width > 600 else PHONE_HEIGHT)
    context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")
    place = {"domain": urlsplit(url).hostname, "path": "/"}
    context.add_cookies([{"name": name, "value": value, **place} for name, value in (cookies or {}).items()])
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    answer = page.goto(url)
    settle(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=full)
    status = answer.status if answer else 0
    if status != 200 and status == may_answer:
        said = [line for line in said if f"status of {status}" not in line]
    said += [f"answered {status}"] if status != may_answer else []
    said += too_wide(page) + in_the_margin(page)
    problems = [line for line in said if not line.startswith(("log", "info"))] + violations(page)
    context.close()
    return problems


def settle(page: Page) -> None:
    """Wait for fonts, charts and fragments; a stream that stays open is no reason to wait longer."""
    with contextlib.suppress(TimeoutError):
        page.wait_for_load_state("networkidle", timeout=SETTLES_MS)
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(300)


def too_wide(page: Page) -> list[str]:
    """The page and the panes in it that scroll sideways or cut off; a table or code that does so by itself may."""
    return [f"scrolls sideways: {what}" for what in page.evaluate(TOO_WIDE)]


def in_the_margin(page: Page) -> list[str]:
    """Tables whose last column that is seen stands in the margin of the page."""
    return [f"stands in the margin: {what}" for what in page.evaluate(IN_THE_MARGIN)]


def violations(page: Page) -> list[str]:
    """What axe finds, one line per rule with the first elements."""
    # Evaluated through the debugger, so the page's content policy does not stand in the way.
    page.evaluate(AXE.read_text())
    found = page.evaluate("(tags) => axe.run({runOnly: {type: 'tag', values: tags}})", RULES)["violations"]
    return [
        f"{each['id']}: {each['help']} {[node['target'] for node in each['nodes'][:3]]} "
        f"{each['nodes'][0].get('failureSummary', '')[:200]!r}"
        for each in found
    ]


def tell(name: str, problems: list[str]) -> None:
    print(f"{name}: {len(problems)} problems")
    for line in problems:
        print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="+")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--height", type=int, default=HEIGHT)
    parser.add_argument("--theme", action="append", choices=["light", "dark"])
    parser.add_argument("--full", action="store_true", help="the whole height of the page")
    parser.add_argument("--out", type=Path, default=SCREENSHOTS)
    chosen = parser.parse_args()
    complaints = 0
    with sync_playwright() as playwright:
        browser = launch(playwright)
        for url in chosen.url:
            for theme in chosen.theme or ["light", "dark"]:
                for width in chosen.width or [1440, 390]:
                    name = f"{urlsplit(url).path.strip('/').replace('/', '-') or 'overview'}-{theme}-{width}"
                    look = {"theme": theme, "width": width, "height": chosen.height, "full": chosen.full}
                    problems = photograph(browser, url, chosen.out / f"{name}.png", **look)
                    complaints += len(problems)
                    tell(name, problems)
        browser.close()
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
