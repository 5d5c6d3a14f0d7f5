"""The pictures of the README, from the demo's newest run: python docs/images/screenshots.py [NAME ...]

Needs the extra `dev` and Chromium. Run `./spark-submit.sh nightly` first. Names: shop, alike, phones, report; all of
them without one.
"""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHROMIUM = "/usr/bin/chromium"
WIDTH, HEIGHT, REPORT_HEIGHT = 1200, 760, 1110
PHONE = (390, 760)
GAP, BACKGROUND = 30, "#dfe4ec"
Show = Callable[[Page, str], object]


def main(names: list[str]) -> None:
    unknown = set(names) - PICTURES.keys()
    if unknown:
        sys.exit(f"there is no picture {', '.join(sorted(unknown))}: {', '.join(PICTURES)}")
    with serving() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in names or PICTURES:
            PICTURES[name](browser, address).save(HERE / f"{name}.png", optimize=True)


@contextmanager
def serving() -> Iterator[str]:
    words = [sys.executable, "-m", "samestyle.cli", "serve", "--port", "0", "--refresh-seconds", "0"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        yield server.stdout.readline().split()[3]
        server.terminate()


def show_home(page: Page, address: str) -> None:
    page.goto(address)


def show_words(page: Page, address: str) -> None:
    page.goto(f"{address}/search?q=striped+mug")


def show_alike(page: Page, address: str) -> None:
    show_words(page, address)
    page.locator(".spot").nth(5).click()


def show_photo(page: Page, address: str) -> None:
    """What a photo and a word find together; the photo is the one of the largest file."""
    show_words(page, address)
    photo = max((ROOT / "data" / "demo" / "catalogue").rglob("*.jpg"), key=lambda path: (path.stat().st_size, path))
    page.locator("summary").click()
    page.locator("header input[type=file]").set_input_files(photo)
    page.locator("header form.photo input[type=text]").fill("green")
    page.locator("header form.photo button").click()


def show_report(page: Page, address: str) -> None:
    report = max((ROOT / "data" / "demo" / "runs").glob("*/report.html"))
    page.goto(report.as_uri())


def picture(show: Show, width: int = WIDTH, height: int = HEIGHT) -> Callable[[Browser, str], Image.Image]:
    def take(browser: Browser, address: str) -> Image.Image:
        page = browser.new_page(viewport={"width": width, "height": height})
        show(page, address)
        page.wait_for_load_state("networkidle")
        taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        page.close()
        return taken

    return take


def side_by_side(*shows: Show) -> Callable[[Browser, str], Image.Image]:
    def take(browser: Browser, address: str) -> Image.Image:
        screens = [picture(show, *PHONE)(browser, address) for show in shows]
        sheet = Image.new("RGB", (GAP + len(screens) * (PHONE[0] + GAP), PHONE[1] + 2 * GAP), BACKGROUND)
        for place, screen in enumerate(screens):
            sheet.paste(screen, (GAP + place * (PHONE[0] + GAP), GAP))
        return sheet

    return take


PICTURES = {
    "shop": picture(show_words),
    "alike": picture(show_alike),
    "phones": side_by_side(show_home, show_words, show_alike, show_photo),
    "report": picture(show_report, height=REPORT_HEIGHT),
}

if __name__ == "__main__":
    main(sys.argv[1:])
