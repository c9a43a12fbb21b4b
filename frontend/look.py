"""Pictures of pages, what axe finds on them, what their console says: `python frontend/look.py http://host/kit …`.

Writes screenshots/<page>-<theme>-<width>.png; exits 1 when axe finds something or the console complained.
"""

import argparse
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--disable-sync", "--no-first-run"]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="+")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--height", type=int, default=960)
    parser.add_argument("--theme", action="append", choices=["light", "dark"])
    parser.add_argument("--full", action="store_true", help="the whole height of the page")
    parser.add_argument("--out", type=Path, default=ROOT / "screenshots")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    complaints = 0
    with sync_playwright() as playwright:
        executable = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        for url in chosen.url:
            for theme in chosen.theme or ["light", "dark"]:
                for width in chosen.width or [1440, 390]:
                    size = {"width": width, "height": chosen.height if width > 600 else 844}
                    page = browser.new_page(viewport=size, color_scheme=theme)
                    said: list[str] = []
                    page.on("console", lambda message, said=said: said.append(f"{message.type}: {message.text}"))
                    page.on("pageerror", lambda error, said=said: said.append(f"error: {error}"))
                    page.goto(url, wait_until="networkidle")
                    page.wait_for_timeout(300)
                    name = urlsplit(url).path.strip("/").replace("/", "-") or "overview"
                    page.screenshot(path=chosen.out / f"{name}-{theme}-{width}.png", full_page=chosen.full)
                    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    said += [f"scrolls sideways by {wide} px"] if wide > 0 else []
                    problems = [line for line in said if not line.startswith(("log", "info"))] + violations(page)
                    complaints += len(problems)
                    print(f"{name} {theme} {width}: {len(problems)} problems")
                    for line in problems:
                        print(f"  {line}")
                    page.close()
        browser.close()
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
