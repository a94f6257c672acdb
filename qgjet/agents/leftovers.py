"""What an attempt has left in its directory: found, freed of secrets, and stored.

A job may leave anything: links that lead elsewhere, pipes, names that no other system can hold, a million files. Only regular files that lie in the directory
itself are opened, without following a link in the last step; nobody of the job is alive by then to change the others.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from qgjet.agents.redaction import Redactor
from qgjet.artifacts import ArtifactStore, object_name
from qgjet.errors import QgjetError
from qgjet.events import Artifact, Verdict
from qgjet.filenames import is_safe
from qgjet.settings import ArtifactSettings

LOGS_AND_REPORTS = ("report.json", "junit.xml", "output.log", "webdriver.log")
MEDIA = "test-results"
MAX_FILES = 200
"""Of one attempt: each one takes a line in the event."""
MAX_DEPTH = 12
MAX_LOOKED_AT = 20_000
_TEXT = frozenset({".json", ".xml", ".log", ".txt", ".md", ".html", ".htm", ".csv", ".har", ".yml", ".yaml"})
_TYPES = {
    ".log": "text/plain",
    ".md": "text/markdown",
    ".webm": "video/webm",
    ".json": "application/json",
    ".xml": "application/xml",
    ".har": "application/json",
}
"""Before the tables of the machine, which differ."""
_COPY_BYTES = 1024 * 1024
_PASSED = frozenset({Verdict.PASSED, Verdict.SKIPPED})
_CUT = b"[qgjet: the first %d bytes are left out, the log is larger than max_file]\n"


class Found(Struct, frozen=True):
    """A file to store."""

    name: str
    """Relative to the attempt's directory, with `/`."""
    path: str
    size: int


class Leftovers:
    """The files of one attempt on their way into the store. `artifacts` says at any moment what is there, and why the rest is not."""

    def __init__(self, store: ArtifactStore, settings: ArtifactSettings, job_id: str, attempt: int, directory: str) -> None:
        self._store, self._settings = store, settings
        self._job_id, self._attempt, self._directory = job_id, attempt, directory
        self._stored: dict[str, Artifact] = {}
        self._waiting: list[Found] = []
        self._unlisted = 0

    async def look(self, verdict: Verdict) -> None:
        """What the settings ask for of an attempt that came to `verdict`: from now on it waits to be stored."""
        if self._settings.collect == "never":
            return
        media = self._settings.collect == "always" or verdict not in _PASSED
        found = await asyncio.to_thread(find, self._directory, media=media)
        self._waiting, self._unlisted = found[:MAX_FILES], len(found[MAX_FILES:])

    async def store(self) -> None:
        """Store what waits. What fails is left out; never raises for it."""
        room = self._settings.max_attempt_bytes
        for one in list(self._waiting):
            artifact = await self._store_one(one, room)
            room -= artifact.size if artifact.sha256 else 0
            self._stored[one.name] = artifact
            self._waiting.remove(one)

    def artifacts(self, why: str = "") -> tuple[Artifact, ...]:
        """What was stored and what was left out; `why` is for what is still waiting."""
        found = [*self._stored.values(), *(_left_out(one, why) for one in self._waiting)]
        if self._unlisted:
            found.append(Artifact(name=MEDIA, content_type="", size=0, sha256="", note=f"left out: {self._unlisted} more files, beyond {MAX_FILES}"))
        return tuple(found)

    async def _store_one(self, one: Found, room: int) -> Artifact:
        limit = min(self._settings.max_file_bytes, room)
        is_log = one.name.endswith(".log")
        if one.size > limit and not (is_log and limit > len(_CUT)):
            return _left_out(one, "larger than max_file" if one.size > self._settings.max_file_bytes else "beyond max_attempt")
        try:
            with _opened(one.path) as file:
                if one.size <= limit:
                    return await self._put(one, file, "")
                with tempfile.TemporaryFile() as end:
                    await asyncio.to_thread(_copy_end, file, end, one.size, limit)
                    return await self._put(one, end, f"cut: the last {limit} of {one.size} bytes")
        except (OSError, QgjetError) as error:
            return _left_out(one, str(error)[:200] or type(error).__name__)

    async def _put(self, one: Found, file: BinaryIO, note: str) -> Artifact:
        kind = content_type(one.name)
        info = await self._store.put(
            object_name(self._job_id, self._attempt, one.name), file, content_type=kind, timeout_s=max(self._settings.upload_timeout_s, 1.0)
        )
        return Artifact(name=one.name, content_type=kind, size=info.size, sha256=info.sha256, note=note)


def find(directory: str, *, media: bool) -> list[Found]:
    """Logs and reports first, then media, the smallest first: a screenshot is worth more than the video that would take its place."""
    base = Path(directory)
    if base.is_symlink():
        return []
    first = [found for name in LOGS_AND_REPORTS if (found := _regular(name, base / name)) is not None]
    rest = sorted(_walk(base / MEDIA, MEDIA), key=lambda one: (one.size, one.name)) if media else []
    return first + rest


def redact_files(directory: Path, redactor: Redactor) -> None:
    """Replace every text file of an attempt by one without secrets. Raises OSError when one could be neither replaced nor removed."""
    for one in find(str(directory), media=True):
        if Path(one.name).suffix.lower() in _TEXT:
            _redact(Path(one.path), redactor)


def _redact(path: Path, redactor: Redactor) -> None:
    try:
        with _opened(str(path)) as source, tempfile.NamedTemporaryFile(dir=path.parent, prefix=".qgjet-", delete=False) as target:
            try:
                redactor.copy(source, target)  # type: ignore[arg-type]
                target.flush()
                Path(target.name).replace(path)
            except BaseException:
                Path(target.name).unlink(missing_ok=True)
                raise
    except OSError:
        path.unlink(missing_ok=True)


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
            if entry.is_dir(follow_symlinks=False):
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
        raise OSError(f"{path} is no regular file")
    return os.fdopen(fd, "rb")


def _copy_end(source: BinaryIO, target: BinaryIO, size: int, limit: int) -> None:
    """The last lines of a log, `limit` bytes at most, after a first line that says so."""
    head = _CUT % (size - limit)
    source.seek(size - max(limit - len(head), 0))
    target.write(head)
    source.readline(_COPY_BYTES)  # the rest of a line that was cut
    shutil.copyfileobj(source, target, _COPY_BYTES)


def _left_out(one: Found, why: str) -> Artifact:
    return Artifact(name=one.name, content_type=content_type(one.name), size=one.size, sha256="", note=f"left out: {why or 'not stored in time'}")
