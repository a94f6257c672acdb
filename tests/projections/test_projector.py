"""The projector on a real server: live, restarted, killed, and on logs that are not the one it
knew.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from histories import Author, apply, content, rebuilt

from factories import NOW, spec
from later import in_
from patience import patience
from qgjet.domain import subjects
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store import streams
from qgjet.store.event_log import EventLog, Recorded, StreamState
from qgjet_projections.readmodel import JobQuery, ReadModel
from qgjet_projections.readmodel import projector as projectors
from qgjet_projections.readmodel.projector import Lag, Projector, mismatch, outdated
from qgjet_projections.readmodel.writer import Position, Writer, fingerprint

FOLLOW = Path(__file__).parent / "follow.py"


async def publish(connection: Connection, messages: list[Recorded]) -> int:
    """Write messages into the log as they are; gives its last sequence."""
    log = EventLog(connection)
    last = (await log.state()).last_seq + len(messages)
    for one in messages:
        await connection.publish(one.subject, one.data)
    async with asyncio.timeout(patience(20)):
        while (await log.state()).last_seq < last:  # noqa: ASYNC110
            await asyncio.sleep(
                0.002
            )  # nobody acknowledged them: JetStream stores them a moment later
    return last


async def eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(patience(timeout_s)):
        while not holds():  # noqa: ASYNC110 - what it looks at is a file, or in another process
            await asyncio.sleep(0.005)


async def restart(
    server: NatsServer,
    connection: Connection,
    how: Callable[[], None],
    work: Callable[[], object] = lambda: None,
) -> None:
    """End the server, do `work`, start it, and wait until the connection is on it."""
    reconnects = connection.reconnects
    how()
    work()
    await server.start()
    await eventually(lambda: connection.reconnects > reconnects)


# -- following -----------------------------------------------------------------------------------------------------------------


async def test_what_was_appended_before_and_after_is_applied(
    log: EventLog, read_model: ReadModel
) -> None:
    before = await log.submit(spec(test="a"))
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(before.seq, patience(5))
        after = await log.submit(spec(test="b"))
        assert await projector.wait_for(after.seq, patience(5))
        assert projector.applied_seq == read_model.applied_seq == after.seq
        assert read_model.job(after.job_id) is not None


async def test_an_appended_event_is_visible_at_once(log: EventLog, read_model: ReadModel) -> None:
    async with (
        Projector(log, read_model) as projector,
        asyncio.timeout(patience(10)),
    ):  # less than 60 polls take
        for number in range(60):
            accepted = await log.submit(spec(test=f"{number}"))
            assert await projector.wait_for(accepted.seq, patience(5))
            assert read_model.job(accepted.job_id) is not None


async def test_strangers_in_the_log_stop_nothing_and_are_said_once(
    connection: Connection, log: EventLog, read_model: ReadModel, caplog: pytest.LogCaptureFixture
) -> None:
    last = await publish(connection, Author(1).history(300))
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(last, patience(10))
        assert projector.failure is None
    said = [one.getMessage() for one in caplog.records if one.name == projectors.__name__]
    assert len([one for one in said if "'paused_for_lunch'" in one]) == 1
    assert len([one for one in said if "'opened'" in one]) == 1


async def test_live_with_restarts_and_rebuilt_in_one_go_are_equal(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    history, pick = Author(2).history(1_500), random.Random(2)
    while history:
        async with Projector(log, read_model) as projector:
            for _ in range(pick.randint(1, 4)):
                size = pick.randint(1, 150)
                some, history = history[:size], history[size:]
                last = await publish(connection, some)
                if pick.random() < 0.5:
                    assert await projector.wait_for(last, patience(10))
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for((await log.state()).last_seq, patience(10))
    assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


async def test_kill_9_at_any_moment_and_rebuilt_in_one_go_are_equal(
    server: NatsServer, connection: Connection, log: EventLog, tmp_path: Path
) -> None:
    last = await publish(connection, Author(3).history(12_000))
    path, kills = tmp_path / "killed", 0
    opened = ReadModel.open(path)
    pick = random.Random(3)
    while opened.applied_seq < last:
        at = opened.applied_seq + pick.randint(1, last // 5)
        argv = [sys.executable, str(FOLLOW), server.url, str(path), str(pick.choice([10, 40, 160]))]
        process = subprocess.Popen(argv)  # noqa: ASYNC220
        try:
            await eventually(
                lambda: opened.applied_seq >= min(at, last) or process.poll() is not None,  # noqa: B023
                timeout_s=30,
            )
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
        kills += opened.applied_seq < last
    opened.close()
    assert kills >= 3
    assert content(path) == await rebuilt(log, tmp_path / "rebuilt")


@pytest.mark.parametrize("moment", ["_move_to", "_write", "_standings_for"])
async def test_kill_9_inside_a_transaction_leaves_the_file_before_it(
    server: NatsServer,
    connection: Connection,
    log: EventLog,
    read_model: ReadModel,
    tmp_path: Path,
    moment: str,
) -> None:
    last = await publish(connection, Author(4).history(200))
    for deaths in range(1, 4):
        argv = [
            sys.executable,
            str(FOLLOW),
            server.url,
            str(read_model.path),
            "10",
            moment,
            str(deaths),
        ]
        assert (
            await asyncio.to_thread(subprocess.call, argv, timeout=patience(30)) == -signal.SIGKILL
        )
    assert 0 < read_model.applied_seq < last
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(last, patience(10))
    assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


async def test_two_projectors_share_a_file(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    async with Projector(log, read_model) as one, Projector(log, read_model) as other:
        last = await publish(connection, Author(4).history(2_000))
        assert await one.wait_for(last, patience(10))
        assert await other.wait_for(last, patience(10))
    assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


async def test_nothing_is_lost_when_the_server_restarts(
    server: NatsServer, connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    history = Author(5).history(600)
    async with Projector(log, read_model) as projector:
        for end, how in ((200, server.stop), (400, server.kill), (600, None)):
            last = await publish(connection, history[(await log.state()).last_seq : end])
            if how is not None:
                await restart(server, connection, how)
            assert await projector.wait_for(last, patience(20))
        assert projector.failure is None
    assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


async def test_it_waits_for_a_log_that_is_not_there_yet(
    server: NatsServer, read_model: ReadModel
) -> None:
    async with connect(server.url, name="test") as connection:
        log = EventLog(connection)
        async with Projector(log, read_model) as projector:
            assert projector.lag is None
            assert not await projector.wait_for(1, 0.3)
            assert projector.failure is None
            await streams.ensure(connection)
            accepted = await log.submit(spec())
            assert await projector.wait_for(accepted.seq, patience(5))


# -- waiting and watching ------------------------------------------------------------------------------------------------------


async def test_waiting_ends_in_time_with_nothing(log: EventLog, read_model: ReadModel) -> None:
    async with Projector(log, read_model) as projector:
        assert not await projector.wait_for(1, 0.05)
        assert await projector.wait_for(0, 0)


async def test_subscribers_wake_with_what_is_applied_and_end_with_the_projector(
    log: EventLog, read_model: ReadModel
) -> None:
    told: list[list[int]] = [[], [], []]

    async def listen(heard: list[int]) -> None:
        async for seq in projector.subscribe():
            heard.append(seq)

    async with asyncio.timeout(patience(10)):
        async with Projector(log, read_model) as projector:
            listeners = [asyncio.create_task(listen(heard)) for heard in told]
            for number in range(20):
                accepted = await log.submit(spec(test=f"{number}"))
            assert await projector.wait_for(accepted.seq, patience(5))
        await asyncio.gather(*listeners)
    for heard in told:
        assert heard == sorted(set(heard))
        assert heard[-1] == 20


async def test_lag_counts_what_is_not_applied_and_for_how_long(
    connection: Connection, log: EventLog, read_model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projectors, "LOOK_S", 0.02)
    stuck = asyncio.Event()

    async def never(self: Projector, batch: list[Recorded]) -> bool:
        return await stuck.wait()

    monkeypatch.setattr(Projector, "_apply", never)
    async with Projector(log, read_model) as projector:
        await eventually(lambda: projector.lag == Lag(events=0, seconds=0.0))
        await publish(connection, Author(6).messages + [Author(6).history(1)[0]] * 7)
        await eventually(
            lambda: (
                projector.lag is not None
                and projector.lag.events == 7
                and projector.lag.seconds > 0.1
            )
        )


async def test_a_crash_is_seen_and_leaves_what_was_applied(
    log: EventLog, read_model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Projector(log, read_model) as projector:
        accepted = await log.submit(spec(test="a"))
        assert await projector.wait_for(accepted.seq, patience(5))

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(Writer, "_write", full)
        later = await log.submit(spec(test="b"))
        async with asyncio.timeout(patience(5)):
            assert not await projector.wait_for(later.seq, 60)
            assert [seq async for seq in projector.subscribe()] == [accepted.seq]
        assert "disk is full" in str(projector.failure)
    monkeypatch.undo()
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(later.seq, patience(5))


async def test_pruning_while_it_follows(
    connection: Connection, log: EventLog, read_model: ReadModel
) -> None:
    author = Author()
    gone = [author.run(test=f"{number}") for number in range(30)]
    stays = author.run(test="stays in the log")
    horizon = author.now
    author.run(test="young")
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(await publish(connection, author.messages), patience(5))
        assert await projector.prune(horizon) == 0, "the log has it all"
        for one in gone:
            assert await log.forget(subjects.slot_prefix(one.slot), author.seq) == 3
        assert await projector.prune(horizon) == 30
        assert await projector.prune(horizon) == 0
        accepted = await log.submit(spec(test="2"))
        assert await projector.wait_for(accepted.seq, patience(5))
    assert [job.test for job in read_model.jobs(JobQuery()).items] == ["2", "young", stays.test]


@pytest.mark.parametrize(
    ("retention_s", "kept"), [(0.0, True), (30 * 86_400.0, False), (10**9, True)]
)
async def test_a_read_model_that_was_away_for_longer_than_the_log_remembers_starts_anew(
    connection: Connection,
    log: EventLog,
    read_model: ReadModel,
    retention_s: float,
    kept: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    author = Author()
    author.run(test="old")
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(await publish(connection, author.messages), patience(5))
    accepted = await log.submit(spec(test="new"))
    late = in_(connection, timedelta(days=31))
    async with Projector(late, read_model, retention_s=retention_s) as projector:
        assert await projector.wait_for(accepted.seq, patience(5))
    assert ("starts from nothing" in caplog.text) is not kept


# -- another log ---------------------------------------------------------------------------------------------------------------


async def test_a_log_that_was_made_anew_is_read_from_its_beginning(
    log: EventLog, connection: Connection, read_model: ReadModel, tmp_path: Path
) -> None:
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(
            await publish(connection, Author(7).history(100)), patience(5)
        )
        await connection.api(f"STREAM.DELETE.{subjects.STREAM}")
        await streams.ensure(connection)
        last = await publish(connection, Author(8).history(10))
        await eventually(lambda: projector.applied_seq == last)
        assert projector.failure is None
    assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


@pytest.mark.parametrize(
    "more", [0, 30, 300], ids=["shorter", "shorter in the end", "longer in the end"]
)
@pytest.mark.parametrize("live", [True, False], ids=["while it follows", "while it is away"])
async def test_a_log_restored_from_a_backup_is_read_from_its_beginning(
    tmp_path: Path, read_model: ReadModel, more: int, live: bool
) -> None:
    history, other = Author(9).history(200), Author(10).history(400)
    async with (
        nats_server(tmp_path / "nats") as server,
        connect(server.url, name="test") as connection,
    ):
        log = EventLog(connection)
        await streams.ensure(connection)
        await publish(connection, history[:100])
        await restart(
            server,
            connection,
            server.stop,
            lambda: shutil.copytree(server.store / "jetstream", tmp_path / "backup"),
        )
        async with contextlib.AsyncExitStack() as while_it_follows:
            projector = await while_it_follows.enter_async_context(Projector(log, read_model))
            last = await publish(connection, history[100:])
            assert await projector.wait_for(last, patience(10))
            if not live:
                await while_it_follows.aclose()
            server.stop()
            _restore(server.store / "jetstream", tmp_path / "backup")
            await server.start()
            async with connect(server.url, name="somebody else") as faster:
                last = await publish(faster, other[:more])
            await connection.wait_connected(10)
            if live:
                await eventually(
                    lambda: (
                        read_model.applied_seq == last
                        and projector.lag == Lag(events=0, seconds=0.0)
                    ),
                    20,
                )
        async with Projector(log, read_model) as projector:
            await eventually(
                lambda: (
                    projector.lag == Lag(events=0, seconds=0.0) and projector.applied_seq == last
                ),
                20,
            )
        assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


def _restore(store: Path, backup: Path) -> None:
    shutil.rmtree(store)
    shutil.copytree(backup, store)


async def test_what_was_purged_before_it_was_applied_starts_it_anew(
    connection: Connection, log: EventLog, read_model: ReadModel, tmp_path: Path
) -> None:
    author = Author()
    author.submit(test="stays")
    author.run(test="goes")
    apply(read_model.path, author.messages[:1])
    last = await publish(connection, author.messages)
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(last, patience(5))
    author.run(test="goes too")
    await publish(connection, author.messages[4:])
    await connection.api(f"STREAM.PURGE.{subjects.STREAM}", {"seq": 7})
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(7, patience(5))
    assert content(read_model.path) == await rebuilt(log, tmp_path / "rebuilt")


async def test_a_purged_end_of_the_log_is_not_waited_for(
    connection: Connection, log: EventLog, read_model: ReadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projectors, "LOOK_S", 0.05)
    author = Author()
    author.submit(test="stays")
    gone = author.run(test="goes")
    last = await publish(connection, author.messages)
    await connection.api(
        f"STREAM.PURGE.{subjects.STREAM}", {"filter": subjects.slot_filter(gone.slot)}
    )
    async with Projector(log, read_model) as projector:
        assert await projector.wait_for(last, patience(5))
        await eventually(lambda: projector.lag == Lag(events=0, seconds=0.0))
        accepted = await log.submit(spec(test="next"))
        assert await projector.wait_for(accepted.seq, patience(5))
    assert [job.test for job in read_model.jobs(JobQuery()).items] == ["next", "stays"]


def test_reasons_to_start_anew() -> None:
    message = Recorded(10, "qg.job.x", None, b"data")
    position = Position(
        applied_seq=10, stream_created="monday", fingerprint=fingerprint(message), applied_at=NOW
    )
    state = StreamState(first_seq=1, last_seq=12, created="monday", now=NOW)

    def changed(**fields: object) -> StreamState:
        return StreamState(
            **{"first_seq": 1, "last_seq": 12, "created": "monday", "now": NOW, **fields}
        )  # type: ignore[arg-type]

    assert mismatch(position, state, message) is None
    assert mismatch(position, state, None) is None
    assert mismatch(position, changed(first_seq=11, last_seq=10), None) is None
    assert "made at tuesday" in str(mismatch(position, changed(created="tuesday"), message))
    assert "rolled back" in str(mismatch(position, changed(last_seq=9), None))
    assert "purged" in str(mismatch(position, changed(first_seq=12), None))
    assert "rolled back" in str(
        mismatch(position, state, Recorded(10, "qg.job.x", None, b"other data"))
    )
    assert "rolled back" in str(mismatch(position, state, Recorded(10, "qg.job.y", None, b"data")))
    assert outdated(position, state, NOW) is None
    assert outdated(position, changed(last_seq=10), NOW + timedelta(days=1)) is None
    assert "purged" in str(outdated(position, state, NOW + timedelta(seconds=1)))
