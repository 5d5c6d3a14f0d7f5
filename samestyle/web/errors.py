"""What went wrong, as a status and a sentence: a page for people, JSON below /api/."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from samestyle.errors import ImageError, SamestyleError
from samestyle.web.shop import BusyError, NotThereError, QueryError
from samestyle.web.site import site_of

logger = logging.getLogger(__name__)

SENTENCES = {
    404: "There is no such page.",
    405: "This address takes no such request.",
    413: "That is too large: a photo may have {megabytes} MB.",
    500: "Something went wrong here. The log of the server says what.",
    503: "This release cannot answer that now: try again later. The log of the server says why.",
}
REASONS = {"too_large": 413, "not_an_image": 415}
API = "/api/"


def status_of(error: SamestyleError) -> int:
    if isinstance(error, ImageError):
        return REASONS.get(error.reason, 422)
    if isinstance(error, NotThereError):
        return 404
    return 422 if isinstance(error, QueryError) else 503


def sentence_of(error: SamestyleError) -> str:
    """What a stranger may read of it: of a damaged release no paths."""
    if isinstance(error, ImageError):
        return f"This photo cannot be read ({error}): a JPEG, PNG, WebP, GIF, BMP or TIFF file is expected."
    return str(error) if isinstance(error, NotThereError | QueryError | BusyError) else SENTENCES[503]


def handle_errors(app: FastAPI) -> None:
    """Let every error be answered in the form of the address that was asked for."""
    app.add_exception_handler(SamestyleError, on_own_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(Exception, on_mistake)


def on_own_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SamestyleError)
    status = status_of(error)
    if status != 503:
        return answer(request, status, sentence_of(error))
    logger.error("%s: %s", request.url.path, error)
    return answer(request, status, sentence_of(error), {"Retry-After": "5"})


def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    megabytes = f"{site_of(request).max_upload_bytes / 1e6:g}"
    sentence = SENTENCES.get(error.status_code, error.detail).replace("{megabytes}", megabytes)
    return answer(request, error.status_code, sentence, error.headers)


def on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = (f"{'.'.join(map(str, entry['loc'][1:]))}: {entry['msg']}" for entry in error.errors())
    return answer(request, 422, f"This request does not fit: {'; '.join(found)}.")


def on_mistake(request: Request, error: Exception) -> Response:
    return answer(request, 500, SENTENCES[500])


def answer(request: Request, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    if request.url.path.startswith(API):
        return JSONResponse({"detail": sentence}, status, headers)
    return site_of(request).templates.page("error.html.j2", status=status, headers=headers, sentence=sentence)
