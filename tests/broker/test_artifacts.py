"""The store of artifacts on a real server, with NATS's own clients as the second opinion."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import signal
import threading
import tracemalloc
from pathlib import Path

import pytest

from agents import eventually
from qgjet.domain.deployment import Deployment
from qgjet.domain.subjects import LOGS
from qgjet.errors import ArtifactGone, NatsUnavailable
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import artifacts, streams
from qgjet.store.artifacts import CHUNK_BYTES, MARK_EVERY, ArtifactStore, object_name

NATS_CLI = Path(__file__).parents[2] / ".tools" / "bin" / "nats"


@pytest.fixture
def store(connection: Connection) -> ArtifactStore:
    return ArtifactStore(connection)


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def whole(store: ArtifactStore, name: str, start: int = 0, end: int | None = None) -> bytes:
    info = await store.stat(name)
    assert info is not None
    return b"".join([piece async for piece in store.get(info, start, end)])


async def stored_messages(connection: Connection) -> int:
    return int((await connection.api(f"STREAM.INFO.{artifacts.STREAM}"))["state"]["messages"])


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 40 * CHUNK_BYTES + 7]
)
async def test_what_is_put_comes_back(store: ArtifactStore, size: int) -> None:
    data = content(size)
    put = await store.put("j/1/x.bin", io.BytesIO(data), content_type="application/octet-stream")
    found = await store.stat("j/1/x.bin")
    assert found == put
    assert (put.size, put.chunks, put.sha256) == (
        size,
        -(-size // CHUNK_BYTES),
        hashlib.sha256(data).hexdigest(),
    )
    assert await whole(store, "j/1/x.bin") == data


async def test_any_range_can_be_read(store: ArtifactStore) -> None:
    data = content((2 * MARK_EVERY + 3) * CHUNK_BYTES + 11)
    await store.put("j/1/video.mp4", io.BytesIO(data))
    rng = random.Random(1)
    edge = MARK_EVERY * CHUNK_BYTES
    ranges = [
        (0, 1),
        (len(data) - 1, len(data)),
        (edge - 1, edge + 1),
        (edge, edge + 5),
        (2 * edge, len(data)),
        (5, 5),
    ]
    ranges += [tuple(sorted(rng.sample(range(len(data)), 2))) for _ in range(6)]  # type: ignore[misc]
    for start, end in ranges:
        assert await whole(store, "j/1/video.mp4", start, end) == data[start:end], (start, end)


async def test_the_cli_of_nats_reads_it(
    server: NatsServer, store: ArtifactStore, tmp_path: Path
) -> None:
    data = content(3 * CHUNK_BYTES + 5)
    name = object_name("job 1/é", 2, "test-results/home screen.png")
    await store.put(name, io.BytesIO(data))
    target = tmp_path / "got"
    command = [
        str(NATS_CLI),
        "--no-context",
        "-s",
        server.url,
        "object",
        "get",
        "qg-artifacts",
        name,
        "--output",
        str(target),
        "--no-progress",
        "--force",
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"HOME": str(tmp_path)},
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert target.read_bytes() == data


async def test_the_client_of_nats_reads_and_writes_it(
    connection: Connection, store: ArtifactStore
) -> None:
    theirs = await connection.client.jetstream().object_store("qg-artifacts")
    data = content(3 * CHUNK_BYTES + 5)
    await store.put("j/1/report.json", io.BytesIO(data))
    assert (await theirs.get("j/1/report.json")).data == data
    await theirs.put("j/1/other", data)
    assert await whole(store, "j/1/other") == data
    assert await whole(store, "j/1/other", 7, 300_000) == data[7:300_000]
    await theirs.delete("j/1/other")
    assert await store.stat("j/1/other") is None


async def test_a_second_put_leaves_one_object(connection: Connection, store: ArtifactStore) -> None:
    data = content(2 * CHUNK_BYTES)
    for _ in range(3):
        await store.put("j/1/a", io.BytesIO(data))
    assert await whole(store, "j/1/a") == data
    assert await stored_messages(connection) == 3


async def test_the_objects_of_an_attempt_are_listed(store: ArtifactStore) -> None:
    for job_id, attempt, path in (
        ("j", 1, "b.png"),
        ("j", 1, "a/é.txt"),
        ("j", 11, "c"),
        ("jj", 1, "d"),
        ("j/1", 1, "e"),
    ):
        await store.put(object_name(job_id, attempt, path), io.BytesIO(b"x"))
    assert [one.name for one in await store.of_attempt("j", 1)] == ["j/1/a/é.txt", "j/1/b.png"]
    assert [one.name for one in await store.of_attempt("j/1", 1)] == ["j%2F1/1/e"]
    assert await store.of_attempt("nobody", 1) == []


async def test_a_put_outlasts_a_restart_of_the_server(
    server: NatsServer, connection: Connection, store: ArtifactStore
) -> None:
    data = content(60 * CHUNK_BYTES)
    file = Stopping(data, at=30 * CHUNK_BYTES)
    putting = asyncio.create_task(store.put("j/1/a", file, timeout_s=30))
    await asyncio.to_thread(file.reached.acquire)
    server.kill()
    await server.start()
    file.go_on.release()
    await putting
    assert await whole(store, "j/1/a") == data
    assert await stored_messages(connection) <= 61 + 60, (
        "at most the chunks of the first try are left"
    )


class Stopping(io.BytesIO):
    """Stops once before it is read at `at`."""

    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data)
        self._at = at
        self.reached, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() == self._at:
            self._at = -1
            self.reached.release()
            self.go_on.acquire()
        return super().read(size)


async def test_a_put_that_takes_too_long_leaves_nothing(
    server: NatsServer, connection: Connection, store: ArtifactStore
) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(NatsUnavailable):
            await store.put("j/1/a", io.BytesIO(content(CHUNK_BYTES)), timeout_s=0.3)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert await store.stat("j/1/a") is None


async def test_without_the_bucket_a_put_fails_and_a_look_finds_nothing(
    connection: Connection, store: ArtifactStore
) -> None:
    await connection.api(f"STREAM.DELETE.{artifacts.STREAM}")
    assert await store.stat("j/1/a") is None
    with pytest.raises(NatsUnavailable):
        await store.put("j/1/a", io.BytesIO(b"x"), timeout_s=0.3)


async def test_chunks_that_are_gone_or_changed_are_noticed(
    connection: Connection, store: ArtifactStore
) -> None:
    info = await store.put("j/1/a", io.BytesIO(content(3 * CHUNK_BYTES)))
    first = (
        await connection.api(
            f"STREAM.MSG.GET.{artifacts.STREAM}", {"last_by_subj": f"$O.qg-artifacts.C.{info.nuid}"}
        )
    )["message"]["seq"] - 2
    await connection.api(f"STREAM.MSG.DELETE.{artifacts.STREAM}", {"seq": first})
    with pytest.raises(ArtifactGone):
        await whole(store, "j/1/a")
    await connection.request(f"$O.qg-artifacts.C.{info.nuid}", content(CHUNK_BYTES))
    with pytest.raises(ArtifactGone, match="damaged"):
        await whole(store, "j/1/a")
    await connection.api(
        f"STREAM.PURGE.{artifacts.STREAM}", {"filter": f"$O.qg-artifacts.C.{info.nuid}"}
    )
    with pytest.raises(ArtifactGone):
        await whole(store, "j/1/a")


async def test_a_large_file_neither_fills_the_memory_nor_stops_the_event_loop(
    store: ArtifactStore, tmp_path: Path
) -> None:
    path = tmp_path / "video"
    path.write_bytes(os.urandom(1024 * 1024) * 20)
    longest = 0.0
    loop = asyncio.get_running_loop()

    async def beat() -> None:
        nonlocal longest
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - before)

    beating = asyncio.create_task(beat())
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            info = await store.put("j/1/video", file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        beating.cancel()
    assert info.size == 20 * 1024 * 1024
    assert peak < 8 * 1024 * 1024
    assert longest < 1.0

    async def there() -> bool:
        return await store.stat("j/1/video") == info

    await eventually(there)


async def test_the_retention_of_the_settings_counts_when_the_streams_are_made(
    server: NatsServer,
) -> None:
    day = 86_400 * 10**9
    async with connect(server.url, name="test") as connection:
        for days, found in (
            (3, (3 * day, day)),
            (9, (3 * day, day)),
        ):  # the second time they are there
            await streams.ensure(
                connection,
                Deployment(artifact_retention_s=days * 86_400.0, log_retention_s=86_400.0),
            )
            ages = [
                (await streams.stream_config(connection, name) or {})["max_age"]
                for name in (artifacts.STREAM, LOGS)
            ]
            assert tuple(ages) == found
