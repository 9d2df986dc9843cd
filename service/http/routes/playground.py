"""The page at ``/`` and the API's documentation at ``/docs``: files that come with the package.

Nothing of them is fetched from elsewhere, and all addresses in them are relative, so that they work
offline and behind a proxy's path prefix. Neither needs an API key: the page asks for one when the
API does.
"""

import gzip
import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from flowmo.photographs import PHOTOGRAPHS

router = APIRouter(include_in_schema=False)

_PAGE = files("flowmo.service.http") / "playground"
_SWAGGER = files("fastapi_offline") / "static"

_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",
    ".webp": "image/webp",
}
_TEXTS = {".css", ".html", ".js", ".svg", ".ts"}

# What a request can name; a stranger's path never reaches the file system.
_SERVED: dict[str, Traversable] = {
    **{path.name: path for path in _PAGE.iterdir() if path.is_file()},
    **{f"samples/{path.name}": path for path in (_PAGE / "samples").iterdir()},
    **{f"samples/{name}": files("flowmo.photographs") / name for name in PHOTOGRAPHS},
    **{name: _SWAGGER / name for name in ("swagger-ui-bundle.js", "swagger-ui.css")},
}

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI sets styles on its elements.
_DOCS_POLICY = _POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")


@router.get("/")
def playground(request: Request) -> Response:
    """The page to play on."""
    return _answer(request, "index.html", {"Content-Security-Policy": _POLICY})


@router.get("/docs")
def docs(request: Request) -> Response:
    """The OpenAPI document, to read and to try."""
    return _answer(request, "docs.html", {"Content-Security-Policy": _DOCS_POLICY})


@router.get("/playground/{name:path}")
def file(request: Request, name: str) -> Response:
    """A file of the page."""
    if name not in _SERVED or name.endswith(".html"):  # pages have a policy and an address
        raise HTTPException(404)
    # Modules are imported by pages of other origins, too, where the operator allows that.
    headers = {"Cross-Origin-Resource-Policy": "cross-origin"}
    return _answer(request, name, headers)


class _File(NamedTuple):
    data: bytes
    packed: bytes | None
    media_type: str
    etag: str


@cache
def _read(name: str) -> _File:
    path = _SERVED[name]
    data = path.read_bytes()
    suffix = f".{path.name.rpartition('.')[2]}"
    packed = gzip.compress(data, 6, mtime=0) if suffix in _TEXTS else None
    return _File(data, packed, _MEDIA_TYPES[suffix], f'"{hashlib.sha256(data).hexdigest()[:16]}"')


def _answer(request: Request, name: str, headers: dict[str, str]) -> Response:
    """Answer with a file, packed for those who take it, or with 304 if the client has it."""
    found = _read(name)
    headers = {
        **headers,
        "Cache-Control": "no-cache",  # kept, and asked for again: another version may run by then
        "ETag": f"W/{found.etag}",
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
    }
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = found.data
    if found.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        data, headers = found.packed, {**headers, "Content-Encoding": "gzip"}
    return Response(data, headers=headers, media_type=found.media_type)
