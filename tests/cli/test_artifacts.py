"""Files of attempts on the command line: listed, fetched, and never anywhere but where they belong."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import ended, running_agent, submit
from cli.commandline import ORG, TARGET, VERSION, Cli
from factories import spec
from qgjet.config.settings import TargetSettings
from qgjet.domain.decide import EndAttempt, Start
from qgjet.domain.events import Artifact, JobSpec, Outcome, Verdict
from qgjet.jetstream.connection import Connection
from qgjet.runners.registry import make_runner
from qgjet.store.artifacts import STREAM, ArtifactStore, object_name
from qgjet.store.event_log import EventLog
from qgjet_cli.output.downloads import Damaged, Wanted, place_of

SCRIPT = r"""
cd "$QGJET_ATTEMPT_DIR"; mkdir -p test-results/t; echo attempt $2; printf shot$2 > "test-results/t/home screen.png"
case $1 in *a.spec.js) exit 0;; *) [ $2 = 2 ];; esac
"""
A, B = "tests/a.spec.js", "tests/b.spec.js"


@pytest.fixture
def agent(log: EventLog, tmp_path: Path) -> Callable[[], Any]:
    """`a` passes, `b` passes the second time."""

    (tmp_path / "tests").mkdir()
    for test in (A, B):
        (tmp_path / test).touch()

    def agent() -> Any:
        target = TargetSettings(
            name=TARGET,
            runner="command",
            dir=str(tmp_path),
            command=("sh", "-c", SCRIPT, "sh", "{test}", "{attempt}"),
        )
        return running_agent(log, tmp_path / "work", runners={TARGET: make_runner(target)})

    return agent


@pytest.fixture(params=["nats", "api"])
def either(request: pytest.FixtureRequest) -> Cli:
    found: Cli = request.getfixturevalue({"nats": "cli", "api": "over_api"}[request.param])
    return found


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


async def test_run_brings_the_files_of_all_attempts(
    either: Cli, agent: Callable[[], Any], tmp_path: Path
) -> None:
    async with agent():
        found = await either("run", "--test", A, "--test", B, "--artifacts-dir", "out", "--json")
    assert found.code == 0, found.err
    a, b = (job["job_id"] for job in found.json["jobs"])
    assert files(either.cwd / "out") == {
        f"{a}/1/output.log": b"attempt 1\n",
        f"{b}/1/output.log": b"attempt 1\n",
        f"{b}/1/test-results/t/home screen.png": b"shot1",
        f"{b}/2/output.log": b"attempt 2\n",
    }
    assert "Artifacts: 4 files in out" in found.err


@pytest.mark.parametrize(("keep", "count"), [("on-failure", 2), ("never", 0)])
async def test_run_brings_what_is_asked_for(
    keep: str, count: int, cli: Cli, agent: Callable[[], Any]
) -> None:
    async with agent():
        found = await cli(
            "run", "--test", A, "--test", B, "--artifacts-dir", "out", "--artifacts", keep
        )
    assert (found.code, len(files(cli.cwd / "out"))) == (0, count)


async def test_wait_brings_them_too(over_api: Cli, agent: Callable[[], Any]) -> None:
    async with agent():
        job_id = (await over_api("submit", "--test", B, "--json")).json["job_id"]
        found = await over_api("wait", job_id, "--artifacts-dir", "out")
    assert found.code == 0
    assert list(files(over_api.cwd / "out")) == [
        f"{job_id}/1/output.log",
        f"{job_id}/1/test-results/t/home screen.png",
        f"{job_id}/2/output.log",
    ]


async def test_they_are_listed_and_downloaded(
    over_api: Cli, agent: Callable[[], Any], log: EventLog
) -> None:
    job = spec(test=B, max_retries=1)
    async with agent():
        await submit(log, job)
        await ended(log, job.slot)
    listed = await over_api("artifacts", job.job_id)
    assert [line.split()[:2] for line in listed.out.splitlines()] == [
        ["ATTEMPT", "NAME"],
        ["1", "output.log"],
        ["1", "test-results/t/home"],
        ["2", "output.log"],
    ]
    assert [
        one["name"]
        for one in (await over_api("artifacts", job.job_id, "--attempt", "2", "--json")).json[
            "artifacts"
        ]
    ] == ["output.log"]
    found = await over_api("artifacts", job.job_id, "--download", "out")
    assert (found.code, found.out, len(files(over_api.cwd / "out"))) == (0, "", 3)
    assert not list((over_api.cwd / "out").rglob("*.part"))


async def told(log: EventLog, *artifacts: Artifact) -> JobSpec:
    """A job whose only attempt is said to have left these."""
    job = spec(org_id=ORG, app_version_id=VERSION, target=TARGET, max_retries=0)
    accepted = await log.submit(job)
    await log.execute(
        job.slot, Start(ticket=accepted.seq, agent="x", device="d"), await log.load(job.slot)
    )
    outcome = Outcome(verdict=Verdict.FAILED, artifacts=artifacts)
    await log.execute(
        job.slot,
        EndAttempt(agent="x", attempt=1, outcome=outcome, retry_in_s=0.0, job_id=job.job_id),
        await log.load(job.slot),
    )
    return job


async def test_what_is_not_as_it_was_told_is_not_kept(
    over_api: Cli, log: EventLog, connection: Connection
) -> None:
    data = b"good"
    digest = hashlib.sha256(data).hexdigest()
    names = ["good.txt", "../../evil.txt", "/tmp/evil.txt", "gone.txt", "a\nb"]
    job = await told(
        log,
        *(Artifact(name=name, content_type="text/plain", size=4, sha256=digest) for name in names),
        Artifact(
            name="left-out.webm",
            content_type="video/webm",
            size=4,
            sha256="",
            note="left out: larger than max_file",
        ),
    )
    for name in names:
        await ArtifactStore(connection).put(object_name(job.job_id, 1, name), io.BytesIO(data))
    gone = await ArtifactStore(connection).stat(object_name(job.job_id, 1, "gone.txt"))
    assert gone is not None
    await connection.api(f"STREAM.PURGE.{STREAM}", {"filter": f"$O.qg-artifacts.C.{gone.nuid}"})
    before = files(over_api.cwd.parent)
    found = await over_api("artifacts", job.job_id, "--download", "out")
    assert found.code == 4
    assert files(over_api.cwd / "out") == {f"{job.job_id}/1/good.txt": data}
    assert [line for line in found.err.splitlines() if "could not be fetched" in line] != []
    assert found.err.count("could not be fetched") == 4
    assert (
        {path for path in files(over_api.cwd.parent) if path.endswith("evil.txt")}
        == {path for path in before if path.endswith("evil.txt")}
        == set()
    )
    assert (
        json.loads((await over_api("artifacts", job.job_id, "--json")).out)["artifacts"][-1]["note"]
        == "left out: larger than max_file"
    )


async def test_run_ends_with_its_verdict_when_files_cannot_be_fetched(
    cli: Cli, agent: Callable[[], Any], connection: Connection
) -> None:
    await connection.api(
        f"STREAM.UPDATE.{STREAM}",
        (await connection.api(f"STREAM.INFO.{STREAM}"))["config"]
        | {"max_msgs": 1, "discard": "old"},
    )
    async with agent():
        found = await cli("run", "--test", B, "--max-retries", "0", "--artifacts-dir", "out")
    assert found.code == 1
    assert "Warning: output.log of attempt 1" in found.err


def test_no_name_leads_out_of_the_directory(tmp_path: Path) -> None:
    base = tmp_path / "out"
    (base / "j" / "1").mkdir(parents=True)
    (base / "j" / "1" / "link").symlink_to(tmp_path)
    good = Artifact(name="a/b c.png", content_type="", size=0, sha256="x")
    assert place_of(Wanted("j", 1, good), base) == base.resolve() / "j" / "1" / "a" / "b c.png"
    assert place_of(Wanted("../..", 1, good), base).is_relative_to(base.resolve())
    assert place_of(Wanted("/", 1, good), base).is_relative_to(base.resolve())
    for name in ("../x", "/x", "a/../../x", "link/x", "", ".", "a//b", "C:\\x", "a\x00b", "..\\x"):
        with pytest.raises(Damaged):
            place_of(Wanted("j", 1, Artifact(name=name, content_type="", size=0, sha256="x")), base)
