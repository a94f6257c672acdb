"""Files of attempts, brought into a directory: `<directory>/<job>/<attempt>/<name>`.

Names come from elsewhere and never lead out of the directory. What lies under a final name is
whole: its content has the SHA-256 that the attempt's result tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from qgjet.client.base import Client, open_client
from qgjet.client.tracker import JobTracker
from qgjet.config.settings import Settings
from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Artifact, Verdict
from qgjet.domain.filenames import directory_name, is_safe
from qgjet.errors import CannotReach, InvalidInput, NatsUnavailable, QgjetError
from qgjet_cli.options.flags import Keep
from qgjet_cli.output import console

AT_A_TIME = 4
TRIES = 3
PAUSE_S = 0.5
_PASSED = (Verdict.PASSED, Verdict.SKIPPED)


class Wanted(Struct, frozen=True):
    job_id: str
    attempt: int
    artifact: Artifact


class Damaged(QgjetError):
    """What came is not what the attempt left."""


def prepare(directory: Path | None) -> Path | None:
    """Make the directory, so that one that cannot be used is known before anything runs. Raises
    InvalidInput.
    """
    if directory is not None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise InvalidInput("artifacts_dir", f"{directory} cannot be made: {error}") from error
    return directory


def wanted_of(attempts: Iterable[tuple[str, AttemptRecord]], keep: Keep) -> list[Wanted]:
    """The stored files of (job id, attempt) pairs."""
    if keep is Keep.NEVER:
        return []
    chosen = [
        (job_id, one)
        for job_id, one in attempts
        if keep is Keep.ALWAYS or one.verdict not in _PASSED
    ]
    return [
        Wanted(job_id, attempt.attempt, one)
        for job_id, attempt in chosen
        for one in attempt.artifacts
        if one.sha256
    ]


async def of_tracker(
    client: Client, tracker: JobTracker, directory: Path | None, keep: Keep
) -> None:
    """Fetch for `run` and `wait`, which have their verdict: what fails is a warning."""
    wanted = (
        wanted_of(
            ((job_id, one) for job_id, track in tracker.tracks.items() for one in track.attempts),
            keep,
        )
        if directory
        else []
    )
    if directory is None or not wanted:
        return
    failed = await fetch(client, wanted, directory)
    console.note(f"Artifacts: {console.counted(len(wanted) - failed, 'file')} in {directory}")


async def of_tracker_from(
    settings: Settings, client: Client, tracker: JobTracker, directory: Path | None, keep: Keep
) -> None:
    """The same, straight from NATS where there is an address."""
    if directory is not None and settings.nats_url:
        with contextlib.suppress(CannotReach, NatsUnavailable):
            async with open_client(settings, notice=console.note) as straight:
                return await of_tracker(straight, tracker, directory, keep)
    await of_tracker(client, tracker, directory, keep)
    return None


async def fetch(client: Client, wanted: Sequence[Wanted], directory: Path) -> int:
    """Fetch files, with a warning for each one that could not be; gives the number of these."""
    gate = asyncio.Semaphore(AT_A_TIME)
    failed = 0

    async def one(file: Wanted) -> None:
        nonlocal failed
        async with gate:
            try:
                await _fetch(client, file, directory)
            except (QgjetError, OSError) as error:
                failed += 1
                console.warn(
                    f"{file.artifact.name} of attempt {file.attempt} of job {file.job_id} could not be fetched: {error}"
                )

    async with asyncio.TaskGroup() as group:
        for file in wanted:
            group.create_task(one(file))
    return failed


def place_of(file: Wanted, directory: Path) -> Path:
    """Where a file belongs. Raises Damaged for a name that could lead elsewhere, also through a
    link that is there already.
    """
    base = directory.resolve()
    place = base / directory_name(file.job_id) / str(int(file.attempt)) / file.artifact.name
    if not is_safe(file.artifact.name) or not place.resolve().is_relative_to(base):
        raise Damaged(f"its name {file.artifact.name!r} is not one of a file below {directory}")
    return place


async def _fetch(client: Client, file: Wanted, directory: Path) -> None:
    place = place_of(file, directory)
    place.parent.mkdir(parents=True, exist_ok=True)
    for tried in range(1, TRIES + 1):
        try:
            return await _write(client, file, place)
        except (CannotReach, NatsUnavailable) as error:
            if tried == TRIES:
                raise
            pause_s = max(
                PAUSE_S * tried, getattr(error, "pause_s", 0.0)
            )  # as the server asks, where it does
        await asyncio.sleep(pause_s)
    return None


async def _write(client: Client, file: Wanted, place: Path) -> None:
    part = place.with_name(f".{secrets.token_hex(8)}.part")
    digest = hashlib.sha256()
    try:
        with part.open("xb") as target:
            async with contextlib.aclosing(
                client.artifact(file.job_id, file.attempt, file.artifact.name)
            ) as pieces:
                async for piece in pieces:
                    digest.update(piece)
                    target.write(piece)
        if digest.hexdigest() != file.artifact.sha256:
            raise Damaged(
                "what came does not have the SHA-256 that the result of the attempt tells"
            )
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
