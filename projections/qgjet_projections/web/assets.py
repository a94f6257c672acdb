"""Style sheet and scripts, under names that hold their content's hash: a browser keeps them for ever, and asks for others when they change."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from qgjet_projections.api.access import PUBLIC, UNPROTECTED

STATIC = Path(__file__).parent / "static"
FOREVER = "public, max-age=31536000, immutable"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
SCRIPTS = ("vendor/htmx.js", "vendor/htmx-sse.js", "vendor/idiomorph.js", "app.js")
"""In the order in which a page loads them."""


@lru_cache(maxsize=1)
def _named() -> dict[str, Path]:
    """Name with hash -> file."""
    files = sorted(path for path in STATIC.rglob("*") if path.suffix in _TYPES)
    return {f"{path.stem}.{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}{path.suffix}": path for path in files}


def url_of(name: str) -> str:
    """Where a page finds `name`; empty when it is not there: the scripts of others are not in the repository."""
    return next((f"/ui/assets/{hashed}" for hashed, path in _named().items() if path == STATIC / name), "")


def scripts() -> list[str]:
    """Their addresses; none of them unless all are there."""
    found = [url_of(name) for name in SCRIPTS]
    return found if all(found) else []


@get("/ui/assets/{name:str}", opt=PUBLIC, security=UNPROTECTED, include_in_schema=False, sync_to_thread=False)
def asset(name: FromPath[str]) -> Response[bytes]:
    path = _named().get(name)
    if path is None:
        raise NotFoundException
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers={"Cache-Control": FOREVER})
