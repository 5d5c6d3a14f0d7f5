"""A person with a browser, or with a keyboard alone, in the shop that `samestyle serve` shows."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import axe_playwright_python
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
OFFERS = 48
WIDTHS = (390, 820, 1280)
SWITCH_S = 60
expect.set_options(timeout=60_000)  # other tests may have the cores

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no Chromium at {CHROMIUM}")


@dataclass(frozen=True)
class Shelf:
    """A demo catalogue's offers with photos, all of them encoded; the last one is a copy of the first."""

    root: Path
    rows: list[dict]
    photos: list[Path]
    publish: Callable[[str, str | None, int], None]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tests" / "core")
        yield make_shelf(folder)


def make_shelf(folder: Path) -> Shelf:
    from releases import Catalogue, publish_small
    from unified import random_fusion

    from samestyle.catalogue.images import DecodeLimits, decode_image
    from samestyle.demo.catalogue import write_demo_catalogue
    from samestyle.encoder.export import export_unified
    from samestyle.encoder.runtime import Encoder
    from samestyle.release.manifest import EncoderEntry
    from samestyle.release.store import LocalStore

    demo = write_demo_catalogue(folder / "demo", 2 * OFFERS, 1, 7)
    table = pq.read_table(demo.path / "catalogue.parquet" if demo.path.is_dir() else demo.path).to_pylist()
    complete = [row for row in table if row["title"] and row["image_uri"]]
    found = [(row, path) for row in complete if (path := folder / "demo" / row["image_uri"]).is_file()]
    rows, photos = map(list, zip(*[pair for pair in found if is_photo(pair[1])][:OFFERS], strict=True))
    store = LocalStore(folder / "root" / "store")
    export_unified(folder / "encoder", random_fusion(), {"training": []})
    encoder = Encoder.load(folder / "encoder")
    entry = EncoderEntry(encoder.encoder_id, encoder.dim, store.put_folder(folder / "encoder"), {})
    images = [decode_image(path.read_bytes(), DecodeLimits(), encoder.image_size) for path in photos]
    vectors = encoder.encode([row["title"] for row in rows], images)["fused"]

    def publish(release_id: str, parent: str | None, count: int) -> None:
        """With the first `count` offers, and the copy."""
        shown = [item_row(label, row) for label, row in enumerate(rows[:count])]
        copies = [{**shown[0], "item_id": "a copy/of it"}, *shown]
        display = [card(row["item_id"], rows[row["label"]], photos[row["label"]]) for row in copies]
        catalogue = Catalogue(vectors[:count], copies)
        parts = {"catalogue": catalogue, "shards": 1, "encoder": entry, "display": display}
        publish_small(store, folder / "built", release_id, parent, **parts)

    return Shelf(folder / "root", rows, photos, publish)


def is_photo(path: Path) -> bool:
    from samestyle.catalogue.images import DecodeLimits, decode_image
    from samestyle.errors import ImageError

    try:
        return decode_image(path.read_bytes(), DecodeLimits()) is not None
    except ImageError:
        return False


def item_row(label: int, row: dict) -> dict:
    attributes = {"price": row["price"], "in_stock": row["in_stock"]}
    key = {"label": label, "node_key": f"node{label:05d}", "item_id": row["item_id"], "alive": True}
    return {**key, "supplier_id": row["supplier_id"], "category": row["category"], "attributes": attributes}


def card(item_id: str, row: dict, photo: Path) -> dict:
    import cv2

    scaled = cv2.resize(cv2.imread(str(photo)), (200, 200))
    thumbnail = cv2.imencode(".jpg", scaled)[1].tobytes()
    return {"item_id": item_id, "title": row["title"], "image_uri": row["image_uri"], "thumbnail": thumbnail}


@pytest.fixture(scope="module")
def address(shelf) -> Iterator[str]:
    """Where a server of its own answers, which looks for a new release twice a second."""
    shelf.publish("r1", None, OFFERS)
    words = ["serve", "--port", "0", "--refresh-seconds", "0.5", f"paths.root={shelf.root}"]
    command = [sys.executable, "-m", "samestyle.cli", *words]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        line = server.stdout.readline()
        assert line.startswith("release r1 at http://127.0.0.1:"), line
        yield line.split()[3]
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
    finally:
        server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """A fresh window, in which nothing may go wrong and nothing may come from elsewhere."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    assert [text for text in wrong if "responded with a status of 4" not in text] == []


def look(page: Page) -> None:
    """At every width nothing sticks out, every photo is there, and axe-core finds nothing."""
    page.wait_for_load_state()  # a click returns before the page it leads to is there
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(AXE)
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 15
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
    page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)") == []


def titles(page: Page) -> list[str]:
    page.wait_for_load_state()
    return page.locator(".grid h3").all_inner_texts()


def expect_first(page: Page, title: str) -> None:
    """Waits for it, as all that `expect` does: the page that a click leads to comes when it comes."""
    expect(page.locator(".grid h3").first).to_have_text(title)


def search_words(page: Page, words: str) -> None:
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("button", name="Search", exact=True).click()


def test_home_shows_the_catalogue(page):
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Seen something you like?")
    expect(page.locator(".grid h3")).to_have_count(24)
    look(page)


def test_words_find_products_and_each_leads_to_its_kind(page, shelf):
    page.goto("/")
    search_words(page, shelf.rows[5]["title"])
    expect_first(page, shelf.rows[5]["title"])
    look(page)
    page.get_by_role("link", name=f"Spot alike: {shelf.rows[5]['title']}").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(shelf.rows[5]["title"])
    look(page)
    for tab in ("From more suppliers", "Similar products"):
        page.get_by_role("navigation", name="Alike").get_by_role("link", name=tab).click()
        chosen = page.locator(".tabs a[aria-current=page]")
        expect(chosen).to_contain_text(tab)
        assert int(chosen.locator("span").inner_text()) == len(titles(page))
        assert shelf.rows[5]["title"] not in titles(page)
        look(page)


def test_more_products_are_a_link_away(page):
    page.goto("/search?q=blue")
    page.get_by_role("link", name="Show more").click()
    expect(page.locator(".grid h3")).to_have_count(48)


def test_a_photo_finds_its_product(page, shelf):
    page.goto("/")
    form = page.locator("main form.photo")
    form.get_by_label("Choose a photo").set_input_files(shelf.photos[7])
    expect(form.locator(".preview")).to_have_attribute("src", re.compile("^data:image/"))
    form.get_by_role("button", name="Find products").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Products like your photo")
    expect(page.get_by_alt_text("Your photo")).to_be_visible()
    expect_first(page, shelf.rows[7]["title"])
    look(page)


@pytest.mark.soak  # a further way to what test_a_photo_finds_its_product asks for
def test_a_photo_and_words_go_together_from_the_header(page, shelf):
    page.goto("/release")
    page.get_by_text("Search by photo").click()
    look(page)
    form = page.locator("header form.photo")
    form.get_by_label("Choose a photo").set_input_files(shelf.photos[9])
    form.get_by_label("Words to go with it").fill(shelf.rows[9]["title"])
    form.get_by_role("button", name="Find products").click()
    expect_first(page, shelf.rows[9]["title"])


def drop(page: Page, target: str, photo: Path) -> None:
    """What the browser does when a photo is let go over the element."""
    page.evaluate(
        """([target, data]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(data)], "dropped.jpg", {type: "image/jpeg"}));
            for (const kind of ["dragover", "drop"]) {
                const event = new DragEvent(kind, {dataTransfer: files, bubbles: true, cancelable: true});
                if (document.querySelector(target).dispatchEvent(event)) throw new Error(`${kind} was not taken`);
            }
        }""",
        [target, list(photo.read_bytes())],
    )


def test_a_photo_may_be_dropped(page, shelf):
    page.goto("/")
    drop(page, "main .drop", shelf.photos[11])
    expect(page.locator("main .note")).to_have_text("dropped.jpg")
    expect(page.locator("main form.photo").get_by_label("Words to go with it")).to_be_focused()
    page.keyboard.press("Enter")
    expect_first(page, shelf.rows[11]["title"])


@pytest.mark.soak  # as test_a_photo_may_be_dropped, beside the form
def test_a_photo_may_be_dropped_anywhere_with_words(page, shelf):
    page.goto("/release")
    drop(page, "h1", shelf.photos[9])
    expect(page.locator("header .note")).to_have_text("dropped.jpg")
    page.keyboard.type(shelf.rows[9]["title"])
    look(page)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Like your photo, and")
    expect_first(page, shelf.rows[9]["title"])


def test_what_is_no_photo_is_told(page, tmp_path):
    (tmp_path / "page.jpg").write_bytes(b"<html></html>")
    page.goto("/")
    page.locator("main form.photo").get_by_label("Choose a photo").set_input_files(tmp_path / "page.jpg")
    with page.expect_navigation():
        page.locator("main form.photo").get_by_role("button", name="Find products").click()
    expect(page.get_by_role("main")).to_contain_text("looks like an HTML page")
    look(page)


def test_a_supplier_sees_its_duplicates(page, shelf):
    page.goto("/")
    page.get_by_role("link", name="Duplicates").click()
    look(page)
    page.get_by_role("combobox", name="Supplier").fill(shelf.rows[0]["supplier_id"])
    page.get_by_role("button", name="Show duplicates").click()
    first = page.locator(".group").filter(has_text=shelf.rows[0]["title"])
    expect(first.get_by_role("heading", level=2)).to_have_text("2 that are nearly the same")
    look(page)
    first.get_by_role("link", name="Spot alike").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(shelf.rows[0]["title"])


def test_the_release_is_shown_with_its_gate(page):
    page.goto("/")
    page.get_by_role("contentinfo").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Release r1")
    assert set(page.locator(".verdict").all_inner_texts()) == {"passed"}
    look(page)


def test_another_index_can_be_chosen(page):
    page.goto("/")
    page.get_by_role("navigation", name="Index").get_by_role("link", name="homepage").click()
    search_words(page, "mug")
    expect(page).to_have_url(re.compile("q=mug.*module=homepage|module=homepage.*q=mug"))
    expect(page.locator(".chips a[aria-current=page]")).to_have_text("homepage")


def test_everything_can_be_reached_by_keyboard(page):
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    while page.evaluate("document.activeElement.id") != "q":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "the search box was not reached"
    page.keyboard.type("mug")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("“mug”")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # past the header
    page.keyboard.press("Tab")
    while not page.evaluate("document.activeElement.matches('.spot')"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "no card was reached"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    name = page.evaluate("document.activeElement.firstChild.alt").removeprefix("Spot alike: ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_escape_closes_the_photo_form(page):
    page.goto("/release")
    page.locator("summary").press("Enter")
    expect(page.locator("header form.photo")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("header form.photo")).to_be_hidden()
    expect(page.locator("summary")).to_be_focused()


def test_without_javascript_all_of_it_works(browser, address, shelf):
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.locator("summary").click()
    form = page.locator("header form.photo")
    form.get_by_label("Choose a photo").set_input_files(shelf.photos[7])
    form.get_by_role("button", name="Find products").click()
    expect_first(page, shelf.rows[7]["title"])
    page.locator(".spot").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(shelf.rows[7]["title"])
    context.close()


def test_a_release_that_comes_while_a_page_is_open_is_followed(page, shelf):
    """Last of all: the ones above look at r1. The last offer is not in r2."""
    gone, stays = shelf.rows[OFFERS - 1]["title"], shelf.rows[0]["title"]
    page.goto("/")
    search_words(page, gone)
    link = page.get_by_role("link", name=f"Spot alike: {gone}", exact=True).first
    expect(link).to_be_visible()
    shelf.publish("r2", "r1", OFFERS - 1)
    deadline = time.monotonic() + SWITCH_S
    while page.request.get("/api/v1/release").json()["release_id"] != "r2":
        assert time.monotonic() < deadline, "the server did not switch"
        time.sleep(0.2)
    link.click()
    expect(page.get_by_role("main")).to_contain_text("There is no item")
    look(page)
    page.get_by_role("link", name="To the catalogue").click()
    expect(page.get_by_role("contentinfo")).to_contain_text("Release r2")
    search_words(page, stays)
    expect_first(page, stays)
    assert gone not in titles(page)
