"""Style sheet and scripts, under names that hold their content's hash: a browser keeps them for
ever, and asks for others when they change.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from litestar import Request, Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from msgspec import Struct

from qgjet_projections.api.access import PUBLIC, UNPROTECTED

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SCRIPTS = ("vendor/htmx.js", "vendor/htmx-sse.js", "vendor/idiomorph.js", "app.js")
"""In the order in which a page loads them."""


class Asset(Struct, frozen=True, kw_only=True):
    """A file as it was when the first page was asked for: what an update puts in its place must not
    go out under the hash of this one.
    """

    name: str
    """Below STATIC."""
    url: str
    media_type: str
    content: bytes
    packed: bytes


@lru_cache(maxsize=1)
def _assets() -> dict[str, Asset]:
    """By their names below STATIC."""
    found = [_asset(path) for path in sorted(STATIC.rglob("*")) if path.suffix in _TYPES]
    assets = {one.name: one for one in found}
    if missing := [name for name in SCRIPTS if name not in assets]:
        log.warning(
            "pages do not follow what happens: this installation has no %s. In a checkout `make assets` gets them",
            ", ".join(missing),
        )
    return assets


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    url = f"/ui/assets/{path.stem}.{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}"
    return Asset(
        name=path.relative_to(STATIC).as_posix(),
        url=url,
        media_type=_TYPES[path.suffix],
        content=content,
        packed=gzip.compress(content, mtime=0),
    )


@lru_cache(maxsize=1)
def _by_url() -> dict[str, Asset]:
    return {one.url: one for one in _assets().values()}


def url_of(name: str) -> str:
    """Where a page finds `name`; empty when it is not there: the scripts of others are not in the
    repository.
    """
    found = _assets().get(name)
    return "" if found is None else found.url


def scripts() -> list[str]:
    """Their addresses; none of them unless all are there."""
    found = [url_of(name) for name in SCRIPTS]
    return found if all(found) else []


@get(
    "/ui/assets/{name:str}",
    opt=PUBLIC,
    security=UNPROTECTED,
    include_in_schema=False,
    sync_to_thread=False,
)
def asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    found = _by_url().get(f"/ui/assets/{name}")
    if found is None:
        raise NotFoundException
    headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            found.packed,
            media_type=found.media_type,
            headers=headers | {"Content-Encoding": "gzip"},
        )
    return Response(found.content, media_type=found.media_type, headers=headers)
