"""The HTTP server: uvicorn around a service, for callers that own the event loop and the signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Generator

import uvicorn

from qgjet.config.settings import ApiSettings, Settings
from qgjet.errors import InvalidSettings
from qgjet.support.clock import within
from qgjet_projections.api.access import Access, access_of
from qgjet_projections.service import Service, open_service
from qgjet_projections.serving.app import app_over
from qgjet_projections.serving.connections import BoundedProtocol

log = logging.getLogger(__name__)

BACKLOG = 2048
GRACE_S = 5.0
"""Responses that are under way get so long to end; streams end at once."""


async def serve(settings: Settings, *, ready: Callable[[str], None]) -> None:
    """Serve the API until cancelled; then finish what is under way, close, and raise
    CancelledError.

    `ready` is called once with the URL (port 0: the one the kernel chose). Signals are the caller's
    business. Raises InvalidSettings when the address cannot be listened on, or others could reach
    it without a token; IncompatibleServer when the NATS server must not be used. A missing NATS
    server is waited for while the API answers 503.
    """
    access = access_of(settings.api, everywhere=False)
    listener = _listen(settings.api)
    if not access.required:
        log.info(
            "Open to everybody on this machine: no token is asked for%s",
            " until `qgjet token create` has made one" if settings.api.auth else "",
        )
    try:
        async with open_service(settings) as service:
            await _run(
                _server(service, access, lambda: ready(_url(settings.api, listener))), listener
            )
    finally:
        listener.close()


def _listen(api: ApiSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    # with the protocol named: asyncio sets TCP_NODELAY only then, and without it every answer waits
    # 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # on Windows it would share the port with others
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((api.host, api.port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise InvalidSettings(
            "api.port",
            f"cannot listen on {api.host}:{api.port}: {getattr(error, 'strerror', None) or error}",
        ) from error
    return listener


def _url(api: ApiSettings, listener: socket.socket) -> str:
    host = f"[{api.host}]" if ":" in api.host else api.host
    return f"http://{host}:{listener.getsockname()[1]}"


def _server(service: Service, access: Access, started: Callable[[], None]) -> _Server:
    app = app_over(lambda: contextlib.nullcontext(service), access, service.settings.api)
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(GRACE_S),
        lifespan="on",
    )
    return _Server(config, started=started, closing=service.closing.set)


async def _run(server: _Server, listener: socket.socket) -> None:
    running = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.stop()
        await running
        raise


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, *, started: Callable[[], None], closing: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._started = started
        self._closing = closing
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Finish what is under way and end. A second call is harmless."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """uvicorn's looks ten times a second whether it has to stop; this one is told, and only
        keeps the time for the Date header.
        """
        tenths = 0
        while not await self.on_tick(tenths):
            tenths += 10
            await within(1.0, self._stopping)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._closing()
        await super().shutdown(sockets)
