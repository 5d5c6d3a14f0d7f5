"""The pictures of the README, from the demo's newest run: python docs/images/screenshots.py

Needs the extra `dev` and Chromium. Run `./spark-submit.sh nightly` first.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT, REPORT_HEIGHT = 1200, 760, 1110


def main() -> None:
    words = [sys.executable, "-m", "samestyle.cli", "serve", "--port", "0", "--refresh-seconds", "0"]
    with (
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout
        address = server.stdout.readline().split()[3]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        picture(browser, "shop", lambda page: show_words(page, address))
        picture(browser, "alike", lambda page: show_alike(page, address))
        report = max((ROOT / "data" / "demo" / "runs").glob("*/report.html"))
        picture(browser, "report", lambda page: page.goto(report.as_uri()), REPORT_HEIGHT)
        server.terminate()


def show_words(page: Page, address: str) -> None:
    page.goto(f"{address}/search?q=striped+mug")


def show_alike(page: Page, address: str) -> None:
    show_words(page, address)
    page.locator(".spot").nth(5).click()


def picture(browser: Browser, name: str, show: Callable[[Page], object], height: int = HEIGHT) -> None:
    page = browser.new_page(viewport={"width": WIDTH, "height": height})
    show(page)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=HERE / f"{name}.png")
    page.close()


if __name__ == "__main__":
    main()
