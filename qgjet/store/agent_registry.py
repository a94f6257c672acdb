"""Who is alive: a key per agent instance that expires unless it is renewed. For display, pending
reasons and the janitor; no job depends on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec
from msgspec import Struct

from qgjet.domain.events import Instant
from qgjet.domain.subjects import AGENTS_BUCKET, encode_token
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import STOP_TIMEOUT_S, Connection, read_ack, refusal
from qgjet.jetstream.direct_get import Stored, messages

log = logging.getLogger(__name__)

RENEW_EVERY_S = 5.0
_BATCH = 500
_BATCH_BYTES = 4 * 1024 * 1024
_PREFIX = f"$KV.{AGENTS_BUCKET}."


class TargetSlots(Struct, frozen=True, kw_only=True):
    target: str
    slots: int
    running: int = 0


class AgentInfo(Struct, frozen=True, kw_only=True):
    """What an agent says about itself."""

    instance: str
    """New at each start."""
    name: str
    host: str
    pid: int
    version: str
    targets: tuple[TargetSlots, ...]
    slots: int
    since: Instant
    app_version_id: str = "all"
    running: tuple[str, ...] = ()
    """Ids of the jobs it runs."""
    warm: tuple[str, ...] = ()
    """Partitions it keeps prepared, as `org/app version/target`."""
    draining: bool = False
    problem: str = ""
    """Why its host cannot run jobs; it takes none then. Empty while it is well."""
    problem_since: Instant | None = None
    visibility_timeout_s: float = 0.0
    """What its leases go by; 0 for a version that does not adopt a shorter one."""


class Announcement(Struct, frozen=True, kw_only=True):
    """The entry of an agent."""

    seq: int
    """Of the entry in its stream. Another one: the agent has renewed it."""
    info: AgentInfo


_info = msgspec.json.Decoder(AgentInfo)


async def announce(connection: Connection, info: AgentInfo) -> None:
    """Say that the agent is alive; has to be repeated within the bucket's time to live (30 s)."""
    ack = read_ack(
        await connection.request(_PREFIX + encode_token(info.instance), msgspec.json.encode(info))
    )
    if ack.error is not None:
        raise refusal("the list of agents", ack.error)


async def withdraw(connection: Connection, instance: str) -> None:
    """Say that the agent is gone. Harmless when it is not known."""
    await connection.request(
        _PREFIX + encode_token(instance),
        b"",
        headers={"KV-Operation": "DEL", "Nats-Rollup": "sub"},
        timeout_s=STOP_TIMEOUT_S,
    )


async def agents(connection: Connection, *, timeout_s: float = 2.0) -> list[AgentInfo]:
    """All agents that are alive, by name. Raises NatsUnavailable when the list cannot be had whole.

    Direct gets in batches, and no ordered consumer, which nats-py's own KV functions are made of.
    """
    return sorted(
        (one.info for one in await announcements(connection, timeout_s=timeout_s)),
        key=lambda info: (info.name, info.instance),
    )


async def announcements(connection: Connection, *, timeout_s: float = 2.0) -> list[Announcement]:
    """As `agents`, each with the sequence of its entry."""
    found: dict[
        str, Announcement | None
    ] = {}  # by subject: an entry that is renewed meanwhile comes again
    after = 0
    try:
        async with asyncio.timeout(timeout_s):
            while batch := await messages(
                connection,
                f"KV_{AGENTS_BUCKET}",
                _PREFIX + ">",
                after,
                batch=_BATCH,
                max_bytes=_BATCH_BYTES,
            ):
                found |= {one.subject: _announcement(one) for one in batch}
                after = batch[-1].seq
    except TimeoutError:
        raise NatsUnavailable("no answer about the agents that are alive") from None
    return [one for one in found.values() if one is not None]


def _announcement(entry: Stored) -> Announcement | None:
    info = _read(entry.data)
    return None if info is None else Announcement(seq=entry.seq, info=info)


def _read(data: bytes) -> AgentInfo | None:
    """None for an agent that has withdrawn, and for one of another version: that version's tools
    show it.
    """
    with contextlib.suppress(
        msgspec.MsgspecError, ValueError, RecursionError
    ):  # anybody with access to NATS may write here
        return _info.decode(data)
    return None
