import dataclasses
import html
import io
import re
import socket
import sys

import hypothesis
import numpy as np
import pyarrow.compute as pc
import pytest
import schemathesis
from PIL import Image
from releases import Catalogue, publish_small, small_catalogue
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from samestyle import cli
from samestyle.catalogue.images import DecodeLimits, decode_image
from samestyle.encoder.runtime import Encoder
from samestyle.release.denylist import deny
from samestyle.release.manifest import EncoderEntry
from samestyle.release.store import LocalStore
from samestyle.web import shop as shop_module
from samestyle.web.application import Options, create_app
from samestyle.web.offers import link
from samestyle.web.shop import Shop
from samestyle.web_commands import listen

TITLES = [
    "red enamel mug",
    "<script>alert(1)</script> & co",
    "leather shoulder bag",
    "oak dining chair",
    "running shoe",
]
ODD = 'a/../b "ü" <&?#%2F'
MAX_BYTES = 200_000
PAGES = ["/", "/search?q=mug", "/alike?item=i00000a", "/duplicates", "/duplicates?supplier=s0", "/release"]


def picture(seed: int, kind: str = "PNG", side: int = 120) -> bytes:
    """An ellipse of its own colour and shape on white."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    inside = (x / rng.uniform(0.2, 0.9)) ** 2 + (y / rng.uniform(0.2, 0.9)) ** 2 < 1
    pixels = np.where(inside[..., None], rng.integers(0, 256, 3), 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PHOTOS = [picture(seed) for seed in range(len(TITLES))]
# Of the first product supplier s0 has a second offer, and so a duplicate; the last one's id is odd.
ROWS = [
    {
        **row,
        "supplier_id": "s0" if row["label"] == 0 else row["supplier_id"],
        "item_id": ODD if n == 5 else row["item_id"],
    }
    for n, row in enumerate(small_catalogue(len(TITLES)).rows)
]
DISPLAY = [
    {
        "item_id": row["item_id"],
        "title": TITLES[row["label"]],
        "image_uri": "https://photos.example/1.jpg",
        "thumbnail": picture(row["label"], "JPEG"),
    }
    for row in ROWS
]


# The second and what follows are no evaluations, as somebody else's encoder may have them.
QUALITY = [
    {"name": "<dice>", "protocol": "held out", "metrics": {"i-t": {"mrr": [0.5, 0.4, 0.6], "recall@1": 0.25}}},
    {"name": "junk", "metrics": {"i-i": {"mrr": ["a"], "recall@1": True, "recall@10": []}, "t-t": 1}},
    {"metrics": []},
    7,
]


@pytest.fixture(scope="module")
def encoder(unified):
    return Encoder.load(unified)


@pytest.fixture(scope="module")
def catalogue(encoder):
    images = [decode_image(data, DecodeLimits(), encoder.image_size) for data in PHOTOS]
    return Catalogue(encoder.encode(TITLES, images)["fused"], ROWS)


@pytest.fixture(scope="module")
def released(tmp_path_factory, encoder, unified, catalogue):
    folder = tmp_path_factory.mktemp("web")
    store = LocalStore(folder / "store")
    described = {"fitted_on": "dice", "quality": QUALITY}
    entry = EncoderEntry(encoder.encoder_id, encoder.dim, store.put_folder(unified), described)
    publish_small(store, folder, catalogue=catalogue, shards=1, encoder=entry, display=DISPLAY)
    return Shop(store.uri, folder / "cache")


def client(shop: Shop, **options) -> TestClient:
    return TestClient(
        create_app(shop, Options(refresh_seconds=0, max_upload_bytes=MAX_BYTES, **options)),
        raise_server_exceptions=False,
    )


@pytest.fixture(scope="module")
def web(released):
    return client(released)


@pytest.fixture
def small(tmp_path):
    """A release of random vectors, for tests that change what serves; its encoder is none."""
    store = LocalStore(tmp_path / "store")
    publish_small(
        store, tmp_path / "built", display=[{"item_id": "i00003a", "title": "A lamp", "thumbnail": b"\xff\xd8\xff"}]
    )
    return Shop(store.uri, tmp_path / "cache")


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_there_and_escape_what_the_catalogue_holds(web, path):
    answer = web.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script>alert" not in answer.text
    assert "<style" not in answer.text
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", answer.text)
    assert re.findall(r"<script.*?>", answer.text) == ['<script src="/static/shop.js" defer>']


def test_a_hostile_title_is_shown_as_text(web):
    assert html.escape(TITLES[1]) in web.get("/").text
    assert html.escape(TITLES[1]) in web.get("/alike", params={"item": "i00001a"}).text


def test_a_hostile_query_is_shown_as_text(web):
    text = web.get("/search", params={"q": '"><img src=x onerror=alert(1)>'}).text
    assert "<img src=x" not in text
    assert "&#34;&gt;&lt;img src=x onerror=alert(1)&gt;" in text


@pytest.mark.parametrize(
    "path", [*PAGES, "/nix", "/static/shop.css", "/static/nix", "/api/v1/release", "/thumb?item=x"]
)
def test_every_answer_forbids_what_it_does_not_need(web, path):
    headers = web.get(path).headers
    policy = dict(part.split(None, 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["img-src"] == "'self' data:"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_nothing_is_loaded_from_elsewhere(web):
    for path in PAGES:
        assert not re.search(r'(src|href|action)="(https?:)?//', web.get(path).text)


def test_mistakes_of_ours_are_told_without_details(released, monkeypatch):
    monkeypatch.setattr(released, "read", lambda *_: 1 / 0)
    answer = client(released).get("/")
    assert answer.status_code == 500
    assert "Something went wrong here" in answer.text
    assert "division" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client(released).get("/api/v1/item?id=x").json() == {
        "detail": "Something went wrong here. The log of the server says what."
    }


@pytest.mark.parametrize(
    "path", ["/alike?item=nix", "/thumb?item=nix", "/duplicates?supplier=nix", "/?module=nix", "/nix"]
)
def test_what_is_not_there_is_a_page_that_leads_back(web, path):
    answer = web.get(path)
    assert answer.status_code == 404
    assert '<a class="button" href="/">' in answer.text


@pytest.mark.parametrize(
    "path", ["item?id=nix", "alike?id=nix", "duplicates?supplier=nix", "search?words=a&module=nix", "x"]
)
def test_what_is_not_there_is_a_sentence_of_the_api(web, path):
    answer = web.get(f"/api/v1/{path}")
    assert answer.status_code == 404
    assert re.match("There (is|are) no ", answer.json()["detail"])


def test_ids_may_hold_anything(web):
    page = web.get(link("/alike", item=ODD))
    assert page.status_code == 200
    (photo,) = re.findall(
        r'<img class="product" src="(/thumb[^"]*)" width="240" height="240" alt="" loading="lazy"', page.text
    )[:1]
    assert web.get(html.unescape(photo)).headers["content-type"] == "image/jpeg"
    found = [html.unescape(path) for path in re.findall(r'href="(/alike[^"]*)"', web.get("/").text)]
    assert link("/alike", item=ODD, module="search") in found
    assert {web.get(path).status_code for path in found} == {200}
    assert web.get("/api/v1/item", params={"id": ODD}).json()["offer"]["item_id"] == ODD


def test_words_find_the_title(web):
    found = web.get("/api/v1/search", params={"words": "oak dining chair", "k": 1}).json()
    assert found["release_id"] == "r1"
    assert [offer["title"] for offer in found["offers"]] == ["oak dining chair"]
    assert found["offers"][0]["attributes"] == {"price": 3.0, "in_stock": False}


@pytest.mark.parametrize("product", range(len(TITLES)))
def test_an_uploaded_photo_finds_its_product(web, product):
    form = {"files": {"photo": ("p.png", PHOTOS[product])}, "data": {"words": TITLES[product]}}
    best = web.post("/api/v1/search", **form).json()["offers"][0]
    assert best["title"] == TITLES[product]
    assert best["score"] == pytest.approx(1, abs=1e-3)
    page = web.post("/search", **form)
    assert page.status_code == 200
    assert 'src="data:image/jpeg;base64,' in page.text
    assert "100 % alike" in page.text


def test_a_search_without_anything_shows_the_catalogue(web):
    for blank in ("+", "%19", "%C2%9F+"):
        assert "From the catalogue" in web.get(f"/search?q={blank}").text
        assert web.get(f"/api/v1/search?words={blank}").status_code == 422
    assert web.post("/search", files={"photo": ("", b"")}, data={"words": ""}).status_code == 422


BIG = picture(1, side=1000) + bytes(MAX_BYTES)


@pytest.mark.parametrize("path", ["/search", "/api/v1/search"])
@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (BIG, 413, "a photo may have 0.2 MB"),
        (b"<html>", 415, "looks like an HTML page"),
        (PHOTOS[0][:400], 422, "truncated"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x7f\xff\0\0\x7f\xff\x08\x02\0\0\0\0\0\0\0", 422, "cannot be read"),
    ],
)
def test_uploads_are_limited_and_decoded_with_care(web, path, data, status, sentence):
    answer = web.post(path, files={"photo": ("p.png", data)})
    assert answer.status_code == status
    assert sentence in html.unescape(answer.text)


def test_a_picture_of_too_many_pixels_is_refused(web):
    file = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(file, "PNG")
    answer = web.post("/api/v1/search", files={"photo": ("p.png", file.getvalue())})
    assert (answer.status_code, "pixels" in answer.text) == (413, True)


def test_an_upload_that_does_not_tell_its_size_is_counted_while_it_comes(web):
    sent = 0

    def body():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="photo"; filename="p"\r\n\r\n'
        for _ in range(100):
            sent += 10_000
            yield bytes(10_000)

    answer = web.post("/api/v1/search", content=body(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert answer.json()["detail"] == "That is too large: a photo may have 0.2 MB."


def test_spot_alike_shows_the_trigger_and_its_bands(web):
    api = web.get("/api/v1/alike", params={"id": "i00000a"}).json()
    assert api["offer"]["item_id"] == "i00000a"
    assert [offer["item_id"] for offer in api["duplicate"]] == ["i00000b"]
    ids = [offer["item_id"] for band in ("same_style", "similar", "duplicate") for offer in api[band]]
    assert len(ids) == len(set(ids))
    for band in ("same_style", "similar"):
        page = web.get("/alike", params={"item": "i00000a", "band": band}).text
        tabs = re.findall(r'<a [^>]*band=(\w+)"( aria-current="page")?>', page)[:2]
        assert tabs == [(name, ' aria-current="page"' if name == band else "") for name in ("same_style", "similar")]
        for offer in api[band]:
            assert f'alt="Spot alike: {html.escape(offer["title"])}"' in page


def test_duplicates_of_a_supplier_come_in_groups(web):
    found = web.get("/api/v1/duplicates", params={"supplier": "s0"}).json()
    assert [[offer["item_id"] for offer in group] for group in found["groups"]] == [["i00000a", "i00000b"]]
    assert (found["compared"], found["complete"]) == (2, True)
    assert "2 that are nearly the same" in web.get("/duplicates?supplier=s0").text
    assert "No two offers are nearly the same" in web.get("/duplicates?supplier=s2").text


def test_a_large_supplier_is_compared_in_part(released, monkeypatch):
    monkeypatch.setattr(shop_module, "OFFERS_COMPARED", 1)
    found = released.read(None, lambda aisle: aisle.duplicates("s0"))
    assert (found.compared, found.complete) == (1, False)
    assert [[hit.item_id for hit in group] for group in found.groups] == [["i00000a", "i00000b"]]


def test_the_release_page_shows_gate_and_recall(web, released):
    page = web.get("/release").text
    for text in ("r1", "search <small>fused", "0.990", "0.970 to 1.000", "dice", "58.0", "80.0 %")[:5]:
        assert text in page
    for result in released.manifest.gate:
        assert html.escape(result.sentence) in page
    api = web.get("/api/v1/release").json()
    assert [rule["rule"] for rule in api["gate"]] == [result.rule for result in released.manifest.gate]
    assert api["indexes"][0]["recall"]["value"] == 0.99


def test_the_release_page_shows_what_was_evaluated(web):
    page = web.get("/release").text
    text = re.sub(r"\s+", " ", re.sub(r"<.*?>", " ", page))
    assert "Evaluated on &lt;dice&gt; Direction recall@1 MRR i-t 0.250 0.500 held out" in text
    assert "junk" not in page
    assert "At each ef Index 25 50 search fused 0.950 0.990 " in text
    assert "<b>0.990</b></td></tr>" in page  # at the ef that is used


def test_the_home_page_leads_to_the_largest_categories(web):
    found = re.findall(r'<a href="/search\?q=(\w+)">(\w+)</a>', web.get("/").text)
    assert sorted(found) == [("lamps", "lamps"), ("mugs", "mugs")]


def test_thumbnails_are_jpegs_that_a_browser_may_keep(web):
    answer = web.get("/thumb?item=i00002a")
    assert answer.content == picture(2, "JPEG")
    assert answer.headers["content-type"] == "image/jpeg"
    again = web.get("/thumb?item=i00002a", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_without_display_files_cards_show_ids_and_a_drawn_photo(small):
    page = client(small).get("/alike?item=i00004a").text
    assert "i00004a" in page
    assert "s4" in page
    assert "home › mugs" in page
    assert '<img class="product none" src="/static/photo.svg"' in page
    assert client(small).get("/thumb?item=i00004a").status_code == 404


@pytest.mark.parametrize(
    ("uri", "shown"),
    [("https://p.example/1.jpg", True), ("javascript:alert(1)", False), ("s3://b/k", False), ("http://[", False)],
)
def test_photos_from_elsewhere_need_the_operators_word(tmp_path, uri, shown):
    store = LocalStore(tmp_path / "store")
    publish_small(store, tmp_path / "built", display=[{"item_id": "i00003a", "image_uri": uri}])
    shop = Shop(store.uri, tmp_path / "cache")
    path = "/alike?item=i00003a"
    assert uri not in client(shop).get(path).text
    allowed = client(shop, remote_photos=True).get(path)
    assert (f'src="{uri}"' in allowed.text) == shown
    assert "img-src 'self' data: https: http:;" in allowed.headers["content-security-policy"]


def test_other_indexes_are_opened_when_they_are_asked_for(small):
    web = client(small)
    assert list(small._searchers) == ["search"]
    assert web.get("/api/v1/item?id=i00003a&module=homepage").json()["module"] == "homepage"
    assert list(small._searchers) == ["search", "homepage"]
    assert 'aria-current="page">homepage</a>' in web.get("/?module=homepage").text


def test_the_sample_is_the_same_each_time(small):
    assert client(small).get("/").text == client(small).get("/").text


def publish_next(shop: Shop, folder, **options) -> None:
    publish_small(LocalStore(shop.store.uri), folder, "r2", "r1", **options)


def test_a_switch_of_releases_is_followed(small, tmp_path):
    web = client(small)
    web.get("/?module=homepage")
    assert "A lamp" in web.get("/alike?item=i00003a").text
    assert web.get("/alike?item=i00150a").status_code == 404
    publish_next(
        small, tmp_path / "next", catalogue=small_catalogue(200), display=[{"item_id": "i00150a", "title": "A vase"}]
    )
    assert web.get("/alike?item=i00150a").status_code == 404
    small.refresh()
    assert small.failure is None
    assert "A vase" in web.get("/alike?item=i00150a").text
    assert "A lamp" not in web.get("/alike?item=i00003a").text
    assert web.get("/api/v1/item?id=i00150a&module=homepage").json()["release_id"] == "r2"
    assert list(small._displays) == ["r2"]


def test_an_answer_is_of_one_release(small, tmp_path):
    publish_next(small, tmp_path / "next", catalogue=small_catalogue(200))
    seen = []

    def work(aisle):
        seen.append(aisle.manifest.release_id)
        small.refresh()
        return aisle.item("i00150a").item_id

    assert small.read(None, work) == "i00150a"
    assert seen == ["r1", "r2"]


def test_a_release_that_cannot_be_switched_to_is_told(small, tmp_path):
    publish_next(small, tmp_path / "next", catalogue=small_catalogue(200))
    for path in (tmp_path / "store" / "objects").glob("*.hnsw"):
        path.write_bytes(b"damaged")
    small.refresh()
    page = client(small).get("/release").text
    assert "Release r1" in page
    assert "could not be switched to" in page
    assert str(tmp_path) not in page


def test_damaged_display_files_do_not_stop_the_search(small, tmp_path, caplog):
    publish_next(small, tmp_path / "next", display=[{"item_id": "i00003a", "title": "A vase"}])
    manifest = small._manifest()
    (tmp_path / "store" / manifest.display["items-00000"].key).write_bytes(b"damaged")
    small.refresh()
    assert small.manifest.release_id == "r2"
    assert "without photos and titles" in caplog.text
    assert client(small).get("/alike?item=i00003a").status_code == 200


def test_a_takedown_hides_item_and_photo(small):
    web = client(small)
    assert web.get("/thumb?item=i00003a").status_code == 200
    deny(small.store, ["i00003a"], "recalled")
    small.refresh()
    for path in ("/thumb?item=i00003a", "/alike?item=i00003a", "/api/v1/item?id=i00003a"):
        assert web.get(path).status_code == 404


def test_an_encoder_that_cannot_be_used_stops_no_more_than_its_searches(small, caplog):
    web = client(small)
    small.warm()
    assert "search by photo and words does not work" in caplog.text
    answer = web.get("/api/v1/search?words=mug")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "encoder1" not in answer.text
    assert web.get("/alike?item=i00003a").status_code == 200


def test_more_searches_than_it_can_take_are_turned_away(released, web, monkeypatch):
    monkeypatch.setattr(shop_module, "ENCODING_PATIENCE_S", 0.01)
    with released.encoding(), released.encoding():
        answer = web.get("/api/v1/search?words=mug")
    assert answer.status_code == 503
    assert "Too many searches" in answer.json()["detail"]
    assert web.get("/api/v1/search?words=mug").status_code == 200


def test_attributes_of_any_kind_are_shown(tmp_path):
    rows = small_catalogue(10).rows
    kinds = {"price": float("nan"), "size": None, "made_on": np.datetime64("2026-01-02").item(), "tags": ["a", "b"]}
    catalogue = dataclasses.replace(small_catalogue(10), rows=[{**row, "attributes": kinds} for row in rows])
    store = LocalStore(tmp_path / "store")
    publish_small(store, tmp_path / "built", catalogue=catalogue, shards=1)
    web = client(Shop(store.uri, tmp_path / "cache"))
    expected = {"price": None, "size": None, "made_on": "2026-01-02", "tags": "['a', 'b']"}
    assert web.get("/api/v1/item?id=i00003a").json()["offer"]["attributes"] == expected
    assert "2026-01-02" in web.get("/alike?item=i00003a").text


def test_samples_and_items_of_the_searcher(small):
    searcher = small._searchers["search"]
    assert len(searcher.sample(1000)) == searcher.manifest.module_items("search")
    assert len({hit.item_id for hit in searcher.sample(50)}) == 50
    mine = searcher.sample(1000, where=pc.field("supplier_id") == "s3")
    assert {hit.supplier_id for hit in mine} == {"s3"}
    assert searcher.item("i00003a").supplier_id == "s3"


# --- the API against its document


@pytest.fixture(scope="module")
def document(released):
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", create_app(released, Options(refresh_seconds=0)))


def test_every_route_of_the_api_is_documented(document):
    paths = document.raw_schema["paths"]
    assert sorted(paths) == [f"/api/v1/{name}" for name in ("alike", "duplicates", "item", "release", "search")]
    assert {"404", "413", "415", "422", "503"} <= paths["/api/v1/search"]["post"]["responses"].keys()


OPERATIONS = [("search", "get"), ("search", "post"), ("alike", "get"), ("duplicates", "get"), ("item", "get")]
CASES = [(*operation, mode) for operation in OPERATIONS for mode in GenerationMode]


EVERY_CASE = pytest.mark.parametrize(("path", "method", "mode"), [("release", "get", GenerationMode.POSITIVE), *CASES])


@EVERY_CASE
def test_the_api_does_what_its_document_says(document, path, method, mode):
    fuzz(document, path, method, mode, 20)


@pytest.mark.soak
@EVERY_CASE
def test_the_api_does_what_its_document_says_at_length(document, path, method, mode):
    fuzz(document, path, method, mode, 300)


def fuzz(document, path, method, mode, examples):
    # a schema cannot say which bytes are a photo
    excluded = [positive_data_acceptance] if method == "post" else []

    @hypothesis.given(case=document[f"/api/v1/{path}"][method].as_strategy(generation_mode=mode))
    @hypothesis.settings(max_examples=examples, derandomize=True, deadline=None, database=None)
    def check(case):
        case.call_and_validate(excluded_checks=excluded)

    check()


# --- samestyle serve


def serve(tmp_path, *words):
    return cli.main(["serve", *words, f"paths.root={tmp_path}"])


def test_serve_before_the_first_night_says_so(tmp_path, capsys):
    assert serve(tmp_path, "--port", "0") == 2
    assert "names no release yet: run the nightly job first" in capsys.readouterr().err


def test_serve_on_a_taken_port_says_so(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve(tmp_path, "--port", str(port)) == 2
    assert f"cannot listen at 127.0.0.1 port {port}" in capsys.readouterr().err
    assert serve(tmp_path, "--port", "70000") == 2


def test_no_page_waits_for_its_first_part_to_be_acknowledged():
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_serve_without_its_libraries_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert serve(tmp_path) == 2
    assert "uvicorn is not installed: install samestyle[web]" in capsys.readouterr().err
