"""Security headers of every response, errors included, and what pages need in addition.

A handler that answers with something else than data for programs sets its own
`Content-Security-Policy`, one of those below; everything that it does not set it gets from here. A
new kind of page is one more policy.
"""

from __future__ import annotations

import base64
import hashlib

from litestar.datastructures import MutableScopeHeaders
from litestar.types import Message, Scope

CSP = "Content-Security-Policy"
DATA = "default-src 'none'; frame-ancestors 'none'"
"""JSON, text, problems, streams: nothing in them may load or run anything."""
REPORT = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""A page without scripts that holds what tests have said."""
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""The dashboard: its own scripts and styles, nothing inline, nothing from elsewhere."""
FILE = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""What a job left: nobody's trusted page. The sandbox makes it an origin of its own, without
scripts.
"""


def source_hash(script: str) -> str:
    """How a policy names an inline script that it lets run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    CSP: DATA,
}
_OVER_TLS = {"Strict-Transport-Security": "max-age=31536000"}


async def protect(message: Message, scope: Scope) -> None:
    """Add what the handler has not set. Litestar calls it with every message of every response."""
    if message["type"] != "http.response.start":
        return
    headers = MutableScopeHeaders.from_message(message)
    for name, value in (_ALWAYS | _OVER_TLS if scope.get("scheme") == "https" else _ALWAYS).items():
        headers.setdefault(name, value)
