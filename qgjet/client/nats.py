"""Straight to NATS: appends to the log, and follows it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from qgjet.client.base import ALL, Batch, Events, Notice, SubmitResult
from qgjet.client.tracker import JobTracker, TrackedJob
from qgjet.config.settings import Settings
from qgjet.domain import subjects
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import JobSpec, Submitted
from qgjet.domain.subjects import STREAM, Lane
from qgjet.domain.submission import hash_of, idempotent_id, make_spec
from qgjet.domain.suite import shared_tags
from qgjet.errors import (
    ArtifactGone,
    CannotReach,
    InvalidInput,
    NatsUnavailable,
    NoConsumerLeft,
    PermissionDenied,
    QgjetError,
    StoreFull,
)
from qgjet.jetstream.connection import Connection, open_connection
from qgjet.store import agent_registry, streams
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.job_queue import Queue
from qgjet.store.suite_log import (
    IdempotencyKeyReused,
    Submission,
    SubmissionRejected,
    announce,
    claim_key,
    submit_suite,
)
from qgjet.support.addresses import without_password

BY = "cli"
PAUSE_S = 0.2
SUBMIT_PATIENCE_S = 30.0


@contextlib.asynccontextmanager
async def nats_client(
    settings: Settings, *, patience_s: float, notice: Notice
) -> AsyncIterator[NatsClient]:
    connection = await _connected(settings)
    try:
        yield NatsClient(
            connection, settings, await _deployment(connection, settings), patience_s, notice
        )
    finally:
        await connection.close()


async def _connected(settings: Settings) -> Connection:
    try:
        return await open_connection(settings.nats_url, name="qgjet-cli", login=settings.nats)
    except PermissionDenied:
        raise  # it answers, and says why not
    except NatsUnavailable as error:
        raise CannotReach(
            f"no NATS server answers at {without_password(settings.nats_url)}: is it running? Start one with `qgjet up`, or set QGJET_NATS_URL"
        ) from error


async def _deployment(connection: Connection, settings: Settings) -> Deployment:
    """The deployment in force. Who comes first sets it up as the settings say; settings without a
    word about the order accept what is there.
    """
    asked = settings.deployment
    fresh = await streams.stream_config(connection, STREAM) is None
    return await streams.ensure(
        connection, asked if fresh or asked.priority_order != Deployment().priority_order else None
    )


class NatsClient:
    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        deployment: Deployment,
        patience_s: float,
        notice: Notice,
    ) -> None:
        self.where = f"NATS at {connection.url}"
        self._connection = connection
        self._log = EventLog(connection)
        self._queue = Queue(connection, settings.queue.agreed(deployment))
        self._settings = settings
        self._deployment = deployment
        self._patience_s = patience_s
        self._notice = notice
        self._lost_at: float | None = None

    # -- submit ------------------------------------------------------------------------------------------------------

    async def submit(self, batch: Batch) -> list[SubmitResult]:
        specs = [self._spec(batch, number) for number in range(len(batch.requests))]
        if batch.key:
            await self._claim_key(batch, specs)
        await self._ensure_lanes(specs)
        if batch.suite_id and not batch.partial:
            return await self._submit_suite(batch, specs)
        answers: list[Accepted | QgjetError | None] = [
            await self._earlier(spec) if batch.key else None for spec in specs
        ]
        submission = self._submission(batch, specs)
        if batch.suite_id:
            await announce(self._log, submission, Counter(spec.org_id for spec in specs))
        await self._append(specs, answers, batch.requests[0].on_duplicate)
        if batch.suite_id:
            await announce(
                self._log,
                submission,
                Counter(
                    spec.org_id
                    for spec, answer in zip(specs, answers, strict=True)
                    if _lost(answer)
                ),
            )
        return [
            _placed(batch, number, spec, answer)
            for number, (spec, answer) in enumerate(zip(specs, answers, strict=True))
        ]

    async def _claim_key(self, batch: Batch, specs: Sequence[JobSpec]) -> None:
        """Raises InvalidInput when the key belongs to another request."""
        alone = len(specs) == 1
        key_id = specs[0].job_id if alone else idempotent_id(specs[0].org_id, f"suite {batch.key}")
        try:
            await claim_key(
                self._log,
                specs[0].org_id,
                key_id,
                specs[0].request_hash if alone else hash_of(batch),
                by=BY,
            )
        except IdempotencyKeyReused as error:
            raise InvalidInput("idempotency_key", str(error)) from error

    async def _submit_suite(self, batch: Batch, specs: Sequence[JobSpec]) -> list[SubmitResult]:
        if batch.key:
            for spec in specs:
                await self._earlier(spec)
        answers: Sequence[Accepted | QgjetError]
        try:
            answers = await submit_suite(
                self._log, self._submission(batch, specs), timeout_s=SUBMIT_PATIENCE_S
            )
        except IdempotencyKeyReused as error:
            raise InvalidInput("idempotency_key", str(error)) from error
        except SubmissionRejected as refused:
            answers = [refused.errors.get(position, refused) for position in range(len(specs))]
        except NatsUnavailable as error:
            answers = [error] * len(specs)
        return [
            _placed(batch, number, spec, answer)
            for number, (spec, answer) in enumerate(zip(specs, answers, strict=True))
        ]

    def _submission(self, batch: Batch, specs: Sequence[JobSpec]) -> Submission:
        return Submission(
            suite_id=batch.suite_id,
            id=idempotent_id(specs[0].org_id, f"suite {batch.key}")
            if batch.key
            else str(uuid.uuid4()),
            specs=specs,
            modes=[request.on_duplicate for request in batch.requests],
            by=BY,
            request_hash=hash_of(batch) if batch.key else "",
            tags=shared_tags([spec.tags for spec in specs]),
        )

    def _spec(self, batch: Batch, number: int) -> JobSpec:
        request = batch.requests[number]
        key = batch.key if len(batch.requests) == 1 else f"{number} {batch.key}"
        return make_spec(
            request,
            job_id=idempotent_id(request.org_id, key) if batch.key else str(uuid.uuid4()),
            now=self._log.clock(),
            deployment=self._deployment,
            defaults=self._settings.job,
            submitted_by=BY,
            request_hash=hash_of(request) if batch.key else "",
        )

    async def _ensure_lanes(self, specs: Sequence[JobSpec]) -> None:
        """Make missing consumers, so that the jobs are found without a janitor too. Who may not
        leaves it to the agents, and to the janitor.
        """
        for lane in sorted({Lane(spec.partition, spec.rank) for spec in specs}):
            if await self._queue.may_ensure(lane):
                with contextlib.suppress(
                    NoConsumerLeft
                ):  # the jobs wait for the janitor, which makes it as soon as another one has gone
                    await self._queue.ensure(lane)

    async def _earlier(self, spec: JobSpec) -> Accepted | None:
        """The answer that the same idempotency key got before, for the same slot. Raises
        InvalidInput when it was another request's.
        """
        for one in await self._log.history(spec.slot):
            if isinstance(one.event, Submitted) and one.event.job_id == spec.job_id:
                if one.event.spec.request_hash != spec.request_hash:
                    raise InvalidInput(
                        "idempotency_key",
                        f"belongs to another request, which made job {spec.job_id}",
                    )
                return Accepted(job_id=spec.job_id, seq=one.seq, replaced=one.event.replaces)
        return None

    async def _append(
        self,
        specs: Sequence[JobSpec],
        answers: list[Accepted | QgjetError | None],
        on_duplicate: OnDuplicate,
    ) -> None:
        """Fill in the answers; what got lost on the way is sent again, which is safe by the job's
        id.
        """
        deadline = asyncio.get_running_loop().time() + SUBMIT_PATIENCE_S
        while todo := [
            number for number, answer in enumerate(answers) if answer is None or _lost(answer)
        ]:
            for number, answer in zip(
                todo,
                await self._log.submit_many([specs[number] for number in todo], on_duplicate),
                strict=True,
            ):
                answers[number] = answer
            if asyncio.get_running_loop().time() >= deadline or any(
                isinstance(answer, StoreFull) for answer in answers
            ):
                return
            if any(map(_lost, answers)):
                await asyncio.sleep(PAUSE_S)

    # -- follow ------------------------------------------------------------------------------------------------------

    async def follow(self, tracker: JobTracker) -> AsyncIterator[Events]:
        filters = sorted(
            {subjects.partition_filter(track.slot.partition) for track in tracker.live}
        )
        async with self._log.tail(tracker.next_seq, filters) as batches:
            async for batch in batches:
                yield [(one.seq, one.event) for one in batch if one.event is not None]

    def check(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._connection.is_connected:
            if self._lost_at is not None:
                self._notice(f"connected to {self.where} again")
            self._lost_at = None
        elif self._lost_at is None:
            self._lost_at = now
            self._notice(
                f"the connection to {self.where} is lost; trying again for {self._patience_s:.0f} s"
            )
        elif now - self._lost_at >= self._patience_s:
            raise CannotReach(
                self._connection.why or f"{self.where} has been away for {self._patience_s:.0f} s"
            )

    # -- the rest ----------------------------------------------------------------------------------------------------

    async def cancel(self, tracks: Sequence[TrackedJob], reason: str, suite_id: str) -> set[str]:
        jobs = await asyncio.gather(
            *(
                self._log.cancel(track.slot, track.job_id, by=BY, reason=reason, suite_id=suite_id)
                for track in tracks
            )
        )
        return {job.job_id for job in jobs if job is not None and not job.cancel_requested}

    async def artifact(self, job_id: str, attempt: int, name: str) -> AsyncGenerator[bytes, None]:
        store = ArtifactStore(self._connection)
        info = await store.stat(object_name(job_id, attempt, name))
        if info is None:
            raise ArtifactGone(f"{name} is not stored any more")
        async for piece in store.get(info):
            yield piece

    async def served(self) -> set[tuple[str, str]] | None:
        try:
            agents = await agent_registry.agents(self._connection)
        except NatsUnavailable:
            return None
        return {
            (target.target, agent.app_version_id or ALL)
            for agent in agents
            if not agent.draining
            for target in agent.targets
        }


def _lost(answer: Accepted | QgjetError | None) -> bool:
    return isinstance(answer, NatsUnavailable) and not isinstance(answer, PermissionDenied)


def _placed(
    batch: Batch, number: int, spec: JobSpec, answer: Accepted | QgjetError | None
) -> SubmitResult:
    request = batch.requests[number]
    if not isinstance(answer, Accepted):
        return SubmitResult(request=request, error=answer or NatsUnavailable("not sent"))
    return SubmitResult(
        request=request,
        job_id=answer.job_id,
        status=answer.status,
        priority=None if answer.attached else spec.priority,
        attached=answer.attached,
        replaced=answer.replaced or None,
        seq=answer.seq,
    )
