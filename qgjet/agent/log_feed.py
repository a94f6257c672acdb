"""Live output of a running attempt, on its way to the stream QG_LOGS."""

from __future__ import annotations

import asyncio
import contextlib

from qgjet.domain import subjects
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import Connection

MAX_MESSAGE = 64 * 1024
MAX_BUFFER = 1024 * 1024
FLUSH_S = 0.2


class LogFeed:
    """Sends output in pieces, each ending at a line's end where it can, a fifth of a second after
    it was written at the latest.

    A convenience for watchers: while the server is away, output beyond 1 MiB is left out, and the
    feed says so. The whole log is the attempt's own file.
    """

    def __init__(self, connection: Connection, job_id: str, attempt: int) -> None:
        self._connection = connection
        self._subject = subjects.log_subject(job_id, attempt)
        self._buffer = bytearray()
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Never blocks and never fails."""
        room = MAX_BUFFER - len(self._buffer)
        self._buffer += data[:room]
        self._left_out += max(0, len(data) - room)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._start_flush)

    def _start_flush(self) -> None:
        self._timer = None
        self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        with contextlib.suppress(NatsUnavailable):
            while self._buffer:
                piece = self._piece()
                await self._connection.publish(self._subject, piece)
                del self._buffer[: len(piece)]
            if self._left_out:
                await self._connection.publish(
                    self._subject, b"[%d bytes of output were left out here]\n" % self._left_out
                )
                self._left_out = 0

    def _piece(self) -> bytes:
        piece = bytes(self._buffer[:MAX_MESSAGE])
        end = piece.rfind(b"\n") + 1
        return piece[:end] if end and len(self._buffer) > MAX_MESSAGE else piece

    async def close(self) -> None:
        """Send what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flushing is not None:
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self._flush()
