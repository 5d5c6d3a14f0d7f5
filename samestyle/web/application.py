"""The application: pages, API, static files, and the headers that let a browser load nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samestyle import __version__
from samestyle.web import api, pages
from samestyle.web.errors import handle_errors
from samestyle.web.shop import Shop
from samestyle.web.site import Site
from samestyle.web.templates import Templates

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Options:
    """refresh_seconds: how often the channel and the denylist are looked at, 0 for never. remote_photos: browsers may
    load photos from where the catalogue says. max_upload_bytes: of a request, most of it the photo."""

    refresh_seconds: float = 30.0
    remote_photos: bool = False
    max_upload_bytes: int = 10_000_000


def create_app(shop: Shop, options: Options | None = None) -> ASGIApp:
    """The application of a shop, which it follows while it runs."""
    options = options or Options()
    app = FastAPI(
        title="samestyle",
        version=__version__,
        summary="Same-style search in the release that serves.",
        openapi_url=f"{api.PREFIX}/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lambda _: following(shop, options.refresh_seconds),
        form_limits={"max_files": 1, "max_fields": 8, "max_part_size": 8192},
    )
    templates = Templates(shop, options.max_upload_bytes)
    app.state.site = Site(shop, templates, options.remote_photos, options.max_upload_bytes)
    handle_errors(app)
    app.include_router(pages.router)
    app.include_router(api.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return Guard(app, options)


@asynccontextmanager
async def following(shop: Shop, seconds: float) -> AsyncIterator[None]:
    stop = Event()
    thread = Thread(target=shop.follow, args=(seconds, stop), name="refresh", daemon=True)
    if seconds:
        thread.start()
    yield
    stop.set()


class Guard:
    """Stops requests that are too long, and tells a browser with every answer, errors included, what a page may do."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self.app, self.most = app, options.max_upload_bytes
        photos = "'self' data: https: http:" if options.remote_photos else "'self' data:"
        self.headers = {
            "Content-Security-Policy": f"default-src 'none'; img-src {photos}; style-src 'self'; script-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.app(scope, self.limited(receive), self.told(send))
        else:
            await self.app(scope, receive, send)

    def limited(self, receive: Receive) -> Receive:
        """Counts while the request comes: what it says of its size may be wrong, or missing."""
        came = 0

        async def receive_part() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                raise HTTPException(413)
            return message

        return receive_part

    def told(self, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self.headers)
                headers.setdefault("Cache-Control", "no-cache")
            await send(message)

        return send_with_headers
