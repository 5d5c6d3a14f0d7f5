"""The JSON API. Its OpenAPI document lies at /api/v1/openapi.json."""

from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from samestyle.release.manifest import BANDS, Manifest
from samestyle.serving import Hit
from samestyle.web.shop import Aisle
from samestyle.web.site import Here, Site

PREFIX = "/api/v1"
router = APIRouter(prefix=PREFIX)
MOST = 100
SOMETHING = r"[^\s\x00-\x1f\x7f-\x9f]"  # more than white space and control characters, which titles lose

Module = Annotated[str | None, Query(min_length=1, max_length=100, description="The index; by default search.")]
ItemId = Annotated[str, Query(min_length=1, max_length=2000, description="The item's id.")]
K = Annotated[int, Query(ge=1, le=MOST, description="How many are asked for.")]


class Answer(BaseModel):
    """Part of an answer, read from our own objects."""

    model_config = ConfigDict(from_attributes=True)


class Problem(Answer):
    """What went wrong."""

    detail: str = Field(description="A sentence.")


class OfferAnswer(Answer):
    """An item; `score` is the cosine to what was asked for, 1 for the item itself."""

    item_id: str
    title: str | None = Field(description="Null where the release has no display files.")
    supplier_id: str | None
    category: str | None
    attributes: dict[str, Any]
    score: float
    photo: str | None = Field(description="Address of its photo, relative to this server.")


class Found(Answer):
    """What a search found, best first."""

    release_id: str
    module: str
    view: str
    offers: list[OfferAnswer]


class Item(Answer):
    """One item."""

    release_id: str
    module: str
    offer: OfferAnswer


class Alike(Answer):
    """An item's neighbours by band; none is in two."""

    release_id: str
    module: str
    offer: OfferAnswer
    same_style: list[OfferAnswer] = Field(description="The same style at other suppliers.")
    similar: list[OfferAnswer] = Field(description="The next ones.")
    duplicate: list[OfferAnswer] = Field(description="Nearly the same, of the same supplier.")


class DuplicatesAnswer(Answer):
    """A supplier's offers that are nearly the same."""

    release_id: str
    module: str
    supplier_id: str
    compared: int = Field(description="Offers that were compared with all others.")
    complete: bool = Field(description="False where the supplier has more offers than were compared.")
    groups: list[list[OfferAnswer]]


class RecallAnswer(Answer):
    """recall@k against exact search, with its 95 % interval."""

    k: int
    value: float
    low: float
    high: float
    queries: int


class IndexAnswer(Answer):
    """One module and view."""

    module: str
    view: str
    dim: int
    items: int
    ef_search: int
    recall: RecallAnswer


class GateAnswer(Answer):
    """One rule of the gate."""

    rule: str
    passed: bool
    value: float
    limit: float
    sentence: str


class Release(Answer):
    """The release that serves."""

    release_id: str
    created_at: str
    parent: str | None
    run_id: str
    encoder_id: str
    style_recall: dict[str, float] | None
    ledger: dict[str, int]
    forced: str | None
    indexes: list[IndexAnswer]
    gate: list[GateAnswer]


PROBLEMS = {
    400: "The form cannot be read.",
    404: "The release has no such item, supplier or module.",
    413: "The photo has too many bytes or pixels.",
    415: "That is no picture of a known format.",
    422: "A parameter or the photo does not fit.",
    503: "Busy, or the release cannot answer that: try again later.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": PROBLEMS[status]} for status in statuses}


@router.get("/search", summary="Search by words", responses=problems(404, 422, 503))
def by_words(
    site: Here,
    words: Annotated[str, Query(min_length=1, max_length=500, pattern=SOMETHING, description="As in a title.")],
    module: Module = None,
    k: K = 24,
) -> Found:
    return search(site, module, None, words, k)


@router.post("/search", summary="Search by photo, words, or both", responses=problems(400, 404, 413, 415, 422, 503))
def by_photo(
    site: Here,
    photo: Annotated[UploadFile | None, File(description="JPEG, PNG, WebP, GIF, BMP or TIFF.")] = None,
    words: Annotated[str | None, Form(max_length=500)] = None,
    module: Annotated[str | None, Form(min_length=1, max_length=100)] = None,
    k: Annotated[int, Form(ge=1, le=MOST)] = 24,
) -> Found:
    return search(site, module, photo.file.read() if photo else None, words, k)


def search(site: Site, module: str | None, photo: bytes | None, words: str | None, k: int) -> Found:
    def work(aisle: Aisle) -> Found:
        view, hits = aisle.search(photo, words, k)
        return Found(**place(aisle), view=view, offers=offers(site, aisle, hits))

    return site.shop.read(module, work)


@router.get("/item", summary="One item", responses=problems(404, 422, 503))
def item(site: Here, id: ItemId, module: Module = None) -> Item:
    def work(aisle: Aisle) -> Item:
        return Item(**place(aisle), offer=offers(site, aisle, [aisle.item(id)])[0])

    return site.shop.read(module, work)


@router.get("/alike", summary="An item's neighbours", responses=problems(404, 422, 503))
def alike(site: Here, id: ItemId, module: Module = None, k: K = 24) -> Alike:
    def work(aisle: Aisle) -> Alike:
        (own,) = offers(site, aisle, [aisle.item(id)])
        bands = {band: offers(site, aisle, aisle.alike(id, band, k)) for band in BANDS}
        return Alike(**place(aisle), offer=own, **bands)

    return site.shop.read(module, work)


@router.get("/duplicates", summary="Duplicates in a supplier's shop", responses=problems(404, 422, 503))
def duplicates(
    site: Here,
    supplier: Annotated[str, Query(min_length=1, max_length=2000, description="The supplier's id.")],
    module: Module = None,
) -> DuplicatesAnswer:
    def work(aisle: Aisle) -> DuplicatesAnswer:
        result = aisle.duplicates(supplier)
        groups = [offers(site, aisle, group) for group in result.groups]
        facts = {"supplier_id": supplier, "compared": result.compared, "complete": result.complete}
        return DuplicatesAnswer(**place(aisle), **facts, groups=groups)

    return site.shop.read(module, work)


@router.get("/release", summary="The release that serves")
def release(site: Here) -> Release:
    return describe(site.shop.manifest)


def offers(site: Site, aisle: Aisle, hits: list[Hit]) -> list[OfferAnswer]:
    return [OfferAnswer.model_validate(offer) for offer in site.offers(aisle, hits)]


def place(aisle: Aisle) -> dict[str, str]:
    """Which release and module answered."""
    return {"release_id": aisle.manifest.release_id, "module": aisle.module}


def describe(manifest: Manifest) -> Release:
    return Release(
        **{
            name: getattr(manifest, name)
            for name in ("release_id", "created_at", "parent", "run_id", "style_recall", "ledger", "forced")
        },
        encoder_id=manifest.encoder.encoder_id,
        indexes=[IndexAnswer.model_validate(index) for index in manifest.indexes],
        gate=[GateAnswer.model_validate(result) for result in manifest.gate],
    )
