"""Who is alive: a key per agent instance that expires unless it is renewed. For display, pending reasons and the janitor; no job depends on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec
from msgspec import Struct
from nats.aio.msg import Msg

from qgjet.bus import Bus, PubAck, refusal
from qgjet.errors import LogUnavailable, NotPermitted
from qgjet.events import Instant
from qgjet.subjects import AGENTS_BUCKET, encode_token

log = logging.getLogger(__name__)

RENEW_EVERY_S = 5.0
_BATCH = 500
_END = frozenset({"204", "404"})
"""End of a batch; nothing to be found."""
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
        raise refusal("the list of agents", ack.error)


async def withdraw(bus: Bus, instance: str) -> None:
    """Say that the agent is gone. Harmless when it is not known."""
    await bus.request(_PREFIX + encode_token(instance), b"", headers={"KV-Operation": "DEL", "Nats-Rollup": "sub"})


async def agents(bus: Bus, *, timeout_s: float = 2.0) -> list[AgentInfo]:
    """All agents that are alive, by name. Raises LogUnavailable when the list cannot be had whole.

    Direct gets in batches, and no ordered consumer, which nats-py's own KV functions are made of.
    """
    found: list[AgentInfo] = []
    seq: int | None = 1
    try:
        async with asyncio.timeout(timeout_s):
            while seq is not None:
                messages, seq = await _batch(bus, seq)
                found += [info for info in map(_read, messages) if info is not None]
    except TimeoutError:
        raise LogUnavailable("no answer about the agents that are alive") from None
    return sorted(found, key=lambda info: (info.name, info.instance))


async def _batch(bus: Bus, from_seq: int) -> tuple[list[Msg], int | None]:
    """Messages of the bucket from a sequence on, and where to go on; None at the end."""
    messages: list[Msg] = []
    end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    subject = f"$JS.API.DIRECT.GET.KV_{AGENTS_BUCKET}"

    def refused(error: NotPermitted) -> None:
        if not end.done():
            end.set_exception(error)

    async def receive(message: Msg) -> None:
        status = (message.headers or {}).get("Status")
        if status is None:
            messages.append(message)
        elif not end.done():
            end.set_result(status)

    subscription = await bus.client.subscribe(bus.client.new_inbox(), cb=receive)
    try:
        body = {"seq": from_seq, "batch": _BATCH, "next_by_subj": _PREFIX + ">"}
        with bus.when_refused(subject, refused):
            await bus.publish(subject, msgspec.json.encode(body), reply=subscription.subject)
            status = await end
    finally:
        await subscription.unsubscribe()
    if status not in _END:
        raise LogUnavailable(f"the agents that are alive cannot be listed: status {status}")
    more = len(messages) == _BATCH
    return messages, int((messages[-1].headers or {})["Nats-Sequence"]) + 1 if more else None


def _read(message: Msg) -> AgentInfo | None:
    """None for an agent that has withdrawn, and for one of another version: that version's tools show it."""
    with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):  # anybody with access to NATS may write here
        return _info.decode(message.data)
    return None
