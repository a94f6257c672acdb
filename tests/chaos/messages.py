"""Reads the event log for a history, one message after the other, so that no read without an answer
looks like a hole.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from datetime import datetime
from typing import Any

import msgspec

from chaos.history import Logged
from faults.watched import patiently
from qgjet.domain import suite
from qgjet.domain.subjects import STREAM, parse_job_subject
from qgjet.errors import UndecodableEvent
from qgjet.jetstream.connection import Connection, JetStreamError
from qgjet.store.event_log import EventLog, recorded

PAGE = 200
NO_MESSAGE = 10037


async def read_log(connection: Connection, first: int = 1) -> list[Logged]:
    """All messages from `first` on, with the times at which the server stored them, on this host's
    monotonic clock.
    """
    last = (await EventLog(connection).state()).last_seq
    behind = time.time() - time.monotonic()
    found: list[Logged] = []
    for start in range(first, last + 1, PAGE):
        asked = (_message(connection, seq) for seq in range(start, min(start + PAGE, last + 1)))
        found += [
            _logged(message, behind)
            for message in await asyncio.gather(*asked)
            if message is not None
        ]
    return found


async def _message(connection: Connection, seq: int) -> dict[str, Any] | None:
    """None only when the server states that there is none: a read without an answer is repeated, or
    the log would look as if it had a hole.
    """

    async def ask() -> dict[str, Any] | None:
        try:
            message: dict[str, Any] = (
                await connection.api(f"STREAM.MSG.GET.{STREAM}", {"seq": seq})
            )["message"]
            return message
        except JetStreamError as error:
            if error.error.err_code == NO_MESSAGE:
                return None
            raise

    return await patiently(ask)


def _logged(message: dict[str, Any], behind: float) -> Logged:
    seq, subject, data = (
        message["seq"],
        message["subject"],
        base64.b64decode(message.get("data", "")),
    )
    at = msgspec.convert(message["time"], datetime).timestamp() - behind
    parsed = parse_job_subject(subject)
    if parsed is not None:
        return Logged(seq=seq, at=at, slot=parsed[0], event=recorded(seq, subject, data).event)
    with contextlib.suppress(UndecodableEvent):
        return Logged(seq=seq, at=at, opened=suite.decode(data))
    return Logged(seq=seq, at=at)
