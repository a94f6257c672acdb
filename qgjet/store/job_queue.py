"""The queue: durable consumers on the log, one per lane, and the deliveries they hand out.

A delivery is a hint that a job may be run. It proves nothing: the agent's `started` on the log
does, and an acknowledgement that comes late or from a zombie changes no job. What a consumer
forgets (it was deleted, it gave up after `max_deliver`) the janitor brings back from the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from qgjet.config.settings import QueueSettings
from qgjet.domain import subjects
from qgjet.domain.events import JobSpec, Requeued, Submitted
from qgjet.domain.subjects import STREAM, Lane
from qgjet.errors import NatsUnavailable, NoConsumerLeft, PermissionDenied
from qgjet.jetstream.connection import Connection, JetStreamError, Msg, translated
from qgjet.store.event_log import NO_CONSUMER_LEFT, AckSubject, parse_ack_subject, recorded
from qgjet.support.clock import lease_time
from qgjet.support.log_limiter import LogLimiter

log = logging.getLogger(__name__)

ACK_WAIT_SLACK_S = 1.0
"""JetStream keeps the time of a delivery in whole seconds: after a restart it hands messages out
again up to a second early.
"""
UNREADABLE_AGAIN_S = 60.0
MAX_UNREADABLE = 100
"""Messages of a newer version that one `take` steps over."""
MAX_ACK_PENDING = 1000
"""Jobs of one lane that can run at once, over all agents."""
TAKE_TIMEOUT_S = 1.0
_PAGE = 256
_NO_CONSUMER = frozenset({"409", "503"})
_NOT_FOUND = 10014
_NOT_CREATED = 10012
"""Among others, when the server still removes the files of the consumer that had the name before.
"""
_DOES_NOT_EXIST = 10149
_GOING = (_NOT_CREATED, _NOT_FOUND, _DOES_NOT_EXIST)
"""Of a consumer that is being deleted. A single nats-server 2.15 removes its files meanwhile, also
those of the new one with its name.
"""
CREATE_TRIES, CREATE_PAUSE_S = 10, 0.1
_OTHER_SETTINGS = 10148
"""The consumer is there, and not as asked for."""
_NANOS = 1_000_000_000


class QueueState(Struct, frozen=True, kw_only=True):
    """A lane as its consumer describes it."""

    lane: Lane
    pending: int
    """Not delivered yet."""
    unacknowledged: int
    """Delivered: running, or waiting for a redelivery."""
    since: int
    """Stream sequence of the last delivery: what waits is younger."""
    last_active: datetime
    """When the consumer delivered last, or was made."""
    ack_wait_ns: int
    max_deliver: int
    usable: bool = True
    """Whether it can serve as the lane's queue: another program can make a consumer of that name,
    and an operator can change one.
    """


class _Config(Struct, frozen=True):
    """What matters in a consumer's configuration. The program that made it may have left out any of
    it.
    """

    ack_policy: str = ""
    deliver_policy: str = ""
    filter_subject: str = ""
    deliver_subject: str = ""
    headers_only: bool = False
    priority_groups: tuple[str, ...] | None = None
    ack_wait: int = 0
    max_deliver: int = 0

    def serves(self, lane: Lane) -> bool:
        """Whether a consumer like this delivers all jobs of the lane to the agents that pull, and
        again without an acknowledgement.
        """
        return (
            (self.ack_policy, self.deliver_policy, self.filter_subject)
            == ("explicit", "all", subjects.lane_filter(lane))
            and not self.deliver_subject
            and not self.headers_only
            and not self.priority_groups
        )


class _Delivered(Struct, frozen=True):
    stream_seq: int = 0
    last_active: datetime | None = None


class _Consumer(Struct, frozen=True):
    """A consumer as the server describes it."""

    config: _Config = _Config()
    delivered: _Delivered = _Delivered()
    created: datetime = datetime.min.replace(tzinfo=UTC)
    num_pending: int = 0
    num_ack_pending: int = 0


class Delivery(Struct, frozen=True, kw_only=True):
    """One message of a lane: the submission `spec`, with what JetStream says about it."""

    lane: Lane
    event: Submitted | Requeued
    meta: AckSubject
    reply: str
    connection: Connection
    asked_at: float
    """`lease_time()` when the pull was sent: the visibility timeout cannot have begun earlier."""

    @property
    def seq(self) -> int:
        """The ticket, if it is still in force."""
        return self.meta.stream_seq

    @property
    def spec(self) -> JobSpec:
        return self.event.spec

    async def ack(self) -> None:
        """Not confirmed: a lost one brings the message back, and its ticket says that it is over."""
        await self.connection.publish(self.reply, b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Give it back, not to be delivered before `delay_s`."""
        await self.connection.publish(self.reply, _nak(delay_s))

    async def extend(self, timeout_s: float) -> None:
        """Start the visibility timeout anew. Confirmed by the server; raises NatsUnavailable when
        it is not.
        """
        await self.connection.request(self.reply, b"+WPI", timeout_s=timeout_s)


class Queue:
    """Lanes and deliveries on one connection."""

    def __init__(self, connection: Connection, settings: QueueSettings) -> None:
        self.connection = connection
        self.settings = settings
        self._inboxes: list[_PullInbox] = []
        self._ensured: set[Lane] = set()
        self._complaints = LogLimiter(log)

    async def ensure(self, lane: Lane) -> None:
        """Make the lane's consumer if there is none, and make its leases longer if ours are.
        Idempotent, about 1.3 ms.

        Raises NoConsumerLeft at the stream's limit.
        """
        await _patiently(lambda: self._create(lane))
        self._ensured.add(lane)

    async def _create(self, lane: Lane) -> None:
        try:
            await self._put(lane, "create")
        except JetStreamError as error:
            # not created: it may be there, without the files that it had: then it works until the
            # next start of the server, which forgets it
            if error.error.err_code not in (_OTHER_SETTINGS, _NOT_CREATED):
                raise
            await self._adopt(lane)

    async def may_ensure(self, lane: Lane) -> bool:
        """Whether the NATS user may make the lane's consumer. Who only submits may leave it to
        agents and the janitor.
        """
        return await self.connection.may_publish(f"$JS.API.{_create_subject(lane)}")

    async def _adopt(self, lane: Lane) -> None:
        """Use the consumer that is there. One that waits less than our heartbeats count on would
        hand our jobs on; one that waits longer does no harm.
        """
        config = _described(
            await self.connection.api(f"CONSUMER.INFO.{STREAM}.{subjects.lane_consumer(lane)}")
        ).config
        if not config.serves(lane):
            await self._replace(lane, "another program made or changed it")
        elif config.ack_wait < self._ack_wait_ns:
            await self.renew(lane)

    async def renew(self, lane: Lane) -> None:
        """Make the lane's consumer, or give the one that is there the settings in force."""
        try:
            await self._put(lane, "")
        except JetStreamError as error:
            if error.error.err_code != _NOT_CREATED:
                raise
            await self._replace(lane, "its files are gone")

    async def _replace(self, lane: Lane, why: str) -> None:
        """Make a new consumer in the place of one that cannot serve. Not by an update: what such a
        consumer has passed over stays passed over.
        """
        name = subjects.lane_consumer(lane)
        if not await self.connection.may_publish(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}"):
            raise NatsUnavailable(
                f"consumer {name} on {STREAM} cannot hand out jobs as it should: {why}. The janitor replaces it, or an operator deletes it"
            )
        log.warning(
            "consumer %s on %s is replaced: it cannot hand out jobs as it should, because %s",
            name,
            STREAM,
            why,
        )
        await self.drop(lane)
        await _patiently(lambda: self._put(lane, "create"))

    async def _put(self, lane: Lane, action: str) -> None:
        config = self._config(lane, subjects.lane_consumer(lane))
        try:
            await self.connection.api(
                _create_subject(lane), {"stream_name": STREAM, "config": config, "action": action}
            )
        except JetStreamError as error:
            if error.error.err_code == NO_CONSUMER_LEFT:
                raise NoConsumerLeft(
                    f"no consumer for {lane}: {STREAM} has as many as its max_consumers allows. It is created when others have gone"
                ) from error
            raise

    def is_current(self, state: QueueState) -> bool:
        """Whether the lane's consumer has the settings in force."""
        return state.usable and (state.ack_wait_ns, state.max_deliver) == (
            self._ack_wait_ns,
            self.settings.max_deliver,
        )

    @property
    def _ack_wait_ns(self) -> int:
        return int((self.settings.visibility_timeout_s + ACK_WAIT_SLACK_S) * _NANOS)

    def _config(self, lane: Lane, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "durable_name": name,
            "filter_subject": subjects.lane_filter(lane),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": self._ack_wait_ns,
            "max_deliver": self.settings.max_deliver,
            "max_ack_pending": MAX_ACK_PENDING,
            "replay_policy": "instant",
        }

    async def drop(self, lane: Lane) -> None:
        """Delete the lane's consumer. Whoever needs it makes it again; nothing is lost."""
        try:
            await self.connection.api(f"CONSUMER.DELETE.{STREAM}.{subjects.lane_consumer(lane)}")
        except JetStreamError as error:
            if error.error.err_code != _NOT_FOUND:
                raise

    async def take(self, lane: Lane, wait_s: float = 0.0) -> Delivery | None:
        """One message, or None when none came within `wait_s`. Makes the consumer when it is
        missing.

        What this version cannot read is given back for a newer agent, and the next message is
        tried.
        """
        if lane not in self._ensured:
            await self.ensure(lane)
        for _ in range(MAX_UNREADABLE):
            asked_at = lease_time()
            message = await self._next(lane, wait_s)
            if message is not None and not message.reply and _status(message) in _NO_CONSUMER:
                await self.ensure(lane)
                message = await self._next(lane, wait_s)
            if message is None or not message.reply:
                return None
            delivery = await self._delivery(lane, message, asked_at)
            if delivery is not None:
                return delivery
        return None

    async def _next(self, lane: Lane, wait_s: float) -> Msg | None:
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{subjects.lane_consumer(lane)}"
        body = (
            b'{"batch":1,"expires":%d}' % int(wait_s * _NANOS)
            if wait_s
            else b'{"batch":1,"no_wait":true}'
        )
        inbox = self._inboxes.pop() if self._inboxes else await _PullInbox.open(self.connection)
        try:
            return await inbox.ask(subject, body, wait_s + TAKE_TIMEOUT_S, self._late)
        finally:
            self._inboxes.append(inbox)

    async def _late(self, message: Msg) -> None:
        """Give back unseen what came after its pull was given up. Not at once: a second delivery of
        a job that runs would say that its lease is over.
        """
        await self.connection.publish(message.reply, _nak(self.settings.visibility_timeout_s))

    async def _delivery(self, lane: Lane, message: Msg, asked_at: float) -> Delivery | None:
        meta = parse_ack_subject(message.reply)
        if meta is None:  # sent by somebody else
            return None
        if meta.consumer != subjects.lane_consumer(lane):  # the late answer to an earlier pull
            await self._late(message)
            return None
        event = recorded(meta.stream_seq, message.subject, message.data).event
        if not isinstance(event, Submitted | Requeued):
            self._complaints.warn(
                f"message {meta.stream_seq} of {lane} cannot be run by this version; left to a newer agent"
            )
            await self.connection.publish(message.reply, _nak(UNREADABLE_AGAIN_S))
            return None
        if not subjects.is_about(message.subject, event.spec.slot):
            log.error(
                "message %d of %s is about another slot than its subject says, so no writer of ours has sent it: given up",
                meta.stream_seq,
                lane,
            )
            await self.connection.publish(
                message.reply, b"+TERM it is about another slot than its subject says"
            )  # the janitor hears of it, and ends the job
            return None
        return Delivery(
            lane=lane,
            event=event,
            meta=meta,
            reply=message.reply,
            connection=self.connection,
            asked_at=asked_at,
        )

    async def lanes(self) -> list[QueueState]:
        """All lanes that have a consumer, with their depths. 18 ms at 1,000 of them."""
        found: list[QueueState] = []
        total, offset = 1, 0
        while offset < total:
            page = await self.connection.api(f"CONSUMER.LIST.{STREAM}", {"offset": offset})
            with translated("the list of consumers"):
                total = int(page["total"])
                consumers = page.get("consumers") or []
                found += [state for state in map(lane_state, consumers) if state is not None]
            offset += max(len(consumers), 1)
        self._ensured &= {
            state.lane for state in found if state.usable
        }  # those that are gone are made again, and forgotten here
        return found

    async def listen(
        self, target: str, on_bell: Callable[[Lane], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Hear that a lane of `target` has work, as one of all listeners each time; gives the way
        to stop listening.

        A bell is a hint: it rings before the event is stored, may be missed and may be wrong. Those
        that the server has sent before it knows that nobody listens here any more are still heard:
        they were for one listener only, and nobody else will hear of them.
        """

        async def ring(message: Msg) -> None:
            lane = subjects.parse_bell(message.subject)
            if lane is not None:
                await on_bell(lane)

        filters = (subjects.target_filter(target), subjects.bell_filter(target))
        # a group per filter: one queue name over two filters would be one group, and agents of two
        # targets would take each other's bells
        subscriptions = [
            await self.connection.subscribe(one, ring, queue=_group(one)) for one in filters
        ]

        async def stop() -> None:
            await asyncio.gather(*map(self.connection.stop_listening, subscriptions))

        return stop

    async def ring(self, lane: Lane) -> None:
        """Tell one idle agent, if there is any, that more waits in `lane` than this one can take."""
        await self.connection.publish(subjects.bell_subject(lane))


def _create_subject(lane: Lane) -> str:
    """With the filter in it: so a server can hold a role to jobs."""
    return f"CONSUMER.CREATE.{STREAM}.{subjects.lane_consumer(lane)}.{subjects.lane_filter(lane)}"


def _group(subject_filter: str) -> str:
    return "qg-bell-" + hashlib.sha256(subject_filter.encode()).hexdigest()[:16]


async def _patiently(create: Callable[[], Awaitable[None]]) -> None:
    """Create a consumer, again and again while the one before it is being deleted. Raises what the
    last try raises.
    """
    for _ in range(CREATE_TRIES - 1):
        try:
            return await create()
        except JetStreamError as error:
            if error.error.err_code not in _GOING:
                raise
            await asyncio.sleep(CREATE_PAUSE_S)
    return await create()


def _nak(delay_s: float) -> bytes:
    return b"-NAK" if delay_s <= 0 else b'-NAK {"delay": %d}' % int(delay_s * _NANOS)


def _status(message: Msg) -> str:
    return (message.headers or {}).get("Status", "")


def lane_state(info: dict[str, Any]) -> QueueState | None:
    lane = subjects.parse_consumer(str(info.get("name", "")))
    if lane is None:
        return None
    consumer = _described(info)
    return QueueState(
        lane=lane,
        pending=consumer.num_pending,
        unacknowledged=consumer.num_ack_pending,
        since=consumer.delivered.stream_seq,
        ack_wait_ns=consumer.config.ack_wait,
        max_deliver=consumer.config.max_deliver,
        last_active=consumer.delivered.last_active or consumer.created,
        usable=consumer.config.serves(lane),
    )


def _described(info: dict[str, Any]) -> _Consumer:
    """One that cannot be read serves no lane."""
    try:
        return msgspec.convert(info, _Consumer)
    except msgspec.ValidationError:
        return _Consumer()


def _end(answer: asyncio.Future[Msg | None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _refuse(answer: asyncio.Future[Msg | None], error: PermissionDenied) -> None:
    if not answer.done():
        answer.set_exception(error)


class _PullInbox:
    """Where the answer to one pull at a time arrives. Deliveries come under their own subject, so
    pulls cannot share the inbox of the connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._subject = connection.client.new_inbox()
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[Msg | None] | None = None
        self._late: Callable[[Msg], Awaitable[None]] | None = None

    @classmethod
    async def open(cls, connection: Connection) -> _PullInbox:
        inbox = cls(connection)
        await connection.subscribe(inbox._subject, inbox._receive)
        return inbox

    async def ask(
        self, subject: str, body: bytes, timeout_s: float, late: Callable[[Msg], Awaitable[None]]
    ) -> Msg | None:
        """The message or status that answers the pull; None when nothing does.

        A consumer at max_ack_pending does not answer at all. What comes too late goes to `late`, or
        is the answer to the next pull.
        """
        self._late = late
        self._answer = answer = self._loop.create_future()
        timer = self._loop.call_later(timeout_s, _end, answer)  # half the cost of asyncio.timeout
        try:
            with self._connection.when_refused(subject, partial(_refuse, answer)):
                await self._connection.publish(subject, body, reply=self._subject)
                message: Msg | None = await answer
        finally:
            timer.cancel()
            self._answer = None
        if message is None and not self._connection.is_connected:
            raise NatsUnavailable("the connection broke during a pull")
        return message

    async def _receive(self, message: Msg) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)
        elif message.reply.startswith("$JS.ACK.") and self._late is not None:
            await self._late(message)
