"""Backups of what a server keeps, as directories, by JetStream's own snapshots: online, and whole
as of one moment for each stream.

A directory holds `manifest.json` and, for each stream, `backup.json` and `stream.tar.s2`, which
`nats stream restore` reads too. It gets its name when it is complete, so half a backup cannot be
taken for a whole one. Sequences stay what they were: tickets and versions are valid after a
restore. Consumers are made
anew: the log knows better than any of them what is done. Events are saved before artifacts, so that every file that an event names is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from qgjet.config.settings import QueueSettings
from qgjet.domain.subjects import ARTIFACTS_BUCKET, LOGS, STREAM, lane_consumer, parse_consumer
from qgjet.errors import Conflict, InvalidInput, NatsUnavailable
from qgjet.jetstream.connection import ApiError, Connection, JetStreamError, Msg, translated
from qgjet.store import streams
from qgjet.store.job_queue import Queue
from qgjet.support import private_files
from qgjet.support.clock import Clock, utc_now
from qgjet.version import __version__

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when what an older restore knows is not enough to read a backup."""
KEPT = (STREAM, f"OBJ_{ARTIFACTS_BUCKET}", LOGS)
"""In the order in which they are saved. Who is alive, and hints for the janitor, are nothing to
keep.
"""
CHUNK_BYTES = 128 * 1024
STALL_S = 30.0
"""The server, or the disk, may take so long for one chunk."""
RESTORE_S = 600.0
"""The server may take so long to put a stream together after its last chunk."""
_MANIFEST = "manifest.json"
_NOT_FOUND = 10059


class SavedStream(Struct, frozen=True, kw_only=True):
    name: str
    messages: int
    first_seq: int
    last_seq: int
    size: int
    """Of `stream.tar.s2`, in bytes."""
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    format: int
    qgjet: str
    server: str
    made_at: datetime
    streams: tuple[SavedStream, ...]
    lanes: tuple[str, ...] = ()
    """Consumers that there were, to be made again."""


async def save(
    connection: Connection, directory: Path, names: Sequence[str] = KEPT, clock: Clock = utc_now
) -> Manifest:
    """Write a backup of the streams that there are into `directory`, which must not exist.

    Raises InvalidInput when it does, NatsUnavailable when the server stops answering: nothing is
    left then. Work goes on meanwhile.
    """
    if directory.exists():
        raise InvalidInput("DIR", f"{directory} exists: name a new directory")
    there = [name for name in names if await streams.stream_config(connection, name) is not None]
    if STREAM not in there:
        raise Conflict(f"there is nothing to save at {connection.url}: it has no stream {STREAM}")
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    private_files.make_directory(partial)
    try:
        lanes = [
            lane_consumer(state.lane) for state in await Queue(connection, QueueSettings()).lanes()
        ]
        made_at = clock()
        saved = [await _save_stream(connection, name, partial / name) for name in there]
        manifest = Manifest(
            format=FORMAT,
            qgjet=__version__,
            server=_server_version(connection),
            made_at=made_at,
            streams=tuple(saved),
            lanes=tuple(sorted(lanes)),
        )
        with private_files.create(partial / _MANIFEST) as file:
            file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def _server_version(connection: Connection) -> str:
    version = connection.client.connected_server_version
    return f"{version.major}.{version.minor}.{version.patch}"


async def _save_stream(connection: Connection, name: str, directory: Path) -> SavedStream:
    private_files.make_directory(directory)
    with private_files.create(directory / "stream.tar.s2") as file:
        snapshot = await _Snapshot.take(connection, name, file)
    with private_files.create(directory / "backup.json") as file:
        file.write(msgspec.json.encode(snapshot.described))
    state = snapshot.described["state"]
    return SavedStream(
        name=name,
        messages=state["messages"],
        first_seq=state["first_seq"],
        last_seq=state["last_seq"],
        size=snapshot.size,
        sha256=snapshot.digest.hexdigest(),
    )


class _Snapshot:
    """One snapshot on its way into a file: each chunk is acknowledged once it is written, so the
    disk sets the pace.
    """

    def __init__(self, connection: Connection, name: str, file: BinaryIO) -> None:
        self.described: dict[str, Any] = {}
        self.size = 0
        self.digest = hashlib.sha256()
        self._connection = connection
        self._name = name
        self._file = file
        self._chunks: asyncio.Queue[Msg] = asyncio.Queue()

    @classmethod
    async def take(cls, connection: Connection, name: str, file: BinaryIO) -> _Snapshot:
        snapshot = cls(connection, name, file)
        inbox = connection.client.new_inbox()
        subscription = await connection.subscribe(inbox, snapshot._chunks.put)
        try:
            body = {
                "deliver_subject": inbox,
                "chunk_size": CHUNK_BYTES,
                "no_consumers": True,
                "jsck": True,
            }
            answer = await connection.api(f"STREAM.SNAPSHOT.{name}", body, timeout_s=STALL_S)
            snapshot.described = {"config": answer["config"], "state": answer["state"]}
            await snapshot._write_all()
        finally:
            await connection.unsubscribe(subscription)
        return snapshot

    async def _write_all(self) -> None:
        while chunk := await self._next():
            await asyncio.to_thread(self._file.write, chunk.data)
            self.digest.update(chunk.data)
            self.size += len(chunk.data)
            if chunk.reply:
                await self._connection.publish(chunk.reply)

    async def _next(self) -> Msg | None:
        """None at the end of the snapshot."""
        try:
            async with asyncio.timeout(STALL_S):
                message = await self._chunks.get()
        except TimeoutError:
            raise NatsUnavailable(
                f"the snapshot of {self._name} has stopped: nothing came for {STALL_S:g} s"
            ) from None
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status and status not in ("100", "204"):
            raise NatsUnavailable(
                f"the server gave up the snapshot of {self._name}: {status} {headers.get('Description', '')}".rstrip()
            )
        return message if message.data else None


def read_manifest(directory: Path) -> Manifest:
    """What the backup holds, once all of it is found to be as it was written. Raises InvalidInput."""
    path = directory / _MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise InvalidInput(
            "DIR", f"{directory} is no backup: {path.name} cannot be read ({error.strerror})"
        ) from error
    except msgspec.MsgspecError as error:
        raise InvalidInput("DIR", f"{path} cannot be read: {error}") from error
    if manifest.format > FORMAT:
        raise InvalidInput(
            "DIR",
            f"{directory} was made by qgjet {manifest.qgjet}, in format {manifest.format}; this one reads {FORMAT}: use that version",
        )
    for one in manifest.streams:
        _check(directory / one.name / "stream.tar.s2", one)
        _described(directory / one.name / "backup.json", one)
    return manifest


def _check(path: Path, saved: SavedStream) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _not_whole(path, error) from error
    if found != saved.sha256:
        raise InvalidInput(
            "DIR", f"{path} is damaged: it does not have the digest that the manifest says"
        )


def _described(path: Path, saved: SavedStream) -> dict[str, Any]:
    """Config and state of the stream, as the server wants them back."""
    try:
        described: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        is_same = (described["config"]["name"], described["state"]["last_seq"]) == (
            saved.name,
            saved.last_seq,
        )
    except OSError as error:
        raise _not_whole(path, error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError):
        is_same = False
    if not is_same:
        raise InvalidInput(
            "DIR", f"{path} is damaged: it does not describe the stream of the manifest"
        )
    return described


def _not_whole(path: Path, error: OSError) -> InvalidInput:
    return InvalidInput("DIR", f"{path} cannot be read ({error.strerror}): the backup is not whole")


async def restore(
    connection: Connection, directory: Path, *, replace: bool = False, replicas: int | None = None
) -> Manifest:
    """Put the streams of a backup on a server that has none of them; with `replace` in the place of
    those it has.

    Checks the whole backup before it touches anything. Raises InvalidInput for a backup that cannot
    be used, Conflict when streams are there. The log comes
    last: while it is missing nobody works. After an error the same call with `replace` is the way on.
    """
    manifest = await asyncio.to_thread(read_manifest, directory)
    there = [
        one.name
        for one in manifest.streams
        if await streams.stream_config(connection, one.name) is not None
    ]
    if there and not replace:
        raise Conflict(
            f"{connection.url} has {', '.join(there)} already: restore into an empty server, or pass --replace to lose what is there now"
        )
    for name in there:
        await _delete(connection, name)
    for one in reversed(manifest.streams):
        await _restore_stream(connection, one, directory / one.name, replicas)
    await _set_up(connection, manifest)
    return manifest


async def _delete(connection: Connection, name: str) -> None:
    try:
        await connection.api(f"STREAM.DELETE.{name}", timeout_s=STALL_S)
    except JetStreamError as error:
        if error.error.err_code != _NOT_FOUND:
            raise


async def _restore_stream(
    connection: Connection, saved: SavedStream, directory: Path, replicas: int | None
) -> None:
    described = _described(directory / "backup.json", saved)
    if replicas is not None:
        described["config"]["num_replicas"] = replicas
    answer = await connection.api(f"STREAM.RESTORE.{saved.name}", described, timeout_s=STALL_S)
    subject = answer["deliver_subject"]
    with (directory / "stream.tar.s2").open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            _raise_refusal(saved.name, await connection.request(subject, chunk, timeout_s=STALL_S))
    last = await connection.request(subject, timeout_s=RESTORE_S)
    _raise_refusal(saved.name, last)
    state = (await connection.api(f"STREAM.INFO.{saved.name}"))["state"]
    if state["last_seq"] < saved.last_seq:
        raise NatsUnavailable(
            f"{saved.name} ends at {state['last_seq']} after the restore, not at {saved.last_seq}: try again with --replace"
        )
    log.info("%s is back: %d messages up to %d", saved.name, state["messages"], state["last_seq"])


def _raise_refusal(name: str, message: Msg) -> None:
    if not message.data:
        return
    with translated(f"restore of {name}"):
        answer = msgspec.json.decode(message.data, type=dict[str, Any])
        if "error" in answer:
            raise JetStreamError(f"restore of {name}", msgspec.convert(answer["error"], ApiError))


async def _set_up(connection: Connection, manifest: Manifest) -> None:
    """What a backup leaves out: the other streams, and a consumer for each lane, so that work goes
    on even where no janitor is.
    """
    deployment = await streams.ensure(connection)
    queue = Queue(connection, QueueSettings().agreed(deployment))
    for lane in filter(None, map(parse_consumer, manifest.lanes)):
        await queue.ensure(lane)
