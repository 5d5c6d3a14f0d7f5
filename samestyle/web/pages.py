"""The pages. They work without JavaScript, and all but the results of a photo can be linked to."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Header, Query, Response, UploadFile
from fastapi.responses import HTMLResponse

from samestyle.catalogue.images import decode_image
from samestyle.catalogue.titles import normalise_title
from samestyle.release.manifest import Band
from samestyle.serving import Hit
from samestyle.web.evaluations import curves, evaluations_of
from samestyle.web.offers import Offer, data_uri, etag
from samestyle.web.shop import UPLOAD_LIMITS, Aisle, NotThereError
from samestyle.web.site import Here, Site

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

PAGE = 24
MOST = 120
PREVIEW_SIDE = 240
SHELVES = 6
TABS: dict[Band, str] = {"same_style": "From more suppliers", "similar": "Similar products"}

Words = Annotated[str, Query(max_length=500)]
Name = Annotated[str, Query(max_length=2000)]
Module = Annotated[str | None, Query(max_length=100)]


@dataclass(frozen=True)
class Tab:
    """One band of an item's neighbours."""

    band: Band
    label: str
    offers: list[Offer]


@router.get("/")
def home(site: Here, module: Module = None) -> Response:
    def work(aisle: Aisle) -> dict[str, Any]:
        shown = {"offers": site.offers(aisle, aisle.sample(PAGE)), "module": aisle.module}
        return shown | {"shelves": largest_shelves(aisle.sample(MOST))}

    return site.templates.page("home.html.j2", **site.shop.read(module, work))


def largest_shelves(hits: list[Hit]) -> list[str]:
    """The last names of the categories that most items are in, as something to search for."""
    names = (hit.category.rpartition("/")[2] for hit in hits if hit.category)
    return [name for name, _ in Counter(filter(None, names)).most_common(SHELVES)]


@router.get("/search")
def by_words(
    site: Here, q: Words = "", module: Module = None, k: Annotated[int, Query(ge=1, le=MOST)] = PAGE
) -> Response:
    if not normalise_title(q):
        return home(site, module)
    values = results(site, module, None, q, k)
    more = min(k + PAGE, MOST) if len(values["offers"]) == k < MOST else None
    return site.templates.page("results.html.j2", photo=None, more=more, **values)


@router.post("/search")
def by_photo(
    site: Here,
    photo: Annotated[UploadFile | None, File()] = None,
    words: Annotated[str, Form(max_length=500)] = "",
    module: Annotated[str | None, Form(max_length=100)] = None,
) -> Response:
    data = photo.file.read() if photo else b""
    values = results(site, module or None, data or None, words.strip(), PAGE)
    return site.templates.page("results.html.j2", photo=preview(site, data), more=None, **values)


def results(site: Site, module: str | None, photo: bytes | None, words: str, k: int) -> dict[str, Any]:
    def work(aisle: Aisle) -> dict[str, Any]:
        hits = aisle.search(photo, words or None, k)[1]
        return {"offers": site.offers(aisle, hits), "module": aisle.module, "words": words}

    return site.shop.read(module, work)


def preview(site: Site, photo: bytes) -> str | None:
    """The stranger's photo as we drew it anew."""
    if not photo:
        return None
    with site.shop.encoding():
        return data_uri(decode_image(photo, UPLOAD_LIMITS, PREVIEW_SIDE))


@router.get("/alike")
def alike(site: Here, item: Name, module: Module = None, band: Band | None = None) -> Response:
    """Without a band the first that has an item is shown."""

    def work(aisle: Aisle) -> dict[str, Any]:
        (trigger,) = site.offers(aisle, [aisle.item(item)])
        tabs = [Tab(name, label, site.offers(aisle, aisle.alike(item, name, PAGE))) for name, label in TABS.items()]
        shown = next((tab for tab in tabs if tab.band == band or (band is None and tab.offers)), tabs[0])
        return {"offer": trigger, "tabs": tabs, "shown": shown, "module": aisle.module}

    return site.templates.page("alike.html.j2", **site.shop.read(module, work))


@router.get("/duplicates")
def duplicates(site: Here, supplier: Name = "", module: Module = None) -> Response:
    def work(aisle: Aisle) -> dict[str, Any]:
        result = aisle.duplicates(supplier) if supplier else None
        names = {hit.supplier_id for hit in aisle.sample(MOST) if hit.supplier_id}
        groups = [site.offers(aisle, group) for group in (result.groups if result else [])]
        return {"groups": groups, "result": result, "suppliers": sorted(names), "module": aisle.module}

    return site.templates.page("duplicates.html.j2", supplier=supplier, **site.shop.read(module, work))


@router.get("/release")
def release(site: Here) -> Response:
    manifest = site.shop.manifest
    found = evaluations_of(manifest.encoder)
    return site.templates.page("release.html.j2", manifest=manifest, curves=curves(manifest), evaluations=found)


@router.get("/thumb")
def thumb(
    site: Here, item: Name, module: Module = None, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """The thumbnail of an item that may be shown: a takedown hides its photo too."""

    def work(aisle: Aisle) -> bytes:
        card = aisle.cards([aisle.item(item)])[item]
        if card is None or card.thumbnail is None:
            raise NotThereError(f"There is no photo of {item} in this release.")
        return card.thumbnail

    data = site.shop.read(module, work)
    headers = {"ETag": etag(data), "Cache-Control": "max-age=60"}
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/jpeg", headers=headers)
