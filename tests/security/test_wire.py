"""Bytes on the wire that no client library would send, from somebody who may write to the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

from agents import ended, running_agent, submit
from factories import spec
from patience import patience
from qgjet.domain import subjects
from qgjet.domain.events import Status, Verdict
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector


def pub(subject: bytes, header: bytes = b"") -> bytes:
    sizes = b"%d %d" % (len(header), len(header) + 2) if header else b"2"
    return (b"HPUB " if header else b"PUB ") + subject + b" " + sizes + b"\r\n" + header + b"{}"


async def send_raw(server: NatsServer, *lines: bytes) -> None:
    """Speak to the server as a client of our own that checks nothing; returns when the server has
    had it all.
    """
    at = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    async with asyncio.timeout(patience(5)):
        writer.write(
            b'CONNECT {"headers":true}\r\n'
            + b"".join(line + b"\r\n" for line in lines)
            + b"PING\r\n"
        )
        while (line := await reader.readline()) != b"PONG\r\n":
            assert line, "the server has hung up"
    writer.close()
    await writer.wait_closed()


STRANGE = [
    b"qg.job.acme.1%2E0%2E0.emulator.\xff\xfe.submitted.p5",
    b"qg.job.\x80.1.emulator.t.submitted.p5",
    b"qg.job.acme.1.emulator.t\xed\xa0\x80.started",
    b"qg.job.acme.1.emulator." + b"x" * 3900 + b".submitted.p5",
    b"qg.bell.acme.\xff.emulator.p5",
    b"qg.suite.acme.\xff.opened",
    b"$KV.qg-agents.\xff",
    b"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.QG_EVENTS.\xff",
]


HEADERS = [
    b"NATS/1.0 \xff\xff\xff x\xff\r\n\r\n",
    b"NATS/1.0\r\n\xff:\xff\r\n\r\n",
    b"NATS/1.0\r\nStatus: 408\r\nNats-Pending-Messages: x\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
]


async def test_subjects_and_headers_that_are_no_text_end_neither_agent_nor_projector(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    before, after = spec(test="tests/before.spec.js"), spec(test="tests/after.spec.js")
    await submit(log, before)
    read_model = ReadModel.open(tmp_path / "read.sqlite")
    try:
        async with (
            running_agent(log, tmp_path / "work") as _,
            Projector(log, read_model) as projector,
        ):
            await ended(log, before.slot)
            await send_raw(
                server,
                *map(pub, STRANGE),
                *(pub(b"qg.job.acme.1.emulator.t.started", header) for header in HEADERS),
                *(
                    pub(subjects.slot_prefix(after.slot).encode() + b".x", header)
                    for header in HEADERS
                ),
            )
            await submit(log, after)
            assert (await ended(log, after.slot)).verdict is Verdict.PASSED
            assert await projector.wait_for((await log.state()).last_seq, patience(10)), (
                projector.failure
            )
        view = read_model.job(after.job_id)
        assert view is not None
        assert view.status is Status.DONE
    finally:
        read_model.close()
