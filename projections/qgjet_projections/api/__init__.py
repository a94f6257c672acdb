"""The HTTP API: `create_app` for any ASGI server, `serve` for callers that own the event loop."""

from qgjet_projections.api.app import create_app
from qgjet_projections.api.server import serve

__all__ = ["create_app", "serve"]
