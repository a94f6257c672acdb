"""Messages in the log that this version did not write: of a newer one, of another program, or of
nobody in their right mind.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg

from agents import FAST, ended, eventually, running_agent, story, submit
from factories import NOW, spec
from faults.watched import Ledger, legal_history, watched
from patience import patience
from qgjet.domain import codec, subjects
from qgjet.domain.decide import Cancel, Requeue, Submit, decide
from qgjet.domain.events import Slot, Status, Verdict
from qgjet.domain.job import Job
from qgjet.domain.subjects import Lane
from qgjet.errors import QgjetError
from qgjet.jetstream.connection import Connection, JetStreamError, connect
from qgjet.store import agent_registry, streams
from qgjet.store.artifacts import ArtifactStore
from qgjet.store.control_log import ControlReader
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue, lane_state
from qgjet_projections.maintenance.janitor import Janitor
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.projector import Projector

NEWER = b'{"type":"paused","job_id":"j","at":"2030-01-01T00:00:00Z","status":"on_hold","because":"a newer version said so"}'
DEEP = b'{"type":"submitted","new":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
GARBAGE = [
    b"",
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"{}",
    b'{"type":"submitted"}',
    NEWER,
    b"x" * 100_000,
    DEEP,
]


async def write(log: EventLog, subject: str, data: bytes) -> int:
    """Put bytes into the log as they are; gives their sequence."""
    ack = msgspec.json.decode((await log.connection.request(subject, data)).data)
    return int(ack["seq"])


async def strange(log: EventLog, slot: Slot, data: bytes = NEWER) -> int:
    return await write(log, subjects.slot_prefix(slot) + ".paused", data)


async def present(log: EventLog, instance: str) -> bool:
    return instance in {info.instance for info in await agent_registry.agents(log.connection)}


# -- an event of a newer version ----------------------------------------------------------------------------------------------


async def test_a_queued_job_with_an_unknown_last_event_is_run_to_its_end(
    log: EventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = spec()
    await submit(log, job)
    with caplog.at_level(logging.WARNING, "qgjet.store.event_log"):
        seq = await strange(log, job.slot)
        live = await log.load(job.slot)
    assert live is not None
    assert (live.job_id, live.status, live.version) == (job.job_id, Status.QUEUED, seq)
    assert str(seq) in caplog.text
    async with running_agent(log, tmp_path):
        final = await ended(log, job.slot)
    assert final.verdict is Verdict.PASSED
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
    await legal_history(log, job.slot)


async def test_a_running_job_with_an_unknown_last_event_keeps_its_lease_and_its_verdict(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    job = spec(infra_retries=0)
    gate = asyncio.Event()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate)):
        run = await ledger.started(job.slot)
        await strange(log, job.slot)
        for _ in range(4):
            await run.heartbeat()
        gate.set()
        final = await ended(log, job.slot)
    assert (final.verdict, final.attempt, len(ledger.runs)) == (Verdict.PASSED, 1, 1)


async def test_every_command_steps_over_an_unknown_last_event(log: EventLog) -> None:
    job = spec()
    await log.submit(job)
    await strange(log, job.slot)
    await log.execute(
        job.slot, Requeue(spec=job, reason="rank", by="test"), await log.load(job.slot)
    )
    await strange(log, job.slot)
    attached = await log.submit(spec())
    assert (attached.job_id, attached.attached) == (job.job_id, True)
    await log.execute(job.slot, Cancel(by="test"), await log.load(job.slot))
    await strange(log, job.slot)
    assert not (await log.submit(spec())).attached
    assert await story(log, job.slot) == ["submitted", "requeued", "cancel_requested", "submitted"]
    await legal_history(log, job.slot)


# -- garbage ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", NEWER, DEEP], ids=["nothing", "a newer event", "deep JSON"])
async def test_a_slot_that_holds_nothing_but_garbage_can_be_used(
    log: EventLog, data: bytes
) -> None:
    job = spec()
    await strange(log, job.slot, data)
    async with asyncio.timeout(patience(3)):
        accepted = await log.submit(job)
    live = await log.load(job.slot)
    assert live is not None
    assert (live.job_id, live.version) == (job.job_id, accepted.seq)


async def test_garbage_that_asks_for_a_run_does_not_hold_up_the_jobs_behind_it(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec()
    for number, data in enumerate(GARBAGE):
        await write(log, f"{subjects.slot_prefix(job.slot)}-{number}.submitted.p5", data)
    await submit(log, job)
    async with running_agent(log, tmp_path, poll_s=60.0):
        assert (await ended(log, job.slot, within_s=5.0)).verdict is Verdict.PASSED


# -- consumers of another program -------------------------------------------------------------------------------------------------


STRANGE_CONSUMERS: dict[str, dict[str, object]] = {
    "acknowledges nothing": {"ack_policy": "none"},
    "acknowledges all at once": {"ack_policy": "all"},
    "pushes": {"deliver_subject": "elsewhere"},
    "starts with what is new": {"deliver_policy": "new"},
    "gives headers only": {"headers_only": True},
    "of another subject": {"filter_subject": "qg.suite.>"},
    "of several subjects": {
        "filter_subject": "",
        "filter_subjects": ["qg.suite.>", "qg.control.>"],
    },
    "of groups": {"priority_groups": ["one"], "priority_policy": "overflow"},
    "delivers once": {"max_deliver": 1},
    "waits for a short time": {"ack_wait": 100_000_000},
}


@pytest.mark.parametrize("config", STRANGE_CONSUMERS.values(), ids=STRANGE_CONSUMERS)
async def test_a_lane_whose_consumer_is_of_another_program_runs_its_jobs(
    log: EventLog, read_model: ReadModel, tmp_path: Path, config: dict[str, object]
) -> None:
    job, other = spec(), spec(app_version_id="other")
    lane = Lane(job.partition, job.rank)
    await strange_consumer(
        log, subjects.lane_consumer(lane), {"filter_subject": subjects.lane_filter(lane), **config}
    )
    async with (
        running_agent(log, tmp_path),
        Projector(log, read_model),
        Janitor(log, read_model, FAST),
    ):
        for one in (job, other):
            await log.submit(one)
        for one in (other, job):
            assert (await ended(log, one.slot)).verdict is Verdict.PASSED
        assert await eventually(lambda: is_usable(log, lane))
    assert await story(log, job.slot) == ["submitted", "started", "finished"]


async def test_a_consumer_that_another_program_replaces_while_an_agent_runs_is_made_again(
    log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    job, later = spec(), spec(test="later")
    lane = Lane(job.partition, job.rank)
    async with (
        running_agent(log, tmp_path),
        Projector(log, read_model),
        Janitor(log, read_model, FAST),
    ):
        await submit(log, job)
        await ended(log, job.slot)
        await Queue(log.connection, FAST).drop(lane)
        await strange_consumer(log, subjects.lane_consumer(lane), {"filter_subject": "qg.suite.>"})
        await eventually(lambda: is_usable(log, lane))
        await log.submit(later)
        assert (await ended(log, later.slot)).verdict is Verdict.PASSED


async def is_usable(log: EventLog, lane: Lane) -> bool:
    return any(
        state.usable for state in await Queue(log.connection, FAST).lanes() if state.lane == lane
    )


@pytest.mark.parametrize(
    "name",
    [
        "foreign",
        "a~b~c~p5",
        "a~b~c~p99",
        "~~~p5",
        "%FF~b~c~p5",
        f"{'x' * 100}~b~c~p5",
        "acme~1%2E0%2E0~emulator~p5",
    ],
)
async def test_the_queue_can_be_listed_with_consumers_of_any_name(log: EventLog, name: str) -> None:
    for policy in ("none", "explicit"):
        await strange_consumer(
            log, name if policy == "none" else f"{name}x", {"ack_policy": policy}
        )
    assert not [state for state in await Queue(log.connection, FAST).lanes() if state.usable]


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"name": None},
        {"name": "a~b~c~p5"},
        {"name": "a~b~c~p5", "config": None, "created": "never"},
    ],
)
def test_a_consumer_that_is_described_in_another_way_serves_no_lane(
    info: dict[str, object],
) -> None:
    state = lane_state(info)
    assert state is None or not state.usable


async def strange_consumer(log: EventLog, name: str, config: dict[str, object]) -> None:
    settings = {
        "name": name,
        "durable_name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        **config,
    }

    async def created() -> bool:
        with contextlib.suppress(JetStreamError):
            await log.connection.api(
                f"CONSUMER.DELETE.{subjects.STREAM}.{name}"
            )  # that an agent has created meanwhile
        with contextlib.suppress(
            JetStreamError
        ):  # the server may still remove the files of the one that was deleted
            await log.connection.api(
                f"CONSUMER.CREATE.{subjects.STREAM}.{name}",
                {"stream_name": subjects.STREAM, "config": settings, "action": ""},
            )
            return True
        return False

    await eventually(created)


# -- bells ------------------------------------------------------------------------------------------------------------------------

LONG = "x" * 100


async def test_bells_for_lanes_that_cannot_be_do_not_end_an_agent(
    log: EventLog, tmp_path: Path
) -> None:
    job = spec()
    odd = codec.encode(decide(Submit(job), None, NOW))
    async with running_agent(log, tmp_path, poll_s=60.0) as agent:
        await eventually(lambda: present(log, agent.instance))
        for subject in (
            f"qg.job.{LONG}.1.emulator.test.submitted.p5",
            f"qg.job.acme.{LONG}.emulator.test.submitted.p5",
            f"qg.job.acme.1.emulator.{LONG * 6}.submitted.p5",
            "qg.job.acme.%FF%FE.emulator.test.submitted.p5",
            "qg.job.acme.%00.emulator.test.submitted.p5",
            "qg.job.acme.1.emulator.test.submitted.p99",
            f"qg.bell.{LONG}.1.emulator.p5",
            "qg.bell.acme.1.emulator.p",
        ):
            await log.connection.publish(subject, odd)
        await log.submit(job)
        assert (await ended(log, job.slot, within_s=5.0)).verdict is Verdict.PASSED


async def test_forged_submissions_do_not_end_an_agent(log: EventLog, tmp_path: Path) -> None:
    """Jobs that `make_spec` would have refused. Their messages stay in the queue until they are
    answered: what ends one agent ends every agent after it.
    """
    honest = spec(test="tests/honest.spec.js")
    await Queue(log.connection, FAST).ensure(Lane(honest.partition, 5))
    forged = [
        spec(test="t" * 600),
        spec(test=""),
        spec(org_id=LONG),
        spec(org_id=""),
        spec(job_id=""),
        spec(execution_timeout_s=-1.0),
        spec(max_retries=-1, infra_retries=10**6),
    ]
    for number, job in enumerate(forged):
        await write(
            log,
            f"qg.job.acme.1%2E0%2E0.emulator.forged-{number}.submitted.p5",
            codec.encode(decide(Submit(job), None, NOW)),
        )
    await log.submit(honest)
    async with running_agent(log, tmp_path):
        assert (await ended(log, honest.slot, within_s=5.0)).verdict is Verdict.PASSED


async def test_forged_job_ids_do_not_lead_out_of_the_work_directory(
    log: EventLog, tmp_path: Path
) -> None:
    """The directory of an attempt is made of them, and deleted in the end."""
    work_dir, precious = tmp_path / "work", tmp_path / "precious"
    directories = [precious / "1", work_dir / "other", work_dir / "1", tmp_path / "1"]
    for directory in directories:
        directory.mkdir(parents=True)
    jobs = [
        spec(job_id=job_id, test=f"tests/{number}.spec.js")
        for number, job_id in enumerate(
            ["../precious", "", ".", "..", "a/../../precious", str(precious)]
        )
    ]
    for job in jobs:
        await submit(log, job)
    async with running_agent(log, work_dir):
        for job in jobs:
            await eventually(lambda job=job: has_ended(log, job.slot))  # type: ignore[misc]
    assert [directory for directory in directories if not directory.is_dir()] == []


async def has_ended(log: EventLog, slot: Slot) -> bool:
    job = await log.load(slot)
    return job is not None and (not job.live or job.attempt > 0)


async def test_the_projector_and_the_tail_step_over_all_of_it(
    log: EventLog, read_model: ReadModel
) -> None:
    honest = spec()
    await log.submit(honest)
    for number, data in enumerate(GARBAGE):
        await write(log, f"qg.job.a.b.c.{number}.submitted.p5", data)
        await write(log, f"qg.job.a.b.c.{number}", data)
        await write(log, f"qg.suite.a.{number}.opened", data)
        await write(log, f"qg.control.{number}", data)
        await strange(log, honest.slot, data)
    await write(log, f"qg.job.{LONG}.%FF.c.t.finished", b"{}")
    await strange(log, honest.slot)
    last = (await log.state()).last_seq
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(last, patience(10)), projector.failure
        assert projector.failure is None
    view = read_model.job(honest.job_id)
    assert view is not None
    assert view.status is Status.QUEUED


async def test_a_direct_hit_on_the_heartbeat_is_survived(
    log: EventLog, tmp_path: Path, ledger: Ledger
) -> None:
    """Whatever lands in the slot of a running job, its lease goes on."""
    job = spec(infra_retries=0)
    gate = asyncio.Event()
    await submit(log, job)
    async with running_agent(log, tmp_path, runners=watched(ledger, gate=gate)):
        run = await ledger.started(job.slot)
        for data in GARBAGE:
            await strange(log, job.slot, data)
        await run.heartbeat()
        await run.heartbeat()
        gate.set()
        final: Job = await ended(log, job.slot)
    assert (final.verdict, final.attempt) == (Verdict.PASSED, 1)


# -- what else another program can leave on the server ------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", GARBAGE[:8], ids=range(8))
async def test_entries_and_objects_of_another_program_are_passed_over(
    log: EventLog, data: bytes
) -> None:
    store = ArtifactStore(log.connection)
    await store.put("job/1/ours.txt", io.BytesIO(b"ours"))
    await write(log, f"$KV.{subjects.AGENTS_BUCKET}.foreign", data)
    await write(
        log, f"$O.{subjects.ARTIFACTS_BUCKET}.M.am9iLzEvZm9yZWlnbg==", data
    )  # job/1/foreign
    await write(log, f"$O.{subjects.ARTIFACTS_BUCKET}.M.-", data)
    await write(log, "qg.control.foreign.paused", data)
    assert await agent_registry.agents(log.connection) == []
    assert [info.name for info in await store.of_attempt("job", 1)] == ["job/1/ours.txt"]
    assert await ControlReader(log.connection).new() == []


async def test_streams_of_another_program_beside_ours_are_passed_over(log: EventLog) -> None:
    await log.connection.api(
        "STREAM.CREATE.FOREIGN",
        {"name": "FOREIGN", "subjects": ["foreign.>"], "retention": "workqueue"},
    )
    await write(log, "foreign.one", b"?")
    assert set(await streams.store_bytes(log.connection)) == {
        subjects.STREAM,
        *streams.OTHER_STREAMS,
    }
    assert await streams.why_full(log.connection) == ""


@pytest.mark.parametrize(
    "metadata",
    [
        {"qgjet.visibility_timeout": "soon"},
        {"qgjet.max_deliver": ""},
        {"qgjet.next_visibility_timeout": "?"},
    ],
)
async def test_metadata_that_an_operator_has_broken_ends_no_agent_and_no_lease(
    log: EventLog, tmp_path: Path, metadata: dict[str, str]
) -> None:
    job = spec()
    await submit(log, job)
    async with running_agent(log, tmp_path) as agent:
        await eventually(lambda: present(log, agent.instance))
        config = await streams.stream_config(log.connection, subjects.STREAM)
        assert config is not None
        await log.connection.api(
            f"STREAM.UPDATE.{subjects.STREAM}", config | {"metadata": config["metadata"] | metadata}
        )
        await agent._executor.visibility.read()
        for one in (job, spec(test="after")):
            await log.submit(one)
            assert (await ended(log, one.slot)).verdict is Verdict.PASSED


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff",
        b"[]",
        b'"text"',
        b"{}",
        b'{"error":7}',
        b'{"error":{"code":"x"}}',
        b'{"config":[],"state":7,"message":"?"}',
    ],
)
async def test_answers_of_another_program_are_no_defect(log: EventLog, answer: bytes) -> None:
    """Whoever may answer `$JS.API` requests, such as a proxy between accounts, may answer anything."""
    account = "foreign.api"

    class Redirected(Connection):
        async def publish(
            self,
            subject: str,
            payload: bytes = b"",
            *,
            reply: str = "",
            headers: dict[str, str] | None = None,
        ) -> None:
            await super().publish(
                account if reply.startswith(self._inbox) else subject,
                payload,
                reply=reply,
                headers=headers,
            )

    async def respond(message: Msg) -> None:
        await log.connection.publish(message.reply, answer)

    await log.connection.subscribe(account, respond)
    job = spec()
    async with connect(log.connection.url, name="test") as connection:
        connection.__class__ = Redirected
        other = EventLog(connection)
        asks: list[Callable[[], Awaitable[object]]] = [
            other.state,
            lambda: other.load(job.slot),
            lambda: other.quiet_s(job.slot),
            lambda: other.forget("qg.job.a.b.c.d", 1),
            lambda: other.append(job.slot, decide(Submit(job), None, NOW), 0, timeout_s=0.0),
            lambda: Queue(connection, FAST).lanes(),
            lambda: Queue(connection, FAST).ensure(Lane(job.partition, 5)),
            lambda: streams.ensure(connection),
            lambda: streams.why_full(connection),
            lambda: streams.store_bytes(connection),
            lambda: ArtifactStore(connection).stat("name"),
            lambda: ArtifactStore(connection).of_attempt("job", 1),
        ]
        for ask in asks:
            with contextlib.suppress(QgjetError):
                await ask()
