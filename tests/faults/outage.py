"""An API and an agent on a server that goes away, and what they write and use meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from agents import FAST, ended, eventually, running_agent, submit
from factories import spec
from qgjet.config.settings import ApiSettings, Settings
from qgjet.domain.events import Verdict
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_projections.service import Service, open_service


class Lines(logging.Handler):
    """Every line of qgjet's own logs."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.getMessage()}")


@contextlib.contextmanager
def listening() -> Iterator[Lines]:
    lines = Lines()
    loggers = [logging.getLogger(name) for name in ("qgjet", "qgjet_projections")]
    for one in loggers:
        one.addHandler(lines)
    try:
        yield lines
    finally:
        for one in loggers:
            one.removeHandler(lines)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_kb() -> int:
    """What this process holds now, not at its peak."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


@contextlib.asynccontextmanager
async def at_work(log: EventLog, tmp_path: Path) -> AsyncIterator[Service]:
    """An API with a janitor, and an agent."""
    settings = Settings(
        nats_url=log.connection.url,
        queue=FAST,
        api=ApiSettings(database=str(tmp_path / "read.sqlite")),
    )
    async with open_service(settings) as service, running_agent(log, tmp_path / "agent"):
        await at_peace(service)
        yield service


async def at_peace(service: Service) -> None:
    async def well() -> bool:
        return (
            not service.ailments()
            and service.projector is not None
            and service.projector.lag is not None
        )

    await eventually(well, within_s=15, what="an API that is connected and follows the log")


async def works(service: Service, log: EventLog, test: str) -> None:
    """A job goes all the way, and the API knows of it."""
    job = spec(test=test)

    async def known() -> bool:
        found = service.read_model.job(job.job_id)
        return found is not None and found.verdict is Verdict.PASSED

    await submit(log, job)
    await ended(log, job.slot, within_s=20)
    await eventually(known)


async def away(server: NatsServer, service: Service, seconds: float) -> None:
    server.kill()
    await asyncio.sleep(seconds)
    assert service.ailments(), "it must have noticed"
    await server.start()
    await at_peace(service)
