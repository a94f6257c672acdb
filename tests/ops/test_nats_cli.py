"""The real `nats` command reads our streams: what operators are told to type shows partitions, jobs
and their story.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from factories import spec
from ops.commands import ROOT, environment
from patience import patience
from qgjet.config.settings import QueueSettings
from qgjet.domain.decide import Start
from qgjet.domain.events import JobSpec
from qgjet.domain.subjects import Lane
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue


@pytest.fixture
def nats(server: NatsServer, tmp_path: Path) -> list[str]:
    """The command with its server, and nothing of what a developer has set up for it."""
    built = ROOT / ".tools/bin/nats"
    found = str(built) if built.exists() else shutil.which("nats")
    if found is None:
        pytest.fail(
            "the nats CLI is not on this machine: run `make nats-cli`, which builds it with Go"
        )
    return ["env", f"HOME={tmp_path}", f"XDG_CONFIG_HOME={tmp_path}", found, "--server", server.url]


async def read(command: list[str]) -> str:
    """What it prints on a terminal: without one, `stream view` refuses."""
    ours, terminal = os.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment(COLUMNS="250")
    )
    os.close(terminal)
    try:
        async with asyncio.timeout(patience(20)):
            text = await asyncio.to_thread(_all, ours)
        assert await asyncio.to_thread(process.wait, patience(5)) == 0, text
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def _all(terminal: int) -> str:
    data = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            piece = b""
        if not piece:
            return data.decode(errors="replace")
        data += piece


async def test_the_nats_cli_shows_partitions_and_jobs(log: EventLog, nats: list[str]) -> None:
    running, waiting = spec(test="tests/login.spec.ts"), spec(test="tests/cart.spec.ts")
    elsewhere = spec(target="browserstack")
    queue = Queue(log.connection, QueueSettings())
    for one in (running, waiting, elsewhere):
        await log.submit(one)
        await queue.ensure(Lane(one.partition, one.rank))
    await start(log, queue, running)

    queues = await read([*nats, "consumer", "report", "QG_EVENTS"])
    rows = {cells[0]: cells[4:7] for cells in table(queues) if "~" in cells[0]}
    assert rows.keys() == {
        "acme~1.0.0~emulator~p5".replace(".", "%2E"),
        "acme~1.0.0~browserstack~p5".replace(".", "%2E"),
    }
    ack_pending, _, unprocessed = rows["acme~1%2E0%2E0~emulator~p5"]
    assert (ack_pending, unprocessed.split()[0]) == ("1", "1")

    story = await read(
        [*nats, "stream", "view", "QG_EVENTS", "--subject", "qg.job.acme.1%2E0%2E0.emulator.>"]
    )
    assert re.findall(
        r"\] Subject: qg\.job\.acme\.1%2E0%2E0\.emulator\.tests/(\w+)%2Espec%2Ets\.(\S+)", story
    ) == [
        ("login", "submitted.p5"),
        ("cart", "submitted.p5"),
        ("login", "started"),
    ]
    assert running.job_id in story
    assert elsewhere.job_id not in story

    streams = {
        cells[0]: cells[4]
        for cells in table(await read([*nats, "stream", "report"]))
        if len(cells) > 4
    }
    assert streams["QG_EVENTS"] == "4"
    assert streams.keys() >= {"QG_ADVISORIES", "QG_LOGS", "KV_qg-agents", "OBJ_qg-artifacts"}


async def start(log: EventLog, queue: Queue, one: JobSpec) -> None:
    """As an agent would: taken from its lane, and claimed."""
    delivery = await queue.take(Lane(one.partition, one.rank), 1.0)
    assert delivery is not None
    assert delivery.spec.test == one.test
    await log.execute(
        one.slot, Start(agent="agent-1", ticket=delivery.seq), await log.load(one.slot)
    )


def table(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("│\r ").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]
