"""Load while something is broken again and again, and the account at the end. Short in the default
suite, long in tests/soak.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from agents import running_agent
from factories import spec
from faults.watched import Ledger, all_executed_once_at_a_time, patiently, watched
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain.events import JobSpec
from qgjet.domain.subjects import Lane
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.job_queue import Queue
from qgjet_projections.service import open_service

AGENTS = 3
SLOTS = 4
QUEUE = QueueSettings(
    visibility_timeout_s=2.0, retry_base_s=0.02, retry_cap_s=0.05, max_deliver=100
)
"""Deliveries are not what is to run out here: a server that dies every second takes one each time.
"""


class Storm:
    """Submits jobs until it is told to stop, while agents run them and the API's janitor looks
    after them: each with a connection of its own.
    """

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        queue: QueueSettings = QUEUE,
        jobs_per_s: float = 60.0,
        seed: int = 1,
    ) -> None:
        self.ledger = Ledger()
        self.accepted: list[JobSpec] = []
        self.unanswered: list[JobSpec] = []
        """Submissions whose fate the client does not know: they may have been accepted."""
        self.lanes = [
            Lane(spec(app_version_id=version).partition, rank)
            for version in ("1.0.0", "2.0.0")
            for rank in (3, 5)
        ]
        self._url, self._path, self._queue = url, path, queue
        self._pause_s = 1 / jobs_per_s
        self._random = random.Random(seed)
        self._numbers = iter(range(1_000_000))

    @contextlib.asynccontextmanager
    async def raging(self) -> AsyncIterator[EventLog]:
        """Agents, service and submissions for the length of a block; at its end everything that was
        accepted has been executed.
        """
        async with contextlib.AsyncExitStack() as stack:
            log = EventLog(await stack.enter_async_context(connect(self._url, name="test")))
            settings = Settings(
                nats_url=self._url,
                queue=self._queue,
                api=ApiSettings(database=str(self._path / "read-model.sqlite")),
            )
            await stack.enter_async_context(open_service(settings))
            for number in range(AGENTS):
                connection = await stack.enter_async_context(
                    connect(self._url, name=f"agent {number}")
                )
                runners = watched(self.ledger, f"agent {number}", takes_s=self._takes_s)
                await stack.enter_async_context(
                    running_agent(
                        EventLog(connection),
                        self._path,
                        runners=runners,
                        slots=SLOTS,
                        queue=self._queue,
                        poll_s=0.5,
                    )
                )
            submitting = asyncio.create_task(self._submit(log))
            try:
                yield log
            finally:
                submitting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await submitting
            await self._find_unanswered(log)
            self.told = await all_executed_once_at_a_time(
                log, self.accepted, self.ledger, within_s=60
            )

    def _takes_s(self, _: JobSpec) -> float:
        """Mostly short; one in twenty lives through several heartbeats."""
        return (
            self._random.uniform(0.0, 0.15)
            if self._random.random() < 0.95
            else self._random.uniform(1.0, 3.0)
        )

    async def _submit(self, log: EventLog) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                number = next(self._numbers)
                lane = self.lanes[number % len(self.lanes)]
                job = spec(
                    test=f"tests/{number}.spec.js",
                    app_version_id=lane.partition.app_version_id,
                    rank=lane.rank,
                    max_retries=0,
                )
                group.create_task(self._submit_one(log, job))
                await asyncio.sleep(self._pause_s)

    async def _submit_one(self, log: EventLog, job: JobSpec) -> None:
        self.unanswered.append(job)
        with contextlib.suppress(NatsUnavailable):
            assert isinstance(await log.submit(job), Accepted)
            self.accepted.append(job)
            self.unanswered.remove(job)

    async def _find_unanswered(self, log: EventLog) -> None:
        """A job whose submission got no answer exists or does not; when it does, it is owed the
        same.
        """
        for job in self.unanswered:
            if await patiently(lambda job=job: log.load(job.slot)) is not None:  # type: ignore[misc]
                self.accepted.append(job)


async def after(runs: int, ledger: Ledger) -> None:
    """Wait until that many more jobs have begun, and one is under way."""
    enough = len(ledger.runs) + runs
    await ledger.until(
        lambda: len(ledger.runs) >= enough and ledger.under_way(),
        what=f"{runs} more runs",
        within_s=30,
    )


async def rage(
    storm: Storm,
    break_it: Callable[[EventLog], Awaitable[object]],
    times: int,
    *,
    runs_between: int = 40,
) -> Counter[str]:
    """Break something `times` times under load. Gives the counts of all events; what has to hold
    has been looked at.
    """
    async with storm.raging() as log:
        for _ in range(times):
            await after(runs_between, storm.ledger)
            await break_it(log)
        await after(runs_between, storm.ledger)
    return storm.told


async def drop_consumers(log: EventLog, storm: Storm) -> None:
    for lane in storm.lanes:
        await Queue(log.connection, QUEUE).drop(lane)
