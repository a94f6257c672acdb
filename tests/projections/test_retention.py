"""What the log forgets, what it must never forget, and read models that forget the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from histories import Author, content
from test_projector import publish, rebuilt

from agents import eventually
from factories import spec
from later import LaterLog, in_
from patience import patience
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain import subjects
from qgjet.domain.decide import Cancel, OnDuplicate
from qgjet.domain.events import Status, Verdict
from qgjet.errors import VersionConflict
from qgjet.jetstream.connection import Connection
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.store.suite_log import Submission, submit_suite
from qgjet.support.clock import Clock, utc_now
from qgjet_projections.maintenance import retention as retentions
from qgjet_projections.maintenance.retention import Purged, Retention, purge
from qgjet_projections.readmodel import JobQuery, ReadModel, schema
from qgjet_projections.readmodel.projector import Projector
from qgjet_projections.service import open_service

DAY = timedelta(days=1)
AHEAD = utc_now() + 30 * DAY
"""The clock of those who write: later than the server stores, so it decides."""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retentions, "PACE_S", 0.0)


@contextlib.asynccontextmanager
async def following(log: EventLog, read_model: ReadModel) -> AsyncIterator[Projector]:
    """A projector that has applied the whole log."""
    async with Projector(log, read_model, retention_s=0) as projector:
        assert await projector.wait_for((await log.state()).last_seq, patience(10))
        yield projector


async def settled(log: EventLog, read_model: ReadModel, author: Author, clock: Clock) -> Purged:
    """Rounds until nothing more is forgotten; gives the first one."""
    late = LaterLog(log.connection, clock)
    async with following(log, read_model) as projector:
        retention = Retention(late, read_model, projector, purges=True)
        first = await retention.round()
        for _ in range(5):
            if not (await retention.round()).events:
                break
        else:
            raise AssertionError("it never comes to an end")
    return first


def tables(path: Path) -> dict[str, list[object]]:
    found = content(path)
    return {table: found[table] for table in schema.CONTENT}


@pytest.mark.parametrize("seed", range(6))
async def test_a_rebuild_of_a_purged_log_is_the_pruned_read_model(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path, seed: int
) -> None:
    """Of random histories with strangers, broken rules, replacements and suites; and no live job
    loses an event.
    """
    author = Author(seed, AHEAD)
    author.history(300)
    cut = random.Random(seed).uniform(0.2, 1.0)
    written = await publish(connection, author.messages)
    begin = min(one.event.at for one in author.messages if one.event is not None)
    horizon = begin + (author.now - begin) * cut
    live = {
        slot: await log.history(slot)
        for slot, job in author.jobs.items()
        if job is not None and job.live
    }
    await streams.change_retention(connection, DAY.total_seconds())
    purged = await settled(log, read_model, author, lambda: horizon + DAY)
    assert purged.events, "the horizon was chosen so that something goes"
    assert written - purged.events > 0
    for slot, history in live.items():
        job = author.jobs[slot]
        assert job is not None
        left = await log.history(slot)
        assert left == history[-len(left) :]
        assert left[0].seq <= job.ticket
        assert (await log.read(slot))[1] == history[-1].seq
    again = await rebuilt(log, tmp_path / "rebuilt.sqlite")
    assert tables(read_model.path) == {table: again[table] for table in schema.CONTENT}


async def test_a_live_job_stays_however_old_it_is(
    connection: Connection, log: EventLog, read_model: ReadModel
) -> None:
    author = Author(now=AHEAD)
    queued, running = author.submit(test="queued"), author.submit(test="running")
    author.start(running)
    for number in range(3):
        author.run(test="often", app_version_id=f"{number}")
        author.run(test="again")
    author.submit(test="again")
    await publish(connection, author.messages)
    await streams.change_retention(connection, DAY.total_seconds())
    first = await settled(log, read_model, author, lambda: author.now + 400 * DAY)
    assert first.events == 6 * 3
    assert [job.status for job in map(author.jobs.get, (queued.slot, running.slot)) if job] == [
        "queued",
        "running",
    ]
    assert [job.test for job in read_model.jobs(JobQuery()).items] == ["again", "running", "queued"]
    assert len(await log.history(running.slot)) == 2


async def test_a_job_that_was_replaced_stays_with_the_one_in_its_place(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    author = Author(now=AHEAD)
    author.run(test="a")
    author.submit(test="a")
    horizon = author.now + DAY
    author.now += 30 * DAY
    author.submit(OnDuplicate.REPLACE, test="a")
    await publish(connection, author.messages)
    await streams.change_retention(connection, DAY.total_seconds())
    assert (await settled(log, read_model, author, lambda: horizon + 20 * DAY)).events == 3
    assert (await settled(log, read_model, author, lambda: author.now + 90 * DAY)).events == 0
    assert [job.status for job in read_model.jobs(JobQuery()).items] == ["queued", "cancelled"]
    again = await rebuilt(log, tmp_path / "rebuilt.sqlite")
    assert tables(read_model.path) == {table: again[table] for table in schema.CONTENT}


async def test_what_is_appended_during_a_purge_stays(
    connection: Connection, log: EventLog, read_model: ReadModel
) -> None:
    """The read model saw the slot at its end; a submission came after that, with or without the
    purge having looked again.
    """
    author = Author(now=AHEAD)
    author.run(test="a")
    author.run(test="b")
    await publish(connection, author.messages)
    before = author.now
    async with following(log, read_model):
        pass
    histories, _ = read_model.ended_histories(before, 0, 10)
    assert len(histories) == 2
    accepted = [await log.submit(spec(test=test)) for test in "ab"]
    assert await log.forget(histories[0].prefix, histories[0].cut) == 3, (
        "the cut is before the new submission"
    )
    assert await purge(log, read_model, before) == Purged(), (
        "and a look at the log shows that the read model is behind"
    )
    assert [one.seq for test in "ab" for one in await log.history(spec(test=test).slot)][
        -1
    ] == accepted[1].seq
    assert [(await log.read(spec(test=test).slot))[0].status for test in "ab"] == [
        Status.QUEUED
    ] * 2  # type: ignore[union-attr]


async def test_an_append_on_a_version_that_was_purged_is_refused_and_decided_anew(
    connection: Connection, log: EventLog, read_model: ReadModel
) -> None:
    author = Author(now=AHEAD)
    old = author.run(test="a")
    await publish(connection, author.messages)
    version = (await log.read(old.slot))[1]
    await streams.change_retention(connection, DAY.total_seconds())
    assert (await settled(log, read_model, author, lambda: author.now + 2 * DAY)).slots == 1
    assert await log.read(old.slot) == (None, 0)
    event = author.messages[0].event
    assert event is not None
    with pytest.raises(VersionConflict):
        await log.append(old.slot, event, version)
    new = spec(test="a")
    answers = await asyncio.gather(
        log.submit(new), log.submit(spec(test="a")), log.submit(spec(test="a"))
    )
    assert len({one.job_id for one in answers}) == 1, (
        "deduplication is exact on a slot that was emptied, too"
    )
    (result,) = await log.submit_many([spec(test="a", job_id=answers[0].job_id)])
    assert result.seq == (await log.read(old.slot))[1]  # type: ignore[union-attr]


async def test_a_suite_goes_with_the_last_of_its_jobs(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    done, waits = spec(test="done", suite_ids=("both",)), spec(test="waits", suite_ids=("both",))
    only = spec(test="only", suite_ids=("gone",))
    modes = [OnDuplicate.ATTACH]
    await submit_suite(
        log, Submission(suite_id="both", id="1", specs=[done, waits], modes=modes * 2)
    )
    await submit_suite(log, Submission(suite_id="gone", id="2", specs=[only], modes=modes))
    for one in (done, only):
        assert await log.cancel(one.slot, one.job_id, by="me")
    await streams.change_retention(connection, DAY.total_seconds())
    late = in_(connection, 2 * DAY)
    async with following(log, read_model) as projector:
        retention = Retention(late, read_model, projector, purges=True)
        assert await retention.round() == Purged(slots=2, events=4, suites=0)
        assert await retention.round() == Purged(slots=0, events=1, suites=1)
        assert await retention.round() == Purged()
    assert [suite.suite_id for suite in read_model.suites(limit=10).items] == ["both"]
    again = await rebuilt(log, tmp_path / "rebuilt.sqlite")
    assert tables(read_model.path) == {table: again[table] for table in schema.CONTENT}


async def test_replicas_without_a_janitor_forget_what_others_have_purged(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    author = Author(now=AHEAD)
    author.run(test="old")
    author.run(Verdict.FAILED, test="old too")
    await publish(connection, author.messages)
    await streams.change_retention(connection, DAY.total_seconds())
    late = LaterLog(connection, lambda: author.now + 2 * DAY)
    other = ReadModel.open(tmp_path / "other.sqlite")
    async with following(log, read_model) as projector, following(log, other) as elsewhere:
        passive = Retention(late, other, elsewhere, purges=False)
        assert await passive.round() == Purged()
        assert len(other.jobs(JobQuery()).items) == 2, "nobody has purged the log: it is kept whole"
        both = (
            Retention(late, read_model, projector, purges=True),
            Retention(late, other, elsewhere, purges=True),
        )
        found = await asyncio.gather(*(one.round() for one in both))
        assert sum(one.events for one in found) == 6, "two at once purge everything once"
        await passive.round()
    assert tables(other.path) == tables(read_model.path) == {table: [] for table in schema.CONTENT}
    other.close()


async def test_without_a_retention_nothing_is_ever_forgotten(
    connection: Connection, log: EventLog, read_model: ReadModel
) -> None:
    author = Author(now=AHEAD)
    author.run(test="old")
    await publish(connection, author.messages)
    await streams.change_retention(connection, 0)
    assert (
        streams.deployment_of(
            await streams.stream_config(connection, subjects.STREAM) or {}
        ).retention_s
        == 0
    )
    assert (await settled(log, read_model, author, lambda: author.now + 10_000 * DAY)) == Purged()
    assert len(read_model.jobs(JobQuery()).items) == 1


async def test_an_api_forgets_by_the_retention_of_its_settings(
    connection: Connection, log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retentions, "FIRST_AFTER_S", 0.2)
    monkeypatch.setattr(retentions, "EVERY_S", 0.2)
    job, live = spec(test="ended"), spec(test="live")
    await log.submit(job)
    await log.submit(live)
    await log.cancel(job.slot, job.job_id, by="me")
    settings = Settings(
        nats_url=connection.url,
        queue=QueueSettings(retention_s=1.0),
        api=ApiSettings(database=str(tmp_path / "api.sqlite")),
    )
    async with open_service(settings) as service:

        async def forgotten() -> bool:
            return (
                await log.read(job.slot) == (None, 0) and service.read_model.job(job.job_id) is None
            )

        await eventually(forgotten, what="the end of what has ended")
        assert service.read_model.job(live.job_id) is not None


async def test_pruning_asks_for_so_much_at_a_time_and_goes_on_there(
    connection: Connection, log: EventLog, read_model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two thousand old jobs that the log still has, and behind them one that it has forgotten."""
    monkeypatch.setattr("qgjet_projections.readmodel.projector.PRUNE_LOOKS", 1_000)
    author = Author(now=AHEAD)
    stays = [author.submit(test=f"{number}") for number in range(2_000)]
    for one in stays:
        author.tell(one.slot, Cancel("me"))
    gone = author.run(test="gone")
    await publish(connection, author.messages)
    async with following(log, read_model) as projector:
        assert await log.forget(subjects.slot_prefix(gone.slot), author.seq + 1) == 3
        assert [await projector.prune(author.now) for _ in range(6)] == [0, 0, 1, 0, 0, 0]


async def test_no_clock_of_an_agent_or_an_api_ages_a_job(
    connection: Connection, log: EventLog, read_model: ReadModel, caplog: pytest.LogCaptureFixture
) -> None:
    """An agent 100 days behind has just finished it; an API 100 days ahead looks at it. The server
    stored it a moment ago.
    """
    author = Author(now=utc_now() - 100 * DAY)
    job = author.run(test="just now")
    await publish(connection, author.messages)
    await streams.change_retention(connection, 90 * DAY.total_seconds())
    async with following(log, read_model) as projector:
        assert await Retention(log, read_model, projector, purges=True).round() == Purged()
        ahead = EventLog(connection, lambda: utc_now() + 100 * DAY)
        assert await Retention(ahead, read_model, projector, purges=True).round() == Purged()
        assert "clocks" in caplog.text
        assert (
            await Retention(in_(connection, 91 * DAY), read_model, projector, purges=True).round()
        ).slots == 1
    assert await log.read(job.slot) == (None, 0)
