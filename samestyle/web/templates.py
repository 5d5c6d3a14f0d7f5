"""The pages' templates, which escape whatever the catalogue holds."""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from samestyle.web.offers import link
from samestyle.web.shop import Shop


class Templates:
    """Renders templates/*.html.j2 for the release that serves."""

    def __init__(self, shop: Shop, max_upload_bytes: int) -> None:
        loader = PackageLoader("samestyle.web")
        self.environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self.environment.globals |= {"shop": shop, "link": link, "max_upload_bytes": max_upload_bytes}
        for name in self.environment.list_templates():
            self.environment.get_template(name)  # now, not when the first visitor waits

    def page(
        self, name: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> HTMLResponse:
        defaults = {"words": None, "module": None, "status": status}
        return HTMLResponse(self.environment.get_template(name).render(defaults | values), status, headers)
