"""What every page and every answer of the API is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from samestyle.serving import Hit
from samestyle.web.offers import Offer, make_offers
from samestyle.web.shop import Aisle, Shop
from samestyle.web.templates import Templates


@dataclass(frozen=True)
class Site:
    """remote_photos: browsers may load photos from where the catalogue says. max_upload_bytes: of one request."""

    shop: Shop
    templates: Templates
    remote_photos: bool
    max_upload_bytes: int

    def offers(self, aisle: Aisle, hits: Sequence[Hit]) -> list[Offer]:
        return make_offers(aisle, hits, self.remote_photos)


def site_of(request: Request) -> Site:
    return request.app.state.site


Here = Annotated[Site, Depends(site_of)]
