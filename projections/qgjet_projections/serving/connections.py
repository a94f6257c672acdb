"""Bounds on connections: uvicorn's HTTP protocol with deadlines for requests, and with limits for
all connections and for those of one address.

uvicorn waits for ever for the rest of a request header or body. For servers that qgjet does not
start: `uvicorn --http qgjet_projections.serving.connections:BoundedProtocol`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0
"""From the start of a connection, or the end of the answer before, to the end of a request header.
"""
BODY_S = 60.0
"""From the end of a request header to the end of its body, 1 MiB at most."""
MAX_CONNECTIONS = 4096
MIN_CONNECTIONS = 16
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    b'{"type":"urn:qgjet:problem:overloaded","title":"Too many connections","status":503,"detail":"too many connections are open; try again in 5 s",'
    b'"instance":"/"}'
)


def max_connections() -> int:
    """Three quarters of the files that this process may open: the rest is for the read model and
    for NATS.
    """
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else soft * 3 // 4
    return max(MIN_CONNECTIONS, min(files, MAX_CONNECTIONS))


class BoundedProtocol(H11Protocol):
    """One connection. At a limit, the connection that has waited longest for a request makes room
    for a new one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stage: tuple[object, bool] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if not self._make_room():
            self.connections.discard(self)
            transport.write(_FULL)
            transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    # -- deadlines ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Set the deadline of the stage that the connection is in. More data of the same stage does
        not move it.
        """
        stage = (None, True) if self.idle else (self.cycle, self.cycle.more_body)
        if stage == self._stage:
            return
        self._stage = stage
        self._cancel_deadline()
        if self.idle:
            self._idle_since = self.loop.time()
            self._deadline = self.loop.call_later(HEADER_S, self._give_up)
        elif self.cycle.more_body:
            self._deadline = self.loop.call_later(BODY_S, self._give_up)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._cancel_deadline()
        self.connections.discard(self)
        self.transport.abort()

    # -- limits ------------------------------------------------------------------------------------------------------

    def _make_room(self) -> bool:
        """Close an idle connection where there are too many. False: all are busy."""
        most = max_connections()
        return self._within(most // 2, self._host) and self._within(most)

    def _within(self, most: int, host: str | None = None) -> bool:
        connections = [
            one
            for one in self.connections
            if isinstance(one, BoundedProtocol) and host in (None, one._host)
        ]
        if len(connections) <= most:
            return True
        idle = [one for one in connections if one is not self and one.idle]
        if not idle:
            return False
        min(idle, key=lambda one: one._idle_since)._give_up()
        return True

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""
