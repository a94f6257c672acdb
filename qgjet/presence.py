"""Who is alive: a key per agent instance that expires unless it is renewed. For display, pending reasons and the janitor; no job depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from qgjet.bus import Bus, PubAck
from qgjet.errors import LogUnavailable
from qgjet.events import Instant
from qgjet.subjects import AGENTS_BUCKET, encode_token

log = logging.getLogger(__name__)

RENEW_EVERY_S = 5.0
_PREFIX = f"$KV.{AGENTS_BUCKET}."
_ack = msgspec.json.Decoder(PubAck)


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


_info = msgspec.json.Decoder(AgentInfo)


async def announce(bus: Bus, info: AgentInfo) -> None:
    """Say that the agent is alive; has to be repeated within the bucket's time to live (30 s)."""
    ack = _ack.decode((await bus.request(_PREFIX + encode_token(info.instance), msgspec.json.encode(info))).data or b"{}")
    if ack.error is not None:
        raise LogUnavailable(f"the agent cannot announce itself: {ack.error.description}")


async def withdraw(bus: Bus, instance: str) -> None:
    """Say that the agent is gone. Harmless when it is not known."""
    await bus.request(_PREFIX + encode_token(instance), b"", headers={"KV-Operation": "DEL", "Nats-Rollup": "sub"})


async def agents(bus: Bus, *, timeout_s: float = 2.0) -> list[AgentInfo]:
    """All agents that are alive, by name.

    A direct get of the last message of every key: at most 1024 agents, and no ordered consumer, which nats-py's own KV functions are made of.
    """
    inbox = bus.client.new_inbox()
    found: list[AgentInfo] = []
    complete = asyncio.Event()

    async def receive(message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status is not None:
            complete.set()
        elif message.data:
            with contextlib.suppress(msgspec.MsgspecError):  # of another version: shown by that version's tools
                found.append(_info.decode(message.data))

    subscription = await bus.client.subscribe(inbox, cb=receive)
    try:
        body = msgspec.json.encode({"multi_last": [_PREFIX + ">"]})
        await bus.publish(f"$JS.API.DIRECT.GET.KV_{AGENTS_BUCKET}", body, reply=inbox)
        async with asyncio.timeout(timeout_s):
            await complete.wait()
    except TimeoutError:
        raise LogUnavailable("no answer about the agents that are alive") from None
    finally:
        await subscription.unsubscribe()
    return sorted(found, key=lambda info: (info.name, info.instance))
