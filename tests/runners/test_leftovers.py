"""What an attempt leaves: which files count, which never do, and how secrets get out of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from agents import ended, eventually, running_agent, submit
from factories import spec
from qgjet.agents import leftovers
from qgjet.agents.agent import Agent
from qgjet.agents.leftovers import content_type, find, redact_files
from qgjet.agents.redaction import Redactor
from qgjet.agents.target import make_runner
from qgjet.artifacts import STREAM, ArtifactStore, object_name
from qgjet.bus import Bus
from qgjet.embedded import NatsServer
from qgjet.events import Artifact, Status
from qgjet.filenames import is_safe
from qgjet.log import EventLog
from qgjet.settings import ArtifactSettings, Target
from qgjet.stored import messages
from qgjet.subjects import LOGS, log_subject


def fill(directory: Path, *names: str, size: int = 3) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def names(directory: Path, *, media: bool = True) -> list[str]:
    return [one.name for one in find(str(directory), media=media)]


def test_logs_and_reports_come_first_then_media_by_size(tmp_path: Path) -> None:
    fill(tmp_path, "output.log", "report.json", "env", "src/secret.txt")
    fill(tmp_path, "test-results/a/video.webm", size=100)
    fill(tmp_path, "test-results/a/b/home screen.png", "test-results/é.png")
    assert names(tmp_path) == ["report.json", "output.log", "test-results/a/b/home screen.png", "test-results/é.png", "test-results/a/video.webm"]
    assert names(tmp_path, media=False) == ["report.json", "output.log"]
    assert names(tmp_path / "nothing") == []


def test_nothing_that_leads_out_of_the_directory_counts(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    fill(outside, "report.json", "passwd", "deep/key")
    inside = tmp_path / "inside"
    fill(inside, "test-results/good.png")
    (inside / "report.json").symlink_to(outside / "passwd")
    (inside / "test-results/link.png").symlink_to(outside / "passwd")
    (inside / "test-results/deep").symlink_to(outside / "deep")
    os.mkfifo(inside / "output.log")
    assert names(inside) == ["test-results/good.png"]
    (tmp_path / "whole").symlink_to(outside)
    assert names(tmp_path / "whole") == []
    (outside / "test-results").symlink_to(outside / "deep")
    assert names(outside) == ["report.json"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "..", "a/../b", "a/ /b", "C:x", "a\\b", "", "x" * 300, "/etc", "a//b", "\udcff"])
def test_a_name_that_another_system_could_not_hold_is_not_safe(name: str) -> None:
    assert not is_safe(name)
    assert is_safe("test-results/a b/é (1).png")


def test_a_directory_with_too_many_files_gives_no_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "MAX_LOOKED_AT", 5)
    fill(tmp_path, "output.log", *(f"test-results/{n}.png" for n in range(6)))
    assert names(tmp_path) == ["output.log"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.PNG", "image/png"), ("v.webm", "video/webm"), ("t.zip", "application/zip"), ("output.log", "text/plain"), ("x", "application/octet-stream")],
)
def test_the_suffix_tells_the_content_type(name: str, kind: str) -> None:
    assert content_type(name) == kind


def test_text_files_are_redacted_in_place_and_others_left_alone(tmp_path: Path) -> None:
    files = ("output.log", "report.json", "test-results/a/error-context.md", "test-results/shot.png")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff the secret1 is out\n")
    redact_files(tmp_path, Redactor(["secret1"]))
    assert [(tmp_path / name).read_bytes() for name in files] == [b"\xff the *** is out\n"] * 3 + [b"\xff the secret1 is out\n"]
    assert not list(tmp_path.rglob(".qgjet*"))


# -- by a real agent -----------------------------------------------------------------------------------------------------

SCRIPT = r"""
cd "$QGJET_ATTEMPT_DIR"
mkdir -p test-results/t
printf 'said %s\n' "$API_TOKEN"
printf '{"token": "%s"}' "$API_TOKEN" > report.json
printf shot > test-results/t/home\ screen.png
ln -s /etc/passwd test-results/passwd.txt
exit $1
"""


def commands(tmp_path: Path, script: str, **fields: object) -> dict[str, object]:
    target = Target(name="emulator", runner="command", dir=str(tmp_path), command=("sh", "-c", script, "sh", "{test}"), **fields)  # type: ignore[arg-type]
    return {"emulator": make_runner(target)}


class Left(NamedTuple):
    """What is known of the artifacts of a job's only attempt."""

    bus: Bus
    job_id: str
    artifacts: tuple[Artifact, ...]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.artifacts]

    async def content(self, name: str) -> bytes:
        store = ArtifactStore(self.bus)
        info = await store.stat(object_name(self.job_id, 1, name))
        assert info is not None
        return b"".join([piece async for piece in store.get(info)])


async def one_attempt(log: EventLog, tmp_path: Path, script: str, test: str, *, artifacts: ArtifactSettings | None = None, **fields: object) -> Left:
    job = spec(test=test, max_retries=0)
    async with running_agent(log, tmp_path / "work", runners=commands(tmp_path, script, **fields), artifact_settings=artifacts):  # type: ignore[arg-type]
        await submit(log, job)
        await ended(log, job.slot)
    outcome = (await log.history(job.slot))[-1].event.outcome  # type: ignore[union-attr]
    for one in outcome.artifacts:
        if one.sha256:
            info = await ArtifactStore(log.bus).stat(object_name(job.job_id, 1, one.name))
            assert info is not None
            assert (info.size, info.sha256) == (one.size, one.sha256)
    return Left(log.bus, job.job_id, tuple(outcome.artifacts))


async def test_a_failed_attempt_leaves_everything_and_a_passed_one_no_media(log: EventLog, tmp_path: Path) -> None:
    found = await one_attempt(log, tmp_path, SCRIPT, "1", env={"API_TOKEN": "t"})
    assert [(one.name, one.content_type, one.note) for one in found.artifacts] == [
        ("report.json", "application/json", ""),
        ("output.log", "text/plain", ""),
        ("test-results/t/home screen.png", "image/png", ""),
    ]
    assert await found.content("output.log") == b"said t\n"
    assert await found.content("test-results/t/home screen.png") == b"shot"
    found = await one_attempt(log, tmp_path, SCRIPT, "0", env={"API_TOKEN": "t"})
    assert found.names == ["report.json", "output.log"]


@pytest.mark.parametrize(("collect", "count"), [("always", 3), ("on-failure", 2), ("never", 0)])
async def test_the_settings_say_what_is_kept(collect: str, count: int, log: EventLog, tmp_path: Path) -> None:
    assert len((await one_attempt(log, tmp_path, SCRIPT, "0", artifacts=ArtifactSettings(collect=collect))).artifacts) == count


async def test_secrets_are_gone_from_output_files_and_results(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", 'top"secret/9')
    script = SCRIPT.replace("exit $1", "printf 'Error: top\"secr'; sleep 0.3; printf 'et/9 is wrong\n'; exit 1")
    found = await one_attempt(log, tmp_path, script, "1", pass_env=("API_TOKEN",), redact=("API_TOKEN",))
    assert found.names[:2] == ["report.json", "output.log"]
    assert await found.content("output.log") == b"said ***\nError: *** is wrong\n"
    assert await found.content("report.json") == b'{"token": "***"}'
    live = await messages(log.bus, LOGS, log_subject(found.job_id, 1), 0, batch=100, max_bytes=1_000_000)
    assert b"".join(one.data for one in live) == b"said ***\nError: *** is wrong\n"
    state = await log.bus.api("STREAM.INFO.QG_EVENTS")
    for seq in range(1, state["state"]["last_seq"] + 1):
        stored = await log.get(seq)
        assert stored is not None
        assert b"secret/9" not in stored.data
        if b"finished" in stored.data:
            assert b"*** is wrong" in stored.data, "the message has it, without the secret"


async def test_a_secret_in_what_prepare_prints_is_not_told(log: EventLog, tmp_path: Path) -> None:
    job = spec(infra_retries=0)
    runners = commands(tmp_path, "true", env={"API_TOKEN": "secret-9"}, redact=("API_TOKEN",), prepare=("sh", "-c", "echo $API_TOKEN; exit 1"))
    async with running_agent(log, tmp_path / "work", runners=runners):  # type: ignore[arg-type]
        await submit(log, job)
        await ended(log, job.slot)
    history = await log.history(job.slot)
    assert b"exit code 1" in history[-1].data
    assert b"***" in history[-1].data
    assert all(b"secret-9" not in one.data for one in history)


async def test_what_is_too_large_is_cut_or_left_out_and_says_so(log: EventLog, tmp_path: Path) -> None:
    script = 'cd "$QGJET_ATTEMPT_DIR/"; seq 1 1000; mkdir test-results; cd test-results; head -c 5000 /dev/zero >v.webm; head -c 900 /dev/zero >s.png; exit 1'
    found = await one_attempt(log, tmp_path, script, "1", artifacts=ArtifactSettings(max_file_bytes=1000, max_attempt_bytes=1500))
    assert [(one.name, one.note, bool(one.sha256)) for one in found.artifacts] == [
        ("output.log", "cut: the last 1000 of 3893 bytes", True),
        ("test-results/s.png", "left out: beyond max_attempt", False),
        ("test-results/v.webm", "left out: larger than max_file", False),
    ]
    log_text = await found.content("output.log")
    assert len(log_text) <= 1000
    assert log_text.startswith(b"[qgjet: the first 2893 bytes are left out")
    assert log_text.endswith(b"\n999\n1000\n")
    assert all(line.isdigit() for line in log_text.splitlines()[1:])


async def test_an_upload_that_fails_costs_no_verdict(log: EventLog, tmp_path: Path) -> None:
    await log.bus.api(f"STREAM.DELETE.{STREAM}")
    found = await one_attempt(log, tmp_path, SCRIPT, "1", artifacts=ArtifactSettings(upload_timeout_s=1.0))
    assert [one.sha256 for one in found.artifacts] == ["", "", ""]
    assert "not stored" in found.artifacts[0].note or "not there" in found.artifacts[0].note


async def test_an_upload_that_takes_too_long_costs_no_verdict(log: EventLog, tmp_path: Path) -> None:
    found = await one_attempt(log, tmp_path, SCRIPT, "1", artifacts=ArtifactSettings(upload_timeout_s=0.0))
    assert all(one.note.startswith("left out: not stored") for one in found.artifacts)


async def test_hostile_output_harms_nothing(log: EventLog, tmp_path: Path) -> None:
    script = r"""head -c 1000000 /dev/zero | tr '\0' a; printf '\377\376\033[31mred\033[0m\033]0;title\007\r\n'; head -c 300000 /dev/urandom; exit 1"""
    found = await one_attempt(log, tmp_path, script, "1", env={"API_TOKEN": "aaaaab"}, redact=("API_TOKEN",))
    assert found.names == ["output.log"]
    assert found.artifacts[0].size > 1_290_000


# -- an upload that is interrupted ---------------------------------------------------------------------------------------


async def interrupted(server: NatsServer, log: EventLog, tmp_path: Path, stop: Callable[[Agent], None]) -> tuple[list[str], str]:
    """The server is frozen while an attempt ends, then `stop` happens: what is told of the artifacts once the server is back, and the verdict."""
    assert server.process is not None
    (tmp_path / "gate").unlink(missing_ok=True)
    script = 'echo x >"$QGJET_ATTEMPT_DIR/junit.xml"; while [ ! -e gate ]; do sleep 0.02; done; exit 1'
    job = spec(max_retries=0)

    async def uploads() -> bool:
        return any(task.get_name() == f"artifacts of {job.job_id}" for task in asyncio.all_tasks())

    async def is_over() -> bool:
        return not await uploads()

    settings = ArtifactSettings(upload_timeout_s=30.0)
    async with running_agent(log, tmp_path / "work", runners=commands(tmp_path, script), artifact_settings=settings) as agent:  # type: ignore[arg-type]
        await submit(log, job)

        async def runs() -> bool:
            found = await log.load(job.slot)
            return found is not None and found.status is Status.RUNNING

        await eventually(runs)
        server.process.send_signal(signal.SIGSTOP)
        try:
            (tmp_path / "gate").touch()
            await eventually(uploads)
            stop(agent)
            await eventually(is_over)
        finally:
            server.process.send_signal(signal.SIGCONT)
        found = await ended(log, job.slot)
    event = (await log.history(job.slot))[-1].event
    return [one.note for one in event.outcome.artifacts], str(found.verdict)  # type: ignore[union-attr]


async def test_a_halt_ends_the_upload_and_keeps_the_verdict(server: NatsServer, log: EventLog, tmp_path: Path) -> None:
    notes, verdict = await interrupted(server, log, tmp_path, lambda agent: agent.halt())
    assert notes == ["left out: the agent was stopped, or lost the job"] * 2
    assert verdict == "failed"


async def test_a_lease_that_runs_out_ends_the_upload(server: NatsServer, log: EventLog, tmp_path: Path) -> None:
    notes, verdict = await interrupted(server, log, tmp_path, lambda _: None)
    assert notes == ["left out: the agent was stopped, or lost the job"] * 2
    assert verdict == "failed"
