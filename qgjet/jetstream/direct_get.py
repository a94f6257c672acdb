"""Messages of one subject out of a stream, in batches of direct gets: no consumer is made, and the
reader sets the pace.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import NamedTuple

import msgspec
from nats.aio.msg import Msg

from qgjet.errors import NatsUnavailable, PermissionDenied
from qgjet.jetstream.connection import Connection
from qgjet.support.clock import within

TIMEOUT_S = 5.0
_END = frozenset({"204", "404"})
"""End of a batch; nothing to be found."""


class Stored(NamedTuple):
    """A message of a stream."""

    seq: int
    subject: str
    data: bytes
    stored_at: int
    """Microseconds since 1970 in UTC, by the server's clock."""


def microseconds(time: str) -> int:
    """A time as the server writes it (RFC 3339, UTC, nanoseconds) in whole microseconds since 1970,
    rounded down as those in a reply subject; 0 for none.
    """
    whole, _, fraction = time.removesuffix("Z").partition(".")
    try:
        return int(datetime.fromisoformat(whole + "+00:00").timestamp()) * 1_000_000 + int(
            f"{fraction:0<6}"[:6]
        )
    except ValueError:
        return 0


async def messages(
    connection: Connection, stream: str, subject: str, after: int, *, batch: int, max_bytes: int
) -> list[Stored]:
    """Up to `batch` messages of `subject` after a sequence; empty when there are no more. The
    stream must allow direct gets.

    Raises NatsUnavailable when the server does not say that this is all: a stream that is missing,
    or has no leader yet, is not an empty one.
    """
    inbox = connection.client.new_inbox()
    found: list[Stored] = []
    complete = asyncio.Event()
    problems: list[NatsUnavailable] = []

    def refused(error: PermissionDenied) -> None:
        problems.append(error)
        complete.set()

    async def receive(message: Msg) -> None:
        headers = message.headers or {}
        if "Nats-Sequence" in headers:
            stored_at = microseconds(headers.get("Nats-Time-Stamp", ""))
            found.append(
                Stored(
                    int(headers["Nats-Sequence"]),
                    headers.get("Nats-Subject", ""),
                    message.data,
                    stored_at,
                )
            )
            return
        if (status := headers.get("Status", "")) not in _END:
            problems.append(
                NatsUnavailable(
                    f"{stream} at {connection.url} cannot be read: {status} {headers.get('Description', '')}".rstrip()
                )
            )
        complete.set()

    subscription = await connection.subscribe(inbox, receive)
    try:
        body = msgspec.json.encode(
            {"seq": after + 1, "next_by_subj": subject, "batch": batch, "max_bytes": max_bytes}
        )
        with connection.when_refused(asked := f"$JS.API.DIRECT.GET.{stream}", refused):
            await connection.publish(asked, body, reply=inbox)
            if not await within(TIMEOUT_S, complete):
                raise NatsUnavailable(f"no answer from NATS at {connection.url} ({subject})")
        if problems:
            raise problems[0]
    finally:
        await connection.unsubscribe(subscription)
    return found
