"""What a release has left behind is what later code makes of it. `tests/golden/make_release.py`
makes the directory of a release.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agents import eventually, running_agent
from golden.make_release import ARTIFACT, SETTINGS, make, read_model_of, told
from ops.commands import ROOT
from qgjet.config.loader import load_settings
from qgjet.config.settings import QueueSettings
from qgjet.domain.events import Verdict
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import backup
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.store.event_log import EventLog
from qgjet_projections.readmodel import JobQuery, ReadModel, schema
from qgjet_projections.readmodel.projector import Projector

RELEASES = sorted((ROOT / "tests/golden").glob("release-*"))


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def release(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture
def jobs(release: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((release / "expected.json").read_text())["jobs"]
    return found


@pytest.fixture
async def old_log(release: Path, server: NatsServer) -> AsyncIterator[EventLog]:
    async with connect(server.url, name="test") as connection:
        await backup.restore(connection, release / "backup")
        yield EventLog(connection)


@pytest.fixture
def old_file(release: Path, tmp_path: Path) -> Path:
    path = tmp_path / "read-model.sqlite"
    path.write_bytes(gzip.decompress((release / "read-model.sqlite.gz").read_bytes()))
    return path


def as_recorded(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> bool:
    """Later releases may say more of a job, never anything else."""
    said = [
        {key: value for key, value in json.loads(json.dumps(job)).items() if key in old}
        for job, old in zip(found, expected, strict=True)
    ]
    return said == expected


def test_there_is_a_release_and_it_is_small() -> None:
    assert RELEASES
    for release in RELEASES:
        assert sum(path.stat().st_size for path in release.rglob("*") if path.is_file()) < 200_000


async def test_every_job_of_an_old_log_is_as_it_was(
    old_log: EventLog, jobs: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = await read_model_of(old_log, tmp_path / "new.sqlite")
    assert len(found) > 20
    assert as_recorded(found, jobs)
    info = await ArtifactStore(old_log.connection).stat(
        object_name("with results-1", 1, "screen.png")
    )
    assert info is not None
    assert (
        b"".join([piece async for piece in ArtifactStore(old_log.connection).get(info)]) == ARTIFACT
    )


async def test_an_old_read_model_is_kept_or_made_anew(
    old_log: EventLog,
    old_file: Path,
    release: Path,
    jobs: list[dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    version = json.loads((release / "expected.json").read_text())["schema"]
    read_model = ReadModel.open(old_file)
    kept = [told(job) for job in read_model.all_jobs(JobQuery())]
    assert as_recorded(kept, jobs) if version == schema.VERSION else not kept
    async with Projector(old_log, read_model, retention_s=0) as projector:
        state = await old_log.state()
        await eventually(lambda: _applied(projector, state.last_seq, state.created))
    assert as_recorded([told(job) for job in read_model.all_jobs(JobQuery())], jobs)
    read_model.close()
    assert "failed" not in caplog.text


async def _applied(projector: Projector, seq: int, created: str) -> bool:
    return projector.applied_seq == seq and projector._position.stream_created == created


async def test_live_jobs_of_an_old_log_run_to_their_end(
    old_log: EventLog, jobs: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Queued ones, and those of agents that are gone."""
    live = {job["job_id"] for job in jobs if job["verdict"] is None}
    assert len(live) > 5
    queue = QueueSettings(visibility_timeout_s=1.0, retry_base_s=0.02, retry_cap_s=0.05)
    read_model = ReadModel.open(tmp_path / "new.sqlite")
    async with (
        Projector(old_log, read_model, retention_s=0),
        running_agent(old_log, tmp_path / "agent", slots=4, queue=queue),
    ):

        async def ended() -> bool:
            found = [read_model.job(job_id) for job_id in live]
            return all(
                job is not None and job.verdict in (Verdict.PASSED, Verdict.FLAKY) for job in found
            )

        await eventually(ended, within_s=25, what="the end of all live jobs")
    read_model.close()


def test_old_settings_are_read(release: Path) -> None:
    settings = load_settings((release / "qgjet.toml").read_text())
    assert settings.queue.visibility_timeout_s == 30
    assert settings.targets["emulator"].command == ("run-test", "{test}")


async def test_the_next_release_can_be_made(tmp_path: Path) -> None:
    await make(tmp_path / "release-next")
    assert {path.name for path in (tmp_path / "release-next").iterdir()} == {
        "backup",
        "read-model.sqlite.gz",
        "qgjet.toml",
        "expected.json",
    }
    assert (tmp_path / "release-next" / "qgjet.toml").read_text() == SETTINGS
