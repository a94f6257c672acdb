"""What comes out of NATS, tampered with by somebody who may write there. `make soak` tries many
more of each.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from factories import NOW, spec
from patience import patience
from qgjet.domain import codec, job, subjects, suite
from qgjet.domain.decide import Submit, decide
from qgjet.domain.events import ACTIVE, Event, Slot
from qgjet.errors import UndecodableEvent
from qgjet.store import agent_registry, artifacts, event_log
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.event_log import Recorded, recorded
from qgjet_projections.maintenance.janitor import Advisory, read_advisory
from qgjet_projections.readmodel import JobQuery, ReadModel, schema
from qgjet_projections.readmodel.writer import Writer
from security.mutations import DEEP, damaged, tampered
from strategies import Story, any_events, hostile_text, stories

GOLDEN = [
    json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parent.parent / "golden").glob("*.json"))
]
SLOT = Slot("acme", "1.0.0", "emulator", "tests/a.spec.js")
PREFIX = subjects.slot_prefix(SLOT)
AGENT = AgentInfo(
    instance="i-1",
    name="mac",
    host="h",
    pid=7,
    version="1",
    targets=(TargetSlots(target="emulator", slots=2),),
    slots=2,
    since=NOW,
    running=("j",),
    warm=("a/b/c",),
)
SUITE = suite.SuiteOpened(
    suite_id="s",
    org_id="acme",
    at=NOW,
    submission="x",
    tags={"a": "b"},
    jobs=(
        suite.Member(job_id="j", app_version_id="1", target="t", test="p", attached=True, seq=4),
    ),
)
OBJECT = artifacts.ObjectInfo(
    name="j/1/a", nuid="n", size=9, chunks=3, digest="SHA-256=YWJj", headers={"Content-Type": ["text/plain"]}, metadata={"qgjet.marks": "1 2 3"},
    options=artifacts.Options(max_chunk_size=4),
)  # fmt: skip
events = st.sampled_from(GOLDEN).flatmap(tampered)


def builtins(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


# -- events --------------------------------------------------------------------------------------------------------------


@given(events)
@example(b'{"new":' + DEEP.encode() + b"}")
@example(json.dumps(GOLDEN[-1] | {"failures": 10**30}).encode())
def test_a_tampered_event_is_read_or_undecodable_and_what_is_read_can_be_written(
    data: bytes,
) -> None:
    try:
        event = codec.decode(data)
    except UndecodableEvent:
        return
    assert codec.decode(codec.encode(event)) == event
    assert job.fold([(1, event)]) is None or event.status


@given(
    st.lists(events, min_size=1, max_size=4),
    st.sampled_from(["started", "submitted.p5", "finished", "opened", "%FF", ""]),
)
def test_tampered_events_end_neither_the_fold_nor_a_batch_of_the_projector(
    found: list[bytes], name: str
) -> None:
    honest = codec.encode(decide(Submit(spec(test=SLOT.test)), None, NOW))
    messages = [
        recorded(1, f"{PREFIX}.submitted.p5", honest),
        *(recorded(seq, f"{PREFIX}.{name}", data) for seq, data in enumerate(found, 2)),
    ]
    other = Slot("acme", "1.0.0", "emulator", "tests/z.spec.js")
    last = len(messages) + 1
    messages.append(
        recorded(
            last,
            f"{subjects.slot_prefix(other)}.submitted.p5",
            codec.encode(decide(Submit(spec(job_id="z", test=other.test)), None, NOW)),
        )
    )
    job.fold((one.seq, one.event) for one in messages if one.event is not None)
    assert "z" in project(messages), "the jobs behind them are known"


def project(messages: list[Recorded]) -> set[str]:
    """Ids of the active jobs after a real read model has applied everything."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "read.sqlite"
        schema.prepare(path)
        writer = Writer(path)
        try:
            writer.apply(messages, writer.position())
        finally:
            writer.close()
        read_model = ReadModel.open(path)
        try:
            return {
                one.job_id
                for status in ACTIVE
                for one in read_model.all_jobs(JobQuery(status=status))
            }
        finally:
            read_model.close()


@given(stories())
def test_no_event_of_ours_contradicts_itself(story: Story) -> None:
    for one in story:
        assert one.event is None or job.contradiction(one.event) is None


@given(any_events, any_events)
def test_what_contradicts_itself_is_never_legal(first: Event, event: Event) -> None:
    before = job.evolve(None, first, 1)
    if (
        before is not None
        and job.contradiction(first) is None
        and job.contradiction(event) is not None
    ):
        assert job.broken_rule(before, event) is not None


@given(tampered(builtins(SUITE)))
def test_a_tampered_suite_is_read_or_undecodable(data: bytes) -> None:
    try:
        event = suite.decode(data)
    except UndecodableEvent:
        return
    assert suite.decode(suite.encode(event)) == event


# -- everything else that lies in NATS ---------------------------------------------------------------------------------------


@given(tampered(builtins(AGENT)))
@example(b'{"name":"\xff"}')
@example(b'{"new":' + DEEP.encode() + b"}")
def test_a_tampered_record_of_an_agent_is_that_of_an_agent_or_of_nobody(data: bytes) -> None:
    info = agent_registry._read(data)
    assert info is None or agent_registry._info.decode(msgspec.json.encode(info)) == info


@given(
    tampered(
        {
            "type": "io.nats.jetstream.advisory.v1.max_deliver",
            "stream_seq": 5,
            "deliveries": 20,
            "domain": {},
        }
    )
)
@example(b'{"new":' + DEEP.encode() + b"}")
@example(b'{"stream_seq":1' + b"0" * 30 + b"}")
def test_a_tampered_advisory_is_one_or_says_nothing(data: bytes) -> None:
    advisory = read_advisory(7, data)
    assert isinstance(advisory, Advisory)
    assert (
        -(2**63)
        <= min(advisory.stream_seq, advisory.deliveries)
        <= max(advisory.stream_seq, advisory.deliveries)
        < 2**63
    ), "the server is asked for it"


@given(tampered(builtins(OBJECT)), st.integers(0, 2**40))
@example(b'{"name":"j/1/a","digest":"SHA-256=\\u00e9"}', 0)
@example(b'{"name":"j/1/a","options":{"max_chunk_size":-1},"metadata":{"qgjet.marks":"1"}}', 2**40)
@example(b'{"new":' + DEEP.encode() + b"}", 0)
def test_a_tampered_description_of_an_object_is_one_or_none(data: bytes, start: int) -> None:
    info = artifacts.read_info(data)
    if info is not None:
        assert set(info.sha256) <= set("0123456789abcdef")
        position, after = artifacts._place(info, start)
        assert 0 <= position <= start
        assert -1 <= after < 2**63


@given(
    st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                "$JS",
                "ACK",
                "QG_EVENTS",
                "a~b~c~p5",
                "1",
                "-1",
                "9" * 30,
                "9" * 5000,
                "x",
                "",
                "\u0665",
            ]
        ),
        max_size=13,
    ).map(".".join)
)
def test_any_reply_subject_is_that_of_a_delivery_or_none(reply: str) -> None:
    meta = event_log.parse_ack_subject(reply)
    assert (
        meta is None
        or min(meta.num_delivered, meta.stream_seq, meta.consumer_seq, meta.num_pending) >= 0
    )


@given(damaged(b"$JS.ACK.QG_EVENTS.a~b~c~p5.1.22.333.1699999999999999999.7"))
def test_a_damaged_reply_subject_is_that_of_a_delivery_or_none(reply: bytes) -> None:
    event_log.parse_ack_subject(reply.decode("utf-8", "replace"))


PARSERS: list[Callable[[str], object]] = [
    subjects.parse_job_subject,
    subjects.parse_consumer,
    subjects.parse_bell,
]


@given(
    st.sampled_from(PARSERS),
    st.sampled_from(
        [f"{PREFIX}.submitted.p5", "acme~1%2E0~emulator~p5", "qg.bell.acme.1.emulator.p5"]
    ),
    st.data(),
)
def test_a_damaged_subject_is_one_of_ours_or_none(
    parse: Callable[[str], object], subject: str, data: st.DataObject
) -> None:
    changed = data.draw(damaged(subject.encode()))
    for text in (
        changed.decode("utf-8", "replace"),
        changed.decode("utf-8", "surrogateescape"),
        data.draw(hostile_text),
    ):
        parse(text)


async def test_what_nobody_can_read_does_not_keep_the_janitor_from_its_round(
    log: event_log.EventLog, tmp_path: Path
) -> None:
    """A record of an agent and an advisory are written by whoever has access to NATS; the janitor
    would stumble over them for ever.
    """
    from qgjet.config.settings import QueueSettings
    from qgjet_projections.maintenance.janitor import Janitor

    for number, data in enumerate(
        [b'{"name":"\xff"}', b'{"new":' + DEEP.encode() + b"}", b"\x00", b'{"instance":"i"}']
    ):
        await log.connection.publish(f"$KV.{subjects.AGENTS_BUCKET}.strange-{number}", data)
    for data in (
        b'{"new":' + DEEP.encode() + b"}",
        b'{"stream_seq":1' + b"0" * 30 + b"}",
        b'{"stream_seq":9223372036854775807}',
        b"\xff",
    ):
        await log.connection.publish("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.QG_EVENTS.x", data)
    await log.connection.client.flush()
    read_model = ReadModel.open(tmp_path / "read.sqlite")
    try:
        async with asyncio.timeout(patience(10)):
            await Janitor(log, read_model, QueueSettings()).round()
        assert await agent_registry.agents(log.connection) == []
    finally:
        read_model.close()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_a_number_that_nobody_else_can_hold_is_not_read(number: int) -> None:
    with pytest.raises(UndecodableEvent):
        codec.decode(json.dumps(GOLDEN[0] | {"failures": number}).encode())
