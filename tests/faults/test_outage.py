"""A server that is away for long, and connections that are dead without showing it: everybody comes
back by himself, and is quiet until then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import httpx
import pytest

from agents import eventually
from cli.commandline import api_of
from factories import spec
from faults.outage import at_work, away, cpu_s, listening, works
from patience import patience
from qgjet.config.settings import ApiSettings, Settings
from qgjet.domain.subjects import slot_prefix
from qgjet.jetstream import connection as connections
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet.support.log_limiter import MOST, LogLimiter
from qgjet_projections import service as services
from qgjet_projections.readmodel.writer import Writer
from qgjet_projections.service import open_service


async def test_a_server_that_is_away_costs_a_few_lines_and_little_time(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    async with at_work(log, tmp_path) as service:
        await works(service, log, "before")
        with listening() as lines:
            used = cpu_s()
            await away(server, service, 3.0)
            assert cpu_s() - used < 1.5, "nobody turns in circles"
        assert len(lines.said) < 20, "\n".join(lines.said)
        await works(service, log, "after")


def test_a_complaint_that_repeats_itself_is_said_once_and_then_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("qgjet.support.log_limiter.time.monotonic", lambda: now)
    complaints = LogLimiter(logging.getLogger("qgjet.test"), again_s=60)
    for second in range(3_600):
        now = 100.0 + second
        complaints.warn("away")
    assert len(caplog.messages) == 60
    assert caplog.messages[:2] == ["away", "away (and 59 times since the last such line)"]
    complaints.warn("something else")
    complaints.over()
    complaints.warn("away")
    assert caplog.messages[-2:] == ["something else", "away"]


def test_complaints_of_many_kinds_are_bounded_together(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("qgjet.support.log_limiter.time.monotonic", lambda: now)
    complaints = LogLimiter(logging.getLogger("qgjet.test"), again_s=60)
    for number in range(100_000):
        now = 100.0 + number / 1_000
        complaints.warn("away")
        complaints.warn(f"event {number}")
    assert len(caplog.messages) <= 2 * MOST + 2
    assert "other lines were held back" in caplog.text


async def test_an_event_that_cannot_be_read_costs_a_few_lines_however_often_it_is_read(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    slots = [spec().slot, spec(test="other").slot]
    for slot in slots:
        await log.connection.request(slot_prefix(slot) + ".paused", b"?")
    for slot in slots * 50:
        await log.load(slot)
    assert len([line for line in caplog.messages if "does not count" in line]) == len(slots)


async def test_a_disk_that_takes_nothing_costs_a_few_lines(
    server: NatsServer,
    log: EventLog,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The projector stops and begins again, each time with the same complaint."""
    monkeypatch.setattr(services, "PAUSE_S", 0.01)
    tries = 0

    def full(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "apply", full)
    settings = Settings(
        nats_url=server.url, api=ApiSettings(database=str(tmp_path / "read.sqlite"))
    )
    await log.submit(spec())
    with listening() as lines:
        async with open_service(settings):

            async def often() -> bool:
                return tries >= 10

            await eventually(often, within_s=30)
    assert len([line for line in lines.said if "No space left" in line]) <= 3, "\n".join(lines.said)


@pytest.mark.parametrize("how", ["cancelled", "ended"])
async def test_a_connection_whose_reader_has_died_is_noticed_and_mended(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Whatever ended it: the client looks connected and hears nothing."""
    monkeypatch.setattr(connections, "_WATCHDOG_S", 0.3)
    monkeypatch.setattr(connections, "_ROUND_TRIP_S", 0.3)
    async with connect(log.connection.url, name="deaf") as connection:
        loop = asyncio.get_running_loop()
        await _kill_reader(connection, how)
        assert connection.client.is_connected
        since = loop.time()

        async def mended() -> bool:
            return connection.reconnects == 1

        await eventually(mended, within_s=5, what="a new connection")
        assert loop.time() - since < 3
        assert (await EventLog(connection).submit(spec())).seq == 1


def test_a_dead_connection_is_noticed_within_15_s() -> None:
    assert connections._WATCHDOG_S + connections._ROUND_TRIP_S <= 15


async def _kill_reader(connection: Connection, how: str) -> None:
    reader = connection.client._reading_task
    assert reader is not None
    if how == "cancelled":
        reader.cancel()
    else:
        parser = connection.client._ps

        async def fail(data: bytes = b"") -> None:
            del parser.parse
            raise ValueError("a message that nobody expected")

        parser.parse = fail  # type: ignore[method-assign]
        await connection.client._send_ping()
    await asyncio.wait({reader}, timeout=patience(2))
    assert reader.done()


async def test_a_read_model_that_is_slow_is_said_by_name_and_asked_to_wait_for(
    server: NatsServer, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads go on from what there is; who asks for more than that is told to come again."""
    gate = threading.Event()
    apply = Writer.apply

    def slow(*args: object) -> object:
        assert gate.wait(patience(30))
        return apply(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("qgjet_projections.readmodel.projector.LOOK_S", 0.05)
    monkeypatch.setattr("qgjet_projections.api.reads.MIN_SEQ_WAIT_S", 0.2)
    settings = Settings(
        nats_url=server.url,
        api=ApiSettings(
            port=0, database=str(tmp_path / "read.sqlite"), janitor=False, max_lag_events=10
        ),
    )
    async with (
        api_of(settings) as api,
        httpx.AsyncClient(base_url=api, timeout=patience(20)) as client,
    ):

        async def answers(status: int) -> bool:
            return (await client.get("/readyz")).status_code == status

        await eventually(lambda: answers(200))
        monkeypatch.setattr(Writer, "apply", slow)
        try:
            accepted = await log.submit_many([spec(test=f"{number}") for number in range(20)])
            await eventually(lambda: answers(503))
            assert (await client.get("/readyz")).json()["reasons"] == [
                "the read model is 20 events behind, more than 10"
            ]
            behind = await client.get("/jobs", params={"min_seq": 20})
            assert (behind.status_code, behind.json()["type"], behind.headers["retry-after"]) == (
                503,
                "urn:qgjet:problem:not-caught-up",
                "1",
            )
            assert (await client.get("/jobs")).json()["jobs"] == []
        finally:
            gate.set()
        await eventually(lambda: answers(200))
        found = await client.get("/jobs", params={"min_seq": 20, "limit": 100})
        assert len(found.json()["jobs"]) == len(accepted)
