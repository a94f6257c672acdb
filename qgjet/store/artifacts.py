"""Files that attempts leave behind, in the NATS object store `qg-artifacts`. `nats object ls
qg-artifacts` shows them too.

An object is a run of chunks on `$O.<bucket>.C.<nuid>` and one message on `$O.<bucket>.M.<name in
base64>` that describes them (ADR-20 of NATS). It is called `<job id, encoded>/<attempt>/<path>`.
The description is written last, so what can be found is whole, until the stream's age limit takes
it.

Nothing here holds more of a file than a window of chunks: nats-py's own store gathers whole objects
in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import uuid
from collections.abc import AsyncGenerator
from typing import BinaryIO

import msgspec
from msgspec import Struct

from qgjet.domain.subjects import ARTIFACTS_BUCKET, encode_token
from qgjet.errors import ArtifactGone, NatsUnavailable, PermissionDenied, StoreFull
from qgjet.jetstream.connection import (
    Connection,
    JetStreamError,
    Msg,
    read_ack,
    refusal,
    translated,
)
from qgjet.jetstream.direct_get import messages

STREAM = f"OBJ_{ARTIFACTS_BUCKET}"
CHUNK_BYTES = 128 * 1024
"""As other clients cut, and well below the server's largest message."""
WINDOW = 8
"""Chunks on their way at a time: 1 MiB that a heartbeat may have to wait behind."""
READ_CHUNKS = 16
READ_BYTES = READ_CHUNKS * CHUNK_BYTES
MARK_EVERY = 64
"""Chunks between two marks: 8 MiB that a byte range may have to step over."""
PUT_TIMEOUT_S = 60.0
CHUNK_TIMEOUT_S = 30.0
"""A window over a slow line; a broken connection ends the wait at once."""
_MARKS = "qgjet.marks"
_CHUNKS = f"$O.{ARTIFACTS_BUCKET}.C."
_META = f"$O.{ARTIFACTS_BUCKET}.M."
_NO_MESSAGE = 10037
_NO_STREAM = 10059
_DIGEST = "SHA-256="


class Options(Struct, frozen=True, kw_only=True):
    max_chunk_size: int = 0


class ObjectInfo(Struct, frozen=True, kw_only=True):
    """An object's description as it is stored, in the words of NATS."""

    name: str
    bucket: str = ARTIFACTS_BUCKET
    nuid: str = ""
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: str = "0001-01-01T00:00:00Z"
    """Not used: readers take the time of the message."""
    deleted: bool = False
    headers: dict[str, list[str]] | None = None
    metadata: dict[str, str] | None = None
    """`qgjet.marks`: the stream sequences of every 64th chunk, so that a range need not be searched
    for.
    """
    options: Options | None = None

    @property
    def sha256(self) -> str:
        """In hexadecimal digits; empty for a digest of another kind, or none."""
        try:
            return (
                base64.urlsafe_b64decode(self.digest.removeprefix(_DIGEST)).hex()
                if self.digest.startswith(_DIGEST)
                else ""
            )
        except ValueError:
            return ""


def attempt_prefix(job_id: str, attempt: int) -> str:
    return f"{encode_token(job_id).replace('/', '%2F')}/{attempt}/"


def object_name(job_id: str, attempt: int, path: str) -> str:
    return attempt_prefix(job_id, attempt) + path


class ArtifactStore:
    """Reads and writes on one connection. Stateless: any number may be used side by side. Errors:
    NatsUnavailable, ArtifactGone.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- writing -----------------------------------------------------------------------------------------------------

    async def put(
        self, name: str, file: BinaryIO, *, content_type: str = "", timeout_s: float = PUT_TIMEOUT_S
    ) -> ObjectInfo:
        """Store what `file`, which can be rewound, holds; in the place of an object of that name.

        A lost connection is waited for and the file sent anew. Raises NatsUnavailable when that did
        not work in time; nothing can be found under the name then, or what was there before. A
        second call with the same content is harmless.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            nuid = uuid.uuid4().hex
            try:
                async with asyncio.timeout_at(deadline):
                    before = await self.stat(name)
                    info = await self._send(name, nuid, file, content_type)
                    await self._describe(info)
            except TimeoutError:
                await self._forget(nuid)
                raise NatsUnavailable(f"{name} was not stored within {timeout_s:g} s") from None
            except NatsUnavailable as problem:
                try:
                    await self._wait(deadline, problem)
                finally:
                    await self._forget(nuid)
                continue
            except BaseException:
                await asyncio.shield(self._forget(nuid))
                raise
            if before is not None and before.nuid:
                await self._forget(before.nuid)
            return info

    async def _wait(self, deadline: float, problem: NatsUnavailable) -> None:
        time = asyncio.get_running_loop().time
        if isinstance(problem, PermissionDenied | StoreFull) or (
            isinstance(problem, JetStreamError) and problem.error.code not in (429, 503)
        ):
            raise problem
        await asyncio.sleep(min(0.1, max(deadline - time(), 0.0)))
        if time() >= deadline:
            raise problem
        await self._connection.wait_connected(deadline - time())

    async def _send(self, name: str, nuid: str, file: BinaryIO, content_type: str) -> ObjectInfo:
        """Send the chunks, in order and never more than a window of them."""
        digest, size, marks = hashlib.sha256(), 0, list[int]()
        waiting: list[asyncio.Future[int]] = []
        sent = 0
        await asyncio.to_thread(file.seek, 0)
        try:
            while chunk := await asyncio.to_thread(_read, file, digest):
                if len(waiting) == WINDOW:
                    _mark(marks, sent - WINDOW, await waiting.pop(0))
                waiting.append(
                    asyncio.ensure_future(
                        self._stored(
                            await self._connection.send(
                                _CHUNKS + nuid, chunk, timeout_s=CHUNK_TIMEOUT_S
                            ),
                            nuid,
                        )
                    )
                )
                size, sent = size + len(chunk), sent + 1
            for number in range(sent - len(waiting), sent):
                _mark(marks, number, await waiting.pop(0))
        finally:
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return ObjectInfo(
            name=name,
            nuid=nuid,
            size=size,
            chunks=sent,
            digest=_DIGEST + base64.urlsafe_b64encode(digest.digest()).decode(),
            headers={"Content-Type": [content_type]} if content_type else None,
            metadata={_MARKS: " ".join(map(str, marks))},
            options=Options(max_chunk_size=CHUNK_BYTES),
        )

    async def _stored(self, answer: asyncio.Future[Msg], what: str) -> int:
        ack = read_ack(await answer)
        if ack.error is not None:
            raise refusal(f"the object store ({what})", ack.error)
        if not ack.seq:
            raise NatsUnavailable(f"the object store {ARTIFACTS_BUCKET} is not there")
        return ack.seq

    async def _describe(self, info: ObjectInfo) -> None:
        payload = msgspec.json.encode(
            {key: value for key, value in msgspec.to_builtins(info).items() if value is not None}
        )
        await self._stored(
            await self._connection.send(
                _meta_subject(info.name), payload, headers={"Nats-Rollup": "sub"}
            ),
            info.name,
        )

    async def _forget(self, nuid: str) -> None:
        """Remove chunks that nobody will ask for. What stays for want of an answer goes with its
        age.
        """
        try:
            await self._connection.api(
                f"STREAM.PURGE.{STREAM}", {"filter": _CHUNKS + nuid}, timeout_s=2.0
            )
        except NatsUnavailable:
            return

    # -- reading -----------------------------------------------------------------------------------------------------

    async def stat(self, name: str) -> ObjectInfo | None:
        """The object's description; None when there is none."""
        try:
            answer = await self._connection.api(
                f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": _meta_subject(name)}
            )
        except JetStreamError as error:
            if error.error.err_code in (_NO_MESSAGE, _NO_STREAM):
                return None
            raise
        with translated(name):
            return read_info(base64.b64decode(answer["message"].get("data", "")))

    async def of_attempt(self, job_id: str, attempt: int) -> list[ObjectInfo]:
        """The objects of one attempt, by name. The store has no index: this looks through the names
        of all its objects, events tell sooner.
        """
        prefix, found, offset, total = attempt_prefix(job_id, attempt), list[str](), 0, 1
        while offset < total:
            answer = await self._connection.api(
                f"STREAM.INFO.{STREAM}", {"subjects_filter": _META + ">", "offset": offset}
            )
            with translated("the list of artifacts"):
                page = answer["state"].get("subjects") or {}
            found += [name for name in map(_name_of, page) if name.startswith(prefix)]
            total, offset = answer.get("total", 0), offset + max(len(page), 1)
        return [info for name in sorted(found) if (info := await self.stat(name)) is not None]

    async def get(
        self, info: ObjectInfo, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to, without, `end`, in pieces. A whole object is checked
        against its digest.

        Raises ArtifactGone when chunks are missing or wrong, with the last piece at the latest.
        """
        end = info.size if end is None else min(end, info.size)
        digest = hashlib.sha256() if (start, end) == (0, info.size) and info.sha256 else None
        position, after = _place(info, start)
        first = after
        while position < end:
            found = await messages(
                self._connection,
                STREAM,
                _CHUNKS + info.nuid,
                after,
                batch=READ_CHUNKS,
                max_bytes=READ_BYTES,
            )
            if not found or (first and after == first and found[0].seq != first + 1):
                if not first:
                    raise ArtifactGone(
                        f"{info.name} is not in the object store {ARTIFACTS_BUCKET} any more"
                    )
                position, after, first = (
                    0,
                    0,
                    0,
                )  # the mark is that of another stream, such as a copy
                continue
            for seq, _, chunk, _ in found:
                piece = chunk[max(start - position, 0) : max(end - position, 0)]
                position, after = position + len(chunk), seq
                if digest is not None:
                    digest.update(chunk)
                    if position == info.size and digest.hexdigest() != info.sha256:
                        raise ArtifactGone(
                            f"{info.name} is damaged: its content does not have the digest it was stored with"
                        )
                if piece:
                    yield piece


def read_info(data: bytes) -> ObjectInfo | None:
    """None for an object that was deleted, and for somebody else's."""
    try:
        info = msgspec.json.decode(data, type=ObjectInfo)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if info.deleted else info


def _read(file: BinaryIO, digest: hashlib._Hash) -> bytes:
    chunk = file.read(CHUNK_BYTES)
    digest.update(chunk)
    return chunk


def _mark(marks: list[int], number: int, seq: int) -> None:
    if number % MARK_EVERY == 0:
        marks.append(seq)


def _place(info: ObjectInfo, start: int) -> tuple[int, int]:
    """(byte, sequence after which to look) of the last mark that is not behind `start`; (0, 0)
    without marks.
    """
    size = info.options.max_chunk_size if info.options else 0
    words = (info.metadata or {}).get(_MARKS, "").split()
    number = start // (size * MARK_EVERY) if size > 0 else 0
    if number == 0 or number >= len(words) or not re.fullmatch(r"[0-9]{1,18}", words[number]):
        return 0, 0
    return number * size * MARK_EVERY, int(words[number]) - 1


def _meta_subject(name: str) -> str:
    return _META + base64.urlsafe_b64encode(name.encode()).decode()


def _name_of(subject: str) -> str:
    try:
        return base64.urlsafe_b64decode(subject.removeprefix(_META)).decode()
    except ValueError:
        return ""
