"""Output of attempts, out of the stream `QG_LOGS`: batches of direct gets, no consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from nats.aio.msg import Msg

from qgjet.bus import Bus
from qgjet.clock import within
from qgjet.errors import LogUnavailable
from qgjet.events import Status
from qgjet.subjects import LOGS, log_subject
from qgjet_projections.service import Service
from qgjet_projections.views import JobView

BATCH = 256
BATCH_BYTES = 4 * 1024 * 1024
TIMEOUT_S = 5.0
LOOK_S = 0.3


async def lines(service: Service, job: JobView, attempt: int, *, follow: bool) -> AsyncIterator[bytes]:
    """The output of one attempt in pieces, as the agent sent them; with `follow` until the attempt has ended or the process closes."""
    subject, after = log_subject(job.job_id, attempt), 0
    while attempt:
        over = not follow or service.closing.is_set() or _has_ended(service, job.job_id, attempt)
        messages = await read(service.log.bus, subject, after)
        while messages:
            yield b"".join(text for _, text in messages)
            after = messages[-1][0]
            messages = await read(service.log.bus, subject, after)
        if over:
            return
        await asyncio.sleep(LOOK_S)


async def chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _has_ended(service: Service, job_id: str, attempt: int) -> bool:
    job = service.read_model.job(job_id)
    return job is None or job.attempt > attempt or job.status is not Status.RUNNING


async def read(bus: Bus, subject: str, after: int) -> list[tuple[int, bytes]]:
    """Up to 256 messages of `subject` after a sequence, as (sequence, data); empty when there are no more."""
    inbox = bus.client.new_inbox()
    found: list[tuple[int, bytes]] = []
    complete = asyncio.Event()

    async def receive(message: Msg) -> None:
        headers = message.headers or {}
        if "Status" in headers or "Nats-Sequence" not in headers:
            complete.set()
        else:
            found.append((int(headers["Nats-Sequence"]), message.data))

    subscription = await bus.client.subscribe(inbox, cb=receive)
    try:
        body = msgspec.json.encode({"seq": after + 1, "next_by_subj": subject, "batch": BATCH, "max_bytes": BATCH_BYTES})
        await bus.publish(f"$JS.API.DIRECT.GET.{LOGS}", body, reply=inbox)
        if not await within(TIMEOUT_S, complete):
            raise LogUnavailable("no answer about the output of the attempt")
    finally:
        await subscription.unsubscribe()
    return found
