"""The event log: append on a version, read a slot's state, follow everything.

The only authority. Appends are fenced: `append` writes exactly after the version it was given, or
not at all.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from qgjet.domain import codec, subjects
from qgjet.domain.decide import Attach, Cancel, Command, OnDuplicate, Submit, decide
from qgjet.domain.events import Event, JobSpec, Requeued, Slot, Status, Submitted, event_type
from qgjet.domain.job import Job, contradiction, fold, state_of
from qgjet.errors import (
    Conflict,
    DuplicateJob,
    NatsUnavailable,
    Overloaded,
    PermissionDenied,
    QgjetError,
    StoreFull,
    UndecodableEvent,
    VersionConflict,
)
from qgjet.jetstream.connection import (
    Connection,
    JetStreamError,
    Msg,
    Subscription,
    read_ack,
    refusal,
    translated,
)
from qgjet.jetstream.direct_get import messages, microseconds
from qgjet.jetstream.login import matches
from qgjet.support.clock import Clock, utc_now, within
from qgjet.support.log_limiter import LogLimiter

log = logging.getLogger(__name__)

APPEND_TIMEOUT_S = 10.0
_WRONG_VERSION = frozenset({10071, 10164})
"""10164: another append to the slot is in flight on a replicated stream."""
_NO_MESSAGE = 10037
NO_CONSUMER_LEFT = 10026
"""max_consumers of the stream, or of the account."""
_ELECTION_NS = 3_500_000_000
"""Somewhat less than the shortest time in which a cluster elects another leader."""
_TRANSIENT = frozenset({429, 503})
_ACK = re.compile(
    r"[^.]*\.[^.]*\.[^.]*\.([^.]*)\.([0-9]{1,20})\.([0-9]{1,20})\.([0-9]{1,20})\.([0-9]{1,20})\.([0-9]{1,20})"
)


class Recorded(Struct, frozen=True, gc=False):
    """One message of the log. `event` is None when this version cannot read it."""

    seq: int
    subject: str
    event: Event | None
    data: bytes
    stored_at: int = 0
    """When the server stored it, by the server's clock: microseconds since 1970 in UTC. The times
    inside of an event are those of its writer.
    """


class Accepted(Struct, frozen=True, kw_only=True):
    """Answer to a submission."""

    job_id: str
    seq: int
    """The log holds the job's `submitted` up to here; a reader that has applied it knows the job.
    """
    attached: bool = False
    """The slot was held by a live job of this id; nothing was written."""
    status: Status = Status.QUEUED
    """Of the job that holds the slot now."""
    replaced: str = ""


class EventLog:
    """Reads and appends on one connection. Stateless: any number may be used side by side."""

    def __init__(self, connection: Connection, clock: Clock = utc_now) -> None:
        self.connection = connection
        self.clock = clock
        self._complaints = LogLimiter(log)

    # -- appending ---------------------------------------------------------------------------------------------------

    async def append(
        self,
        slot: Slot,
        event: Event,
        expected: int,
        *,
        server: str = "",
        timeout_s: float = APPEND_TIMEOUT_S,
    ) -> int:
        """Write `event` as the slot's next one after `expected` (0: the first); gives its sequence.

        Raises VersionConflict, with nothing written, when the slot has moved on. A lost answer is
        resolved by looking: the event that follows `expected` is this one or somebody else's.
        NatsUnavailable means that this was not possible in time, and the event may be there.
        StoreFull, which time alone does not mend, is raised at once.

        `server`: `connection.server` when `expected` was read, if that was not just now. Another server process may have lost the end of the log in a power
        cut and given its sequences to other events, so an `expected` from before raises
        VersionConflict, too: read the slot again.
        """
        prefix = subjects.slot_prefix(slot)
        rank = event.spec.rank if isinstance(event, Submitted | Requeued) else None
        subject = subjects.event_subject(prefix, event_type(event), rank)
        return await self._append(
            prefix,
            subject,
            codec.encode(event),
            expected,
            server or self.connection.server,
            timeout_s,
        )

    async def _append(
        self,
        prefix: str,
        subject: str,
        payload: bytes,
        expected: int,
        server: str,
        timeout_s: float,
    ) -> int:
        deadline = asyncio.get_running_loop().time() + timeout_s
        slot_filter = prefix + ".>"
        headers = {
            "Nats-Expected-Last-Subject-Sequence": str(expected),
            "Nats-Expected-Last-Subject-Sequence-Subject": slot_filter,
        }
        uncertain = False
        while True:
            if server != self.connection.server:
                return await self._resolve(slot_filter, expected, payload, uncertain)
            try:
                ack = read_ack(await self.connection.request(subject, payload, headers=headers))
                if ack.error is None and ack.seq:
                    self.connection.store_full = False
                    return ack.seq
                if ack.error is not None and ack.error.err_code in _WRONG_VERSION:
                    return await self._resolve(slot_filter, expected, payload, uncertain)
                problem = (
                    refusal("the event log", ack.error)
                    if ack.error is not None
                    else NatsUnavailable("the event log does not accept events: no stream")
                )
                self.connection.store_full = isinstance(problem, StoreFull)
                if self.connection.store_full or (
                    ack.error is not None and ack.error.code not in _TRANSIENT
                ):
                    raise problem
            except (JetStreamError, StoreFull):
                raise
            except NatsUnavailable as lost:
                uncertain, problem = True, lost
            await self.pause(deadline, problem)

    async def _resolve(
        self, slot_filter: str, expected: int, payload: bytes, uncertain: bool
    ) -> int:
        if uncertain:
            follower = await self.next_of(slot_filter, expected + 1)
            if follower is not None and follower.data == payload:
                return follower.seq
        raise VersionConflict(f"{slot_filter} has moved on from {expected}")

    async def pause(self, deadline: float, problem: NatsUnavailable) -> None:
        """Before another try: a moment, and until the connection is back. Raises `problem` if that
        cannot help, or after `deadline`, by the loop's clock.
        """
        loop = asyncio.get_running_loop()
        if isinstance(problem, PermissionDenied) or loop.time() >= deadline:
            raise problem
        await asyncio.sleep(0.05)
        try:
            await self.connection.wait_connected(deadline - loop.time())
        except NatsUnavailable:
            raise problem from None

    async def execute(
        self,
        slot: Slot,
        command: Command,
        job: Job | None,
        *,
        server: str = "",
        timeout_s: float = APPEND_TIMEOUT_S,
    ) -> tuple[Event, int]:
        """Decide on `job` and append. On a lost race, or a refusal that rests on an old `job`,
        reload and decide again.

        `server`: `connection.server` when `job` was read, if that was not just now.
        Raises Conflict when the slot's present state does not allow the command, NatsUnavailable
        when the log does not answer for `timeout_s`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        version = job.version if job else 0
        while True:
            try:
                event = decide(command, job, self.clock())
                return event, await self.append(
                    slot, event, version, server=server, timeout_s=timeout_s
                )
            except VersionConflict as lost:
                give_up_race(deadline, lost)
                server = self.connection.server
                job, version = await self._reload(slot, deadline)
            except Conflict:
                server = self.connection.server
                known, (job, version) = job, await self._reload(slot, deadline)
                if job == known:
                    raise

    async def _reload(self, slot: Slot, deadline: float) -> tuple[Job | None, int]:
        while True:
            try:
                return await self.read(slot)
            except NatsUnavailable as problem:
                await self.pause(deadline, problem)

    async def cancel(
        self, slot: Slot, job_id: str, *, by: str, reason: str = "", suite_id: str = ""
    ) -> Job | None:
        """Ask for the end of the slot's job, if it is `job_id` and live: gives its state after
        that, None otherwise. A second call writes nothing.

        With `suite_id` only that suite stops waiting: the job goes on, without `cancel_requested`,
        while others wait for it.
        """
        deadline = asyncio.get_running_loop().time() + APPEND_TIMEOUT_S
        while True:
            server = self.connection.server
            job = await self.load(slot)
            if job is None or job.job_id != job_id or not job.live:
                return None
            if job.cancel_requested:
                return job
            try:
                event = decide(Cancel(by, reason, suite_id), job, self.clock())
            except Conflict:  # the suite does not wait for it
                return job
            try:
                return state_of(event, await self.append(slot, event, job.version, server=server))
            except VersionConflict as lost:
                give_up_race(deadline, lost)

    async def submit(
        self, spec: JobSpec, on_duplicate: OnDuplicate = OnDuplicate.ATTACH
    ) -> Accepted:
        """Submit one job. Optimistic: an empty slot costs one message and no read.

        A second call with the same `job_id` finds the first one's job, live, finished or replaced,
        and writes nothing. Raises DuplicateJob under `reject`.
        """
        job: Job | None = None
        version = searched = 0
        server = self.connection.server
        deadline = asyncio.get_running_loop().time() + APPEND_TIMEOUT_S
        while True:
            if job is not None and job.job_id == spec.job_id:
                return Accepted(job_id=spec.job_id, seq=job.version)
            if version > searched:
                earlier, searched = await self._earlier(spec, searched), version
                if earlier is not None:
                    return earlier
            try:
                event = decide(Submit(spec, on_duplicate), job, self.clock())
            except DuplicateJob as duplicate:
                if on_duplicate is OnDuplicate.REJECT or job is None:
                    raise
                joined = await self.attachment(spec, job)
                if joined is None:
                    return Accepted(
                        job_id=duplicate.job_id, seq=job.version, attached=True, status=job.status
                    )
                event = joined
            try:
                seq = await self.append(spec.slot, event, version, server=server)
            except VersionConflict as lost:
                give_up_race(deadline, lost)
                server = self.connection.server
                job, version = await self.read(spec.slot)
                continue
            if not isinstance(event, Submitted):
                return Accepted(job_id=event.job_id, seq=seq, attached=True, status=event.status)
            return Accepted(job_id=spec.job_id, seq=seq, replaced=event.replaces)

    async def attachment(self, spec: JobSpec, job: Job) -> Event | None:
        """The event by which a submission joins an active job; None when it brings nothing new, or
        the job's own submission cannot be read.
        """
        held = await self.get(job.ticket)
        if held is None or not isinstance(held.event, Submitted | Requeued):
            return None
        try:
            return decide(Attach(spec, held.event.spec), job, self.clock())
        except Conflict:
            return None

    async def _earlier(self, spec: JobSpec, after: int) -> Accepted | None:
        """What the same submission was answered before, if others have used the slot since. One
        read for each submission of the slot.
        """
        submissions = subjects.event_subject(subjects.slot_prefix(spec.slot), "submitted") + ".*"
        while (one := await self.next_of(submissions, after + 1)) is not None:
            if isinstance(one.event, Submitted) and one.event.job_id == spec.job_id:
                return Accepted(job_id=spec.job_id, seq=one.seq, replaced=one.event.replaces)
            after = one.seq
        return None

    async def submit_many(
        self,
        specs: Sequence[JobSpec],
        on_duplicate: OnDuplicate = OnDuplicate.ATTACH,
        *,
        window: int = 512,
    ) -> list[Accepted | QgjetError]:
        """Submit many jobs with at most `window` in flight; one answer each, in order. A job that
        was not accepted has its error in its place.
        """
        answers: list[Accepted | QgjetError] = [NatsUnavailable("not sent")] * len(specs)
        positions = iter(range(len(specs)))

        async def work() -> None:
            for position in positions:
                try:
                    answers[position] = await self.submit(specs[position], on_duplicate)
                except QgjetError as error:
                    answers[position] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(window, len(specs))):
                group.create_task(work())
        return answers

    async def forget(self, prefix: str, before_seq: int) -> int:
        """Remove the events of a slot or a suite (its subject before the event) below a sequence,
        for good; gives their number. Later ones stay.

        Who decides on a version that is gone is refused like everybody whom another append
        overtook, and an empty slot expects 0 again.
        """
        answer = await self.connection.api(
            f"STREAM.PURGE.{subjects.STREAM}",
            {"filter": prefix + ".>", "seq": before_seq},
            timeout_s=30.0,
        )
        with translated("a purge of the log"):
            return int(answer["purged"])

    # -- reading -----------------------------------------------------------------------------------------------------

    async def load(self, slot: Slot) -> Job | None:
        """The slot's state as the stream's leader knows it; None for a slot without a job."""
        return (await self.read(slot))[0]

    async def read(self, slot: Slot) -> tuple[Job | None, int]:
        """The slot's state, and the version that the next append has to expect: 0 for an empty
        slot.
        """
        last = await self.last(slot)
        if last is None:
            return None, 0
        wrong = (
            "it is not known to this version" if last.event is None else contradiction(last.event)
        )
        if last.event is not None and wrong is None:
            return state_of(last.event, last.seq), last.seq
        self._complaints.warn(
            f"event {last.seq} of {last.subject} does not count, the events before it do: {wrong}"
        )
        history = await self.history(slot)
        job = fold((one.seq, one.event) for one in history if one.event is not None)
        return None if job is None else msgspec.structs.replace(
            job, version=history[-1].seq
        ), history[-1].seq

    async def last(self, slot: Slot) -> Recorded | None:
        """The slot's last event, from the stream's leader."""
        return await self.last_of(subjects.slot_filter(slot))

    async def quiet_s(self, slot: Slot) -> float:
        """How long ago the slot's last event was stored, by the server's clock alone: those of the
        agents may be wrong. 0 for an empty slot.
        """
        try:
            answer = await self.connection.api(
                f"STREAM.MSG.GET.{subjects.STREAM}", {"last_by_subj": subjects.slot_filter(slot)}
            )
        except JetStreamError as error:
            if error.error.err_code == _NO_MESSAGE:
                return 0.0
            raise
        info = await self.connection.api(f"STREAM.INFO.{subjects.STREAM}")
        with translated("the time of an event"):
            stored, now = (
                msgspec.convert(text, datetime) for text in (answer["message"]["time"], info["ts"])
            )
            return (now - stored).total_seconds()

    async def last_of(self, subject_filter: str) -> Recorded | None:
        """The last message that the filter matches."""
        return await self._get({"last_by_subj": subject_filter})

    async def history(self, slot: Slot, *, from_seq: int = 1) -> list[Recorded]:
        """All events of a slot, oldest first, from the stream's leader."""
        slot_filter, found, seq = subjects.slot_filter(slot), [], from_seq
        while (one := await self.next_of(slot_filter, seq)) is not None:
            found.append(one)
            seq = one.seq + 1
        return found

    async def next_of(self, subject_filter: str, from_seq: int) -> Recorded | None:
        """The first message at or after `from_seq` that the filter matches."""
        return await self._get({"seq": from_seq, "next_by_subj": subject_filter})

    async def get(self, seq: int) -> Recorded | None:
        return await self._get({"seq": seq})

    async def _get(self, query: dict[str, Any]) -> Recorded | None:
        try:
            answer = await self.connection.api(f"STREAM.MSG.GET.{subjects.STREAM}", query)
        except JetStreamError as error:
            if error.error.err_code == _NO_MESSAGE:
                return None
            raise
        with translated("a message of the log"):
            message = answer["message"]
            return recorded(
                message["seq"],
                message["subject"],
                base64.b64decode(message.get("data", "")),
                microseconds(message["time"]),
            )

    async def state(self) -> StreamState:
        """How far the log reaches, which one it is, and how many consumers read it."""
        info = await self.connection.api(f"STREAM.INFO.{subjects.STREAM}")
        with translated("the state of the log"):
            return StreamState(
                first_seq=info["state"]["first_seq"],
                last_seq=info["state"]["last_seq"],
                created=info["created"],
                leads=_leads(info.get("cluster") or {}),
                now=msgspec.convert(info["ts"], datetime),
                consumers=info["state"].get("consumer_count", 0),
                max_consumers=max(info["config"].get("max_consumers", 0), 0),
            )

    def tail(
        self, from_seq: int, filters: Sequence[str] = (subjects.ALL_JOBS,), *, batch: int = 1000
    ) -> Tail:
        """Follow the log from `from_seq` on: `async with log.tail(1) as batches: async for batch in
        batches`.
        """
        return Tail(self, from_seq, filters, batch)


def give_up_race(deadline: float, lost: VersionConflict) -> None:
    """Before another try after a lost race. Raises Overloaded after `deadline`, by the loop's
    clock: one writer must not lose for ever.
    """
    if asyncio.get_running_loop().time() >= deadline:
        raise Overloaded(
            f"{lost}: each time another writer was first, so nothing was written. Try again later"
        ) from lost


class StreamState(Struct, frozen=True, kw_only=True):
    first_seq: int
    last_seq: int
    created: str
    """When it was made: its identity."""
    now: datetime
    """The server's clock."""
    consumers: int = 0
    """Partition queues and readers."""
    max_consumers: int = 0
    """The server refuses more than these; 0: no limit is known."""

    leads: bool = True
    """Whether who answered is the leader for certain. One that is cut off from the others still
    thinks so for a while, and knows nothing of its successor's.
    """

    @property
    def is_crowded(self) -> bool:
        """Whether four fifths of the consumers that the server allows are in use."""
        return 0 < 0.8 * self.max_consumers <= self.consumers


def _leads(cluster: dict[str, Any]) -> bool:
    """A follower may become the leader when it has heard nothing for 4 s (nats-server's shortest
    election timeout), not before: a leader that has heard of most of them since is the only one. A
    new leader knows 0 of those that it has not heard of at all.
    """
    replicas = cluster.get("replicas") or []
    heard = len(
        [
            one
            for one in replicas
            if one.get("active", _ELECTION_NS) < _ELECTION_NS
            and (one["active"] > 0 or one.get("current"))
        ]
    )
    return 2 * (heard + 1) > len(replicas) + 1


def recorded(seq: int, subject: str, data: bytes, stored_at: int = 0) -> Recorded:
    try:
        event = codec.decode(data)
    except UndecodableEvent as error:
        log.debug(
            "message %d on %s cannot be read: %s", seq, subject, error
        )  # who folds or projects it warns, once
        return Recorded(seq, subject, None, data, stored_at)
    return Recorded(seq, subject, event, data, stored_at)


class AckSubject(Struct, frozen=True, gc=False):
    """What JetStream tells about a delivery in its reply subject,
    `$JS.ACK.<stream>.<consumer>.<…>`.
    """

    consumer: str
    num_delivered: int
    stream_seq: int
    consumer_seq: int
    stored_at: int
    """Microseconds since 1970 in UTC, by the server's clock."""
    num_pending: int


def parse_ack_subject(reply: str) -> AckSubject | None:
    """Nine tokens: the form of servers below 2.16. None for anything else, such as a message that
    somebody sent to an inbox.
    """
    match = _ACK.fullmatch(reply)
    if match is None:
        return None
    consumer, delivered, stream_seq, consumer_seq, stored_ns, pending = match.groups()
    return AckSubject(
        consumer,
        int(delivered),
        int(stream_seq),
        int(consumer_seq),
        int(stored_ns) // 1000,
        int(pending),
    )


class Tail:
    """Batches of the log as they come: first what is there, then what is appended. Ends only when
    it is closed.

    An ephemeral pull consumer without acknowledgements; whatever breaks (server restart, lost
    consumer, dropped message) it starts again after the last sequence that was handed out, so every
    message comes once and in order. Raises PermissionDenied when the server does not let us follow.

    While the stream has no consumer left for a reader, it reads in direct gets, two batches a
    second at most when nothing is behind: partition queues never keep a projector from catching up,
    nor a reader from its log.
    """

    PULL_EXPIRES_S = 30.0
    HEARTBEAT_S = 1.0
    SILENCE_S = 3.5
    LOOK_S = 0.5
    PAUSE_S, MAX_PAUSE_S = 0.1, 2.0
    CONSUMER_AGAIN_S = 10.0
    MAX_DIRECT_BYTES = 4 * 1024 * 1024

    def __init__(
        self, event_log: EventLog, from_seq: int, filters: Sequence[str], batch: int
    ) -> None:
        self._log = event_log
        self._connection = event_log.connection
        self._filters = list(filters)
        self._batch = batch
        self._next = from_seq
        self._buffer: list[Recorded] = []
        self._arrived = asyncio.Event()
        self._expected_consumer_seq = 1
        self._outstanding = 0
        self._last_sign = 0.0
        self._broken = False
        self._consumer = ""
        self._direct_until = 0.0
        """Until this time of the loop no consumer is asked for: the stream had none left."""
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._reconnects = 0
        self._iterator: AsyncGenerator[list[Recorded], None] | None = None
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> AsyncIterator[list[Recorded]]:
        self._iterator = self._batches()
        return self._iterator

    async def __aexit__(self, *_: object) -> None:
        if self._iterator is not None:
            await self._iterator.aclose()
        await self._drop()

    async def _batches(self) -> AsyncGenerator[list[Recorded], None]:
        pause_s, told = self.PAUSE_S, ""
        while True:
            try:
                if self._consumer == "" and self._loop.time() >= self._direct_until:
                    await self._start()
                taken = await self._take() if self._consumer else await self._take_directly()
                pause_s, told = self.PAUSE_S, ""
            except PermissionDenied:
                raise
            except NatsUnavailable as error:
                if str(error) != told:
                    log.warning("the tail waits for the server: %s", error)
                    told = str(error)
                await self._drop()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self.MAX_PAUSE_S)
                with contextlib.suppress(NatsUnavailable):
                    await self._connection.wait_connected(5.0)
                continue
            if taken:
                self._next = max(self._next, taken[-1].seq + 1)
                yield taken

    async def _start(self) -> None:
        self._buffer, self._expected_consumer_seq, self._outstanding, self._broken = [], 1, 0, False
        self._reconnects = self._connection.reconnects
        self._inbox = self._connection.client.new_inbox()
        subscription = await self._connection.subscribe(self._inbox, self._receive, unlimited=True)
        self._subscription = subscription
        config = {
            "description": "qgjet: follows the log",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(self._next, 1),
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": self._filters,
            "max_waiting": 8,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 60_000_000_000,
        }
        try:
            answer = await self._connection.api(
                f"CONSUMER.CREATE.{subjects.STREAM}",
                {"stream_name": subjects.STREAM, "config": config},
            )
        except JetStreamError as error:
            if error.error.err_code != NO_CONSUMER_LEFT:
                raise
            log.warning(
                "the tail reads without a consumer: %s has as many as its max_consumers allows",
                subjects.STREAM,
            )
            await self._drop()
            self._direct_until = self._loop.time() + self.CONSUMER_AGAIN_S
            return
        with translated("a reader of the log"):
            self._consumer = answer["name"]
        self._last_sign = self._loop.time()
        await self._pull()

    async def _pull(self) -> None:
        """Keep up to two pulls open, so that the server never waits for the next one; none while
        the reader is behind.
        """
        while self._outstanding <= self._batch and len(self._buffer) < 8 * self._batch:
            self._outstanding += self._batch
            body = {
                "batch": self._batch,
                "expires": int(self.PULL_EXPIRES_S * 1e9),
                "idle_heartbeat": int(self.HEARTBEAT_S * 1e9),
            }
            await self._connection.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{subjects.STREAM}.{self._consumer}",
                msgspec.json.encode(body),
                reply=self._inbox,
            )

    async def _receive(self, message: Msg) -> None:
        self._last_sign = self._loop.time()
        if not message.reply:
            self._status(message)
            return
        meta = parse_ack_subject(message.reply)
        if meta is None:
            return
        if self._broken or meta.consumer_seq != self._expected_consumer_seq:
            self._broken = True
        else:
            self._expected_consumer_seq += 1
            self._outstanding -= 1
            self._buffer.append(
                recorded(meta.stream_seq, message.subject, message.data, meta.stored_at)
            )
        self._arrived.set()

    def _status(self, message: Msg) -> None:
        status = (message.headers or {}).get("Status", "")
        if status == "408":
            left = (message.headers or {}).get("Nats-Pending-Messages", str(self._batch))
            self._outstanding -= int(left)
        elif status != "100":
            self._broken = True
        self._arrived.set()

    async def _take_directly(self) -> list[Recorded]:
        """One batch, or nothing after a pause. Of several filters everything is read, and what none
        of them matches is stepped over.
        """
        subject = self._filters[0] if len(self._filters) == 1 else subjects.ALL_EVENTS
        found = await messages(
            self._connection,
            subjects.STREAM,
            subject,
            self._next - 1,
            batch=self._batch,
            max_bytes=self.MAX_DIRECT_BYTES,
        )
        if not found:
            await asyncio.sleep(self.LOOK_S)
            return []
        self._next = found[-1].seq + 1
        return [
            recorded(*one)
            for one in found
            if any(matches(pattern, one.subject) for pattern in self._filters)
        ]

    async def _take(self) -> list[Recorded]:
        await within(self.LOOK_S, self._arrived)
        self._arrived.clear()
        taken, self._buffer = self._buffer, []
        silent = self._loop.time() - self._last_sign >= self.SILENCE_S
        if (
            self._broken or silent or self._connection.reconnects != self._reconnects
        ):  # a pull dies silently with its server
            await self._drop()
        else:
            await self._pull()
        return taken

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, ""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._connection.unsubscribe(subscription)
        if consumer:
            with contextlib.suppress(NatsUnavailable):
                await self._delete(consumer)

    async def _delete(self, consumer: str) -> None:
        """Few roles may: for the others it goes by itself, a minute after its last reader."""
        subject = f"CONSUMER.DELETE.{subjects.STREAM}.{consumer}"
        if self._connection.is_connected and await self._connection.may_publish(
            f"$JS.API.{subject}", timeout_s=1.0
        ):
            await self._connection.api(subject, timeout_s=1.0)
