"""What an attempt has left in its directory: found, freed of secrets, and stored.

A job may leave anything: links that lead elsewhere, pipes, names that no other system can hold, a
million files. Only regular files that lie in the directory itself are opened, without following a
link in the last step; no process of the job is alive by then to change the others.

Secrets are removed at the door: a file is redacted while it is copied to what is stored, and the
attempt's directory stays as the job wrote it. Nothing larger than the limits is opened, and a copy
stops between two pieces when the agent does not need it any more.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import mimetypes
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor as Threads
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from qgjet.config.settings import ArtifactSettings
from qgjet.domain.events import Artifact, Verdict
from qgjet.domain.filenames import MAX_NAME_BYTES, is_safe
from qgjet.errors import QgjetError
from qgjet.runners.redaction import HEAD_BYTES, Content, Redactor, content_of
from qgjet.store.artifacts import ArtifactStore, object_name

logger = logging.getLogger(__name__)

LOGS_AND_REPORTS = ("report.json", "junit.xml", "output.log", "webdriver.log")
MEDIA = "test-results"
MAX_FILES = 200
"""Of one attempt: each one takes a line in the event."""
MAX_DEPTH = 12
MAX_LOOKED_AT = 20_000
_TYPES = {
    ".log": "text/plain",
    ".md": "text/markdown",
    ".webm": "video/webm",
    ".json": "application/json",
    ".xml": "application/xml",
    ".har": "application/json",
}
"""Before the tables of the machine, which differ."""
_LINE_BYTES = 1024 * 1024
_PASSED = frozenset({Verdict.PASSED, Verdict.SKIPPED})
_CUT = b"[qgjet: the first %d bytes are left out, the log is larger than max_file]\n"


class Found(Struct, frozen=True):
    """A file to store."""

    name: str
    """As it is stored: relative to the attempt's directory, with `/`, without secrets."""
    path: str
    size: int

    @property
    def is_log(self) -> bool:
        return self.path.endswith(".log")


class _Stopped(Exception):
    """The copy is not needed any more."""


class ArtifactCollector:
    """The files of one attempt on their way into the store. `artifacts` says at any moment what is
    there, and why the rest is not.
    """

    def __init__(
        self,
        store: ArtifactStore,
        settings: ArtifactSettings,
        job_id: str,
        attempt: int,
        directory: str,
        redactor: Redactor,
    ) -> None:
        self._store, self._settings = store, settings
        self._job_id, self._attempt, self._directory = job_id, attempt, directory
        self._redactor = redactor
        self._stopped = threading.Event()
        self._stored: dict[str, Artifact] = {}
        self._waiting: list[Found] = []
        self._unlisted = 0

    async def look(self, verdict: Verdict) -> None:
        """What the settings ask for of an attempt that came to `verdict`: from now on it waits to
        be stored.
        """
        if self._settings.collect == "never":
            return
        media = self._settings.collect == "always" or verdict not in _PASSED
        found = await asyncio.to_thread(find, self._directory, media=media)
        self._waiting, self._unlisted = (
            without_secrets(found[:MAX_FILES], self._redactor),
            len(found[MAX_FILES:]),
        )

    async def store(self) -> None:
        """Store what waits. What fails is left out; never raises for it. A cancellation ends it
        within a piece of a file.
        """
        room = self._settings.max_attempt_bytes
        # a thread of its own: among those of all attempts, a copy could wait for the copies of
        # others
        with ThreadPoolExecutor(1, thread_name_prefix="artifacts") as threads:
            for one in list(self._waiting):
                artifact = await self._store_one(one, room, threads)
                room -= artifact.size if artifact.sha256 else 0
                self._stored[one.name] = artifact
                self._waiting.remove(one)

    def artifacts(self, why: str = "") -> tuple[Artifact, ...]:
        """What was stored and what was left out; `why` is for what is still waiting."""
        found = [*self._stored.values(), *(_left_out(one, why) for one in self._waiting)]
        if self._unlisted:
            found.append(
                Artifact(
                    name=MEDIA,
                    content_type="",
                    size=0,
                    sha256="",
                    note=f"left out: {self._unlisted} more files, beyond {MAX_FILES}",
                )
            )
        return tuple(found)

    async def _store_one(self, one: Found, room: int, threads: Threads) -> Artifact:
        limit = min(self._settings.max_file_bytes, room)
        is_cut = one.size > limit
        if is_cut and not (one.is_log and limit > len(_CUT)):
            return _left_out(
                one,
                "larger than max_file"
                if one.size > self._settings.max_file_bytes
                else "beyond max_attempt",
            )
        note = f"cut: the last {limit} of {one.size} bytes" if is_cut else ""
        try:
            with _opened(one.path) as file:
                if not is_cut and not self._redactor:
                    return await self._put(one, file, note)
                with tempfile.TemporaryFile(dir=Path(self._directory).parent) as copy:
                    is_copied = await self._in_thread(
                        threads, partial(self._copy, one, file, copy, limit)
                    )
                    return await self._put(one, copy if is_copied else file, note)
        except OSError as error:
            return _left_out(
                one, error.strerror or type(error).__name__
            )  # not the path: it may hold a secret
        except QgjetError as error:
            return _left_out(one, self._redactor.name(str(error))[:200] or type(error).__name__)
        except Exception:
            # never stored as it is: what is in it is not known
            logger.exception("job %s: an artifact could not be redacted", self._job_id)
            return _left_out(one, "it could not be redacted")

    async def _in_thread(self, threads: Threads, work: Callable[[], bool]) -> bool:
        """Run `work`. A cancellation stops it before its next piece, and waits for that: its files
        are closed afterwards.
        """
        running = asyncio.get_running_loop().run_in_executor(threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._stopped.set()
            await asyncio.gather(running, return_exceptions=True)
            raise

    def _copy(self, one: Found, file: BinaryIO, copy: BinaryIO, limit: int) -> bool:
        """Copy what is stored of a file, without secrets, in a thread. False when the file is
        stored as it is.
        """
        content = content_of(
            file.read(HEAD_BYTES), is_text=one.is_log or one.name in LOGS_AND_REPORTS
        )
        if content is Content.MEDIA:
            return False
        start = self._cut(file, copy, one.size, limit, content) if one.size > limit else 0
        file.seek(start)
        self._redactor.copy(file, copy, content, size=one.size - start, check=self._check)
        return True

    def _cut(self, file: BinaryIO, copy: BinaryIO, size: int, limit: int, content: Content) -> int:
        """Write the line that says what is cut from a log; returns where the last lines begin.
        Together they have at most `limit` bytes.
        """
        file.seek(0)
        mark, line = (
            file.read(content.mark_bytes),
            (_CUT % (size - limit)).decode().encode(content.encoding),
        )
        head = mark + line if len(mark + line) < limit else mark
        copy.write(head)
        start = size - (limit - len(head))
        start += -start % content.unit
        if content.unit == 1:
            file.seek(start)
            start += len(file.readline(_LINE_BYTES))  # the rest of a line that was cut
        return self._redactor.boundary(file, start, content)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    async def _put(self, one: Found, file: BinaryIO, note: str) -> Artifact:
        kind = content_type(one.path)
        info = await self._store.put(
            object_name(self._job_id, self._attempt, one.name),
            file,
            content_type=kind,
            timeout_s=max(self._settings.upload_timeout_s, 1.0),
        )
        return Artifact(
            name=one.name, content_type=kind, size=info.size, sha256=info.sha256, note=note
        )


def find(directory: str, *, media: bool) -> list[Found]:
    """Logs and reports first, then media, the smallest first: a screenshot is worth more than the
    video that would take its place.
    """
    base = Path(directory)
    if base.is_symlink():
        return []
    first = [
        found for name in LOGS_AND_REPORTS if (found := _regular(name, base / name)) is not None
    ]
    rest = sorted(_walk(base / MEDIA, MEDIA), key=lambda one: (one.size, one.name)) if media else []
    return first + rest


def without_secrets(found: list[Found], redactor: Redactor) -> list[Found]:
    """The files under names without secrets. Names that become equal get a number, and none is
    lost.
    """
    renamed = [
        one if one.name in LOGS_AND_REPORTS else replace(one, name=redactor.name(one.name))
        for one in found
    ]
    taken = {
        before.name
        for before, after in zip(found, renamed, strict=True)
        if before.name == after.name
    }
    for index, (before, after) in enumerate(zip(found, renamed, strict=True)):
        if before.name != after.name:
            renamed[index] = replace(
                after, name=next(name for name in _numbered(after.name) if name not in taken)
            )
            taken.add(renamed[index].name)
    return renamed


def _numbered(name: str) -> Iterator[str]:
    """`a.png`, `a-2.png`, `a-3.png`, ..."""
    yield name
    suffix = PurePosixPath(name).suffix
    stem = name.removesuffix(suffix).encode()
    for number in itertools.count(2):
        end = f"-{number}{suffix}"
        yield stem[: MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore") + end


def content_type(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return _TYPES.get(suffix) or mimetypes.types_map.get(suffix) or "application/octet-stream"


def _walk(directory: Path, name: str) -> list[Found]:
    """Nothing of a directory with more than 20,000 entries: nobody would look through them."""
    found: list[Found] = []
    todo, looked_at = [] if directory.is_symlink() else [(str(directory), name, 0)], 0
    while todo:
        path, prefix, depth = todo.pop()
        for entry in _entries(path):
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                return []
            inner = f"{prefix}/{entry.name}"
            if _is_directory(entry):
                todo += [(entry.path, inner, depth + 1)] if depth < MAX_DEPTH else []
            elif (one := _regular(inner, Path(entry.path))) is not None:
                found.append(one)
    return found


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            yield from entries
    except OSError:  # not there, or not ours to read
        return


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # some file systems have to look it up, and that may fail
        return False


def _regular(name: str, path: Path) -> Found | None:
    if not is_safe(name):
        return None
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return None
    return Found(name, str(path), found.st_size) if stat.S_ISREG(found.st_mode) else None


def _opened(path: str) -> BinaryIO:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(fd, "rb")


def _left_out(one: Found, why: str) -> Artifact:
    return Artifact(
        name=one.name,
        content_type=content_type(one.path),
        size=one.size,
        sha256="",
        note=f"left out: {why or 'not stored in time'}",
    )
