"""What an attempt leaves: which files count, which never do, and how secrets get out of them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest

from agents import ended, eventually, running_agent, submit
from factories import spec
from patience import patience
from qgjet.agent.agent import Agent
from qgjet.config.settings import ArtifactSettings, TargetSettings
from qgjet.domain.events import Artifact, Finished, JobSpec, Status, Verdict
from qgjet.domain.filenames import is_safe
from qgjet.domain.subjects import LOGS, log_subject
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import Connection
from qgjet.jetstream.direct_get import messages
from qgjet.jetstream.server import NatsServer
from qgjet.runners import artifact_collector
from qgjet.runners.artifact_collector import ArtifactCollector, content_type, find
from qgjet.runners.redaction import Redactor
from qgjet.runners.registry import make_runner
from qgjet.store.artifacts import STREAM, ArtifactStore, ObjectInfo, object_name
from qgjet.store.event_log import EventLog


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
    assert names(tmp_path) == [
        "report.json",
        "output.log",
        "test-results/a/b/home screen.png",
        "test-results/é.png",
        "test-results/a/video.webm",
    ]
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


HOSTILE = r"""
import os, socket
os.makedirs(base := os.path.join(os.environ["QGJET_ATTEMPT_DIR"], "test-results"))
open(os.path.join(base, "good.png"), "w").write("x")
open(os.path.join(base, "n" * 255), "w").close()
open(os.fsencode(base) + b"/\xff\xfe.png", "w").close()
os.mkfifo(os.path.join(base, "fifo.png"))
os.mkdir(closed := os.path.join(base, "closed")); open(os.path.join(closed, "a.png"), "w").close(); os.chmod(closed, 0)
os.chdir(base)
socket.socket(socket.AF_UNIX).bind("socket.png")
for _ in range(3000):
    os.mkdir("d"); os.chdir("d")
open("deep.png", "w").close()
"""


async def test_whatever_a_job_leaves_the_verdict_stands_and_nothing_stays(
    log: EventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = (sys.executable, "-c", HOSTILE)
    runner = make_runner(
        TargetSettings(name="emulator", runner="command", dir=str(tmp_path), command=command)
    )
    work, job = tmp_path / "work", spec(max_retries=0, infra_retries=0)
    async with running_agent(
        log,
        work,
        runners={"emulator": runner},
        artifact_settings=ArtifactSettings(collect="always"),
    ):
        await submit(log, job)
        assert (await ended(log, job.slot)).verdict is Verdict.PASSED

        async def is_empty() -> bool:
            return not list(work.glob("job-*"))

        await eventually(is_empty)
    (final,) = [one.event for one in await log.history(job.slot) if isinstance(one.event, Finished)]
    stored = {one.name for one in final.outcome.artifacts if one.sha256}
    assert (
        {"test-results/good.png"}
        <= stored
        <= {"test-results/good.png", "test-results/closed/a.png", "output.log"}
    )
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "a\x1b[31m",
        "..",
        "a/../b",
        "a/ /b",
        "C:x",
        "a\\b",
        "",
        "x" * 300,
        "/etc",
        "a//b",
        "\udcff",
    ],
)
def test_a_name_that_another_system_could_not_hold_is_not_safe(name: str) -> None:
    assert not is_safe(name)
    assert is_safe("test-results/a b/é (1).png")


def test_a_directory_with_too_many_files_gives_no_media(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_collector, "MAX_LOOKED_AT", 5)
    fill(tmp_path, "output.log", *(f"test-results/{n}.png" for n in range(6)))
    assert names(tmp_path) == ["output.log"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.PNG", "image/png"),
        ("v.webm", "video/webm"),
        ("t.zip", "application/zip"),
        ("output.log", "text/plain"),
        ("x", "application/octet-stream"),
    ],
)
def test_the_suffix_tells_the_content_type(name: str, kind: str) -> None:
    assert content_type(name) == kind


# -- without secrets -----------------------------------------------------------------------------------------------------

SECRET = "sk4live9abcdef123456"


class FakeStore:
    """Keeps what is stored, under its name."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    async def put(
        self, name: str, file: BinaryIO, *, content_type: str = "", timeout_s: float = 0.0
    ) -> ObjectInfo:
        file.seek(0)
        data = self.stored[name] = file.read()
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        return ObjectInfo(name=name, size=len(data), digest=f"SHA-256={digest}")


class Collected(ArtifactCollector):
    """A collector of its own, which stores in `objects` and shows when it copies."""

    def __init__(self, directory: Path, redactor: Redactor | None = None, **settings: Any) -> None:
        self.objects = FakeStore()
        store: Any = self.objects
        redactor = Redactor([SECRET]) if redactor is None else redactor
        super().__init__(
            store,
            ArtifactSettings(collect="always", **settings),
            "job",
            1,
            str(directory),
            redactor,
        )
        self.copying = asyncio.Event()
        self.pieces = 0
        self._loop = asyncio.get_running_loop()

    def _check(self) -> None:
        self.pieces += 1
        self._loop.call_soon_threadsafe(self.copying.set)
        super()._check()

    async def all(self) -> dict[str, bytes]:
        await self.look(Verdict.FAILED)
        await self.store()
        return {name.removeprefix("job/1/"): data for name, data in self.objects.stored.items()}


@pytest.fixture
def attempt_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "attempt"
    (directory / "test-results").mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "test-results/.env",
        "test-results/t/logcat",
        "test-results/app.js",
        "test-results/t.trace",
        "test-results/x.png",
        "report.json",
    ],
)
async def test_text_is_redacted_whatever_its_name_is(attempt_dir: Path, name: str) -> None:
    path = attempt_dir / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xff the %s is out\n" % SECRET.encode())
    assert await Collected(attempt_dir).all() == {name: b"\xff the *** is out\n"}
    assert SECRET.encode() in path.read_bytes(), "the attempt's directory stays as the job wrote it"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
async def test_a_text_in_another_encoding_is_redacted(attempt_dir: Path, encoding: str) -> None:
    (attempt_dir / "test-results/notes").write_bytes(f"é the {SECRET} is out".encode(encoding))
    found = await Collected(attempt_dir).all()
    assert found["test-results/notes"].decode(encoding) == "é the *** is out"


async def test_media_stay_as_they_are_and_other_binary_files_keep_their_size(
    attempt_dir: Path,
) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + SECRET.encode()
    (attempt_dir / "test-results/shot").write_bytes(picture)
    (attempt_dir / "test-results/environ").write_bytes(b"A=1\0TOKEN=%s\0B=2" % SECRET.encode())
    found = await Collected(attempt_dir).all()
    assert found == {
        "test-results/shot": picture,
        "test-results/environ": b"A=1\0TOKEN=" + b"*" * len(SECRET) + b"\0B=2",
    }


@pytest.mark.parametrize("head", [b"a\0b ", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\xff\xfe"])
async def test_a_log_is_redacted_whatever_it_begins_with(attempt_dir: Path, head: bytes) -> None:
    (attempt_dir / "output.log").write_bytes(head + SECRET.encode())
    (attempt_dir / "test-results/device.log").write_bytes(head + SECRET.encode())
    found = await Collected(attempt_dir).all()
    assert list(found) == ["output.log", "test-results/device.log"]
    assert all(SECRET.encode() not in data for data in found.values())


async def test_names_are_redacted_and_none_is_lost(attempt_dir: Path) -> None:
    other = "pw9other8secret7"
    fill(
        attempt_dir,
        f"test-results/login-{SECRET}/a.txt",
        f"test-results/login-{other}/a.txt",
        "test-results/login-***/a-2.txt",
    )
    fill(
        attempt_dir,
        f"test-results/{SECRET}",
        f"test-results/{other}",
        f"test-results/x.{SECRET}.png",
        f"test-results/{SECRET}.{other}.png",
    )
    collected = Collected(attempt_dir, Redactor([SECRET, other]))
    assert sorted(await collected.all()) == [
        "test-results/***",
        "test-results/***-2",
        "test-results/***.***.png",
        "test-results/login-***/a-2.txt",
        "test-results/login-***/a-3.txt",
        "test-results/login-***/a.txt",
        "test-results/x.***.png",
    ]
    assert {one.name: one.content_type for one in collected.artifacts()}[
        "test-results/login-***/a-3.txt"
    ] == "text/plain"
    assert all(is_safe(one.name) for one in collected.artifacts())


async def test_a_number_fits_into_the_longest_name(attempt_dir: Path) -> None:
    long = "é" * 108
    fill(attempt_dir, f"test-results/abcd{long}.png", f"test-results/bcde{long}.png")
    found = await Collected(attempt_dir, Redactor(["abcd", "bcde"])).all()
    assert [len(name.encode()) for name in found] == [236, 238]
    found = await Collected(attempt_dir, Redactor(["abcd" + long[:1], "bcde" + long[:1]])).all()
    assert all(is_safe(name) for name in found)
    assert len(found) == 2


async def test_the_names_that_qgjet_gives_are_no_secrets(attempt_dir: Path) -> None:
    (attempt_dir / "output.log").write_text("the output of report.json")
    assert await Collected(attempt_dir, Redactor(["output.log", "report.json"])).all() == {
        "output.log": b"the output of ***"
    }


async def test_no_note_holds_a_secret(attempt_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(
        attempt_dir,
        f"test-results/a-{SECRET}",
        f"test-results/b-{SECRET}",
        f"test-results/large-{SECRET}",
        "test-results/c",
    )
    (attempt_dir / f"test-results/large-{SECRET}").write_bytes(b"x" * 1001)
    collected = Collected(attempt_dir, max_file_bytes=1000)
    await collected.look(Verdict.FAILED)
    (attempt_dir / f"test-results/a-{SECRET}").unlink()
    (attempt_dir / f"test-results/b-{SECRET}").unlink()
    (attempt_dir / f"test-results/b-{SECRET}").mkdir()

    async def refuse(name: str, *_: object, **__: object) -> ObjectInfo:
        raise NatsUnavailable(f"{name} was not stored, nor was {SECRET}")

    monkeypatch.setattr(collected.objects, "put", refuse)
    await collected.store()
    assert {one.name: one.note for one in collected.artifacts()} == {
        "test-results/a-***": "left out: No such file or directory",
        "test-results/b-***": "left out: not a regular file",
        "test-results/c": "left out: job/1/test-results/c was not stored, nor was ***",
        "test-results/large-***": "left out: larger than max_file",
    }


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), ValueError("a defect"), MemoryError()]
)
async def test_what_cannot_be_redacted_is_left_out(
    attempt_dir: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    fill(attempt_dir, "output.log")

    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(Redactor, "copy", fail)
    collected = Collected(attempt_dir)
    assert await collected.all() == {}
    note = "No space left on device" if isinstance(problem, OSError) else "it could not be redacted"
    assert [one.note for one in collected.artifacts()] == [f"left out: {note}"]


@pytest.mark.parametrize("size", [1 << 40, 1_000_001])
async def test_a_file_beyond_the_limit_is_not_opened(
    attempt_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    with (attempt_dir / "test-results/hole.txt").open("wb") as file:
        file.truncate(size)
    opened: list[str] = []
    monkeypatch.setattr(artifact_collector, "_opened", opened.append)
    collected = Collected(attempt_dir, max_file_bytes=1_000_000)
    async with asyncio.timeout(patience(5)):
        assert await collected.all() == {}
    assert opened == []
    assert [(one.size, one.note) for one in collected.artifacts()] == [
        (size, "left out: larger than max_file")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
@pytest.mark.parametrize("limit", range(400, 510, 7))
async def test_a_cut_log_begins_with_no_half_of_a_secret(
    attempt_dir: Path, limit: int, encoding: str
) -> None:
    secret = "Ab12\nCd34\nEf56\nGh78"  # each of its lines is too short to be one
    text = "".join(f"line {number}\n{secret}\n" for number in range(100))
    (attempt_dir / "output.log").write_bytes(text.encode(encoding))
    collected = Collected(attempt_dir, Redactor([secret]), max_file_bytes=limit)
    found = (await collected.all())["output.log"]
    assert len(found) <= limit
    lines = found.decode(encoding).splitlines()
    assert lines[0].startswith("[qgjet: the first ")
    assert lines[-1] == "***"
    assert not set(lines[1:]) & set(secret.splitlines())
    assert [one.note for one in collected.artifacts()] == [
        f"cut: the last {limit} of {len(text.encode(encoding))} bytes"
    ]


async def test_a_long_line_that_was_cut_begins_with_no_half_of_a_secret(attempt_dir: Path) -> None:
    (attempt_dir / "output.log").write_bytes((SECRET + ",").encode() * 1000)
    for limit in range(400, 400 + len(SECRET) + 2):
        found = (await Collected(attempt_dir, max_file_bytes=limit).all())["output.log"].decode()
        assert not set(found.split("\n", 1)[1]) - set("*,\n"), found


async def test_a_copy_stops_at_once_when_it_is_not_needed(attempt_dir: Path) -> None:
    with (attempt_dir / "test-results/huge.txt").open("wb") as file:
        file.write(b"some text\n" * 10_000)
        file.truncate(1 << 40)
    collected = Collected(attempt_dir, max_file_bytes=1 << 41, max_attempt_bytes=1 << 41)
    await collected.look(Verdict.FAILED)
    storing = asyncio.create_task(collected.store())
    async with asyncio.timeout(patience(10)):
        await collected.copying.wait()
        storing.cancel()
        await asyncio.wait([storing])
    assert storing.cancelled()
    pieces = collected.pieces
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("artifacts")]
    assert collected.pieces == pieces
    assert collected.objects.stored == {}
    assert [one.note for one in collected.artifacts("the deadline")] == ["left out: the deadline"]


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
    target = TargetSettings(
        name="emulator",
        runner="command",
        dir=str(tmp_path),
        command=("sh", "-c", script, "sh", "{test}"),
        **fields,
    )  # type: ignore[arg-type]
    return {"emulator": make_runner(target)}


class Left(NamedTuple):
    """What is known of the artifacts of a job's only attempt."""

    connection: Connection
    job_id: str
    artifacts: tuple[Artifact, ...]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.artifacts]

    async def content(self, name: str) -> bytes:
        store = ArtifactStore(self.connection)
        info = await store.stat(object_name(self.job_id, 1, name))
        assert info is not None
        return b"".join([piece async for piece in store.get(info)])


async def one_attempt(
    log: EventLog,
    tmp_path: Path,
    script: str,
    test: str,
    *,
    artifacts: ArtifactSettings | None = None,
    **fields: object,
) -> Left:
    job = spec(test=test, max_retries=0)
    async with running_agent(
        log,
        tmp_path / "work",
        runners=commands(tmp_path, script, **fields),
        artifact_settings=artifacts,
    ):  # type: ignore[arg-type]
        await submit(log, job)
        await ended(log, job.slot)
    outcome = (await log.history(job.slot))[-1].event.outcome  # type: ignore[union-attr]
    for one in outcome.artifacts:
        if one.sha256:
            info = await ArtifactStore(log.connection).stat(object_name(job.job_id, 1, one.name))
            assert info is not None
            assert (info.size, info.sha256) == (one.size, one.sha256)
    return Left(log.connection, job.job_id, tuple(outcome.artifacts))


async def test_a_failed_attempt_leaves_everything_and_a_passed_one_no_media(
    log: EventLog, tmp_path: Path
) -> None:
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
async def test_the_settings_say_what_is_kept(
    collect: str, count: int, log: EventLog, tmp_path: Path
) -> None:
    assert (
        len(
            (
                await one_attempt(
                    log, tmp_path, SCRIPT, "0", artifacts=ArtifactSettings(collect=collect)
                )
            ).artifacts
        )
        == count
    )


async def test_secrets_are_gone_from_output_files_and_results(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", 'top"secret/9')
    script = SCRIPT.replace(
        "exit $1", "printf 'Error: top\"secr'; sleep 0.3; printf 'et/9 is wrong\n'; exit 1"
    )
    found = await one_attempt(
        log, tmp_path, script, "1", pass_env=("API_TOKEN",), redact=("API_TOKEN",)
    )
    assert found.names[:2] == ["report.json", "output.log"]
    assert await found.content("output.log") == b"said ***\nError: *** is wrong\n"
    assert await found.content("report.json") == b'{"token": "***"}'
    live = await messages(
        log.connection, LOGS, log_subject(found.job_id, 1), 0, batch=100, max_bytes=1_000_000
    )
    assert b"".join(one.data for one in live) == b"said ***\nError: *** is wrong\n"
    state = await log.connection.api("STREAM.INFO.QG_EVENTS")
    for seq in range(1, state["state"]["last_seq"] + 1):
        stored = await log.get(seq)
        assert stored is not None
        assert b"secret/9" not in stored.data
        if b"finished" in stored.data:
            assert b"*** is wrong" in stored.data, "the message has it, without the secret"


async def test_a_secret_in_what_prepare_prints_is_not_told(log: EventLog, tmp_path: Path) -> None:
    job = spec(infra_retries=0)
    runners = commands(
        tmp_path,
        "true",
        env={"API_TOKEN": "secret-9"},
        redact=("API_TOKEN",),
        prepare=("sh", "-c", "echo $API_TOKEN; exit 1"),
    )
    async with running_agent(log, tmp_path / "work", runners=runners):  # type: ignore[arg-type]
        await submit(log, job)
        await ended(log, job.slot)
    history = await log.history(job.slot)
    assert b"exit code 1" in history[-1].data
    assert b"***" in history[-1].data
    assert all(b"secret-9" not in one.data for one in history)


async def test_what_is_too_large_is_cut_or_left_out_and_says_so(
    log: EventLog, tmp_path: Path
) -> None:
    script = 'cd "$QGJET_ATTEMPT_DIR/"; seq 1 1000; mkdir test-results; cd test-results; head -c 5000 /dev/zero >v.webm; head -c 900 /dev/zero >s.png; exit 1'
    found = await one_attempt(
        log,
        tmp_path,
        script,
        "1",
        artifacts=ArtifactSettings(max_file_bytes=1000, max_attempt_bytes=1500),
    )
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
    await log.connection.api(f"STREAM.DELETE.{STREAM}")
    found = await one_attempt(
        log, tmp_path, SCRIPT, "1", artifacts=ArtifactSettings(upload_timeout_s=1.0)
    )
    assert [one.sha256 for one in found.artifacts] == ["", "", ""]
    assert "not stored" in found.artifacts[0].note or "not there" in found.artifacts[0].note


async def test_an_upload_that_takes_too_long_costs_no_verdict(
    log: EventLog, tmp_path: Path
) -> None:
    found = await one_attempt(
        log, tmp_path, SCRIPT, "1", artifacts=ArtifactSettings(upload_timeout_s=0.0)
    )
    assert all(one.note.startswith("left out: not stored") for one in found.artifacts)


async def test_hostile_output_harms_nothing(log: EventLog, tmp_path: Path) -> None:
    script = r"""head -c 1000000 /dev/zero | tr '\0' a; printf '\377\376\033[31mred\033[0m\033]0;title\007\r\n'; head -c 300000 /dev/urandom; exit 1"""
    found = await one_attempt(
        log, tmp_path, script, "1", env={"API_TOKEN": "aaaaab"}, redact=("API_TOKEN",)
    )
    assert found.names == ["output.log"]
    assert found.artifacts[0].size > 1_290_000


# -- an upload that is interrupted ---------------------------------------------------------------------------------------


async def interrupted(
    server: NatsServer, log: EventLog, tmp_path: Path, stop: Callable[[Agent], None]
) -> tuple[list[str], str]:
    """The server is frozen while an attempt ends, then `stop` happens: what is told of the
    artifacts once the server is back, and the verdict.
    """
    assert server.process is not None
    (tmp_path / "gate").unlink(missing_ok=True)
    script = (
        'echo x >"$QGJET_ATTEMPT_DIR/junit.xml"; while [ ! -e gate ]; do sleep 0.02; done; exit 1'
    )
    job = spec(test="1", max_retries=0)

    async def uploads() -> bool:
        return any(task.get_name() == f"artifacts of {job.job_id}" for task in asyncio.all_tasks())

    async def is_over() -> bool:
        return not await uploads()

    settings = ArtifactSettings(upload_timeout_s=30.0)
    async with running_agent(
        log, tmp_path / "work", runners=commands(tmp_path, script), artifact_settings=settings
    ) as agent:  # type: ignore[arg-type]
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


async def test_a_halt_ends_the_upload_and_keeps_the_verdict(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    notes, verdict = await interrupted(server, log, tmp_path, lambda agent: agent.halt())
    assert notes == ["left out: the agent was stopped, or lost the job"] * 2
    assert verdict == "failed"


async def test_a_lease_that_runs_out_ends_the_upload(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    notes, verdict = await interrupted(server, log, tmp_path, lambda _: None)
    assert notes == ["left out: the agent was stopped, or lost the job"] * 2
    assert verdict == "failed"


# -- a redaction that is interrupted -------------------------------------------------------------------------------------


class Redacting:
    """A file is redacted that takes hours; `begun` once it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Event()
        self.ended_at = 0.0
        loop, check = asyncio.get_running_loop(), ArtifactCollector._check

        def slow_check(collector: ArtifactCollector) -> None:
            loop.call_soon_threadsafe(self.begun.set)
            time.sleep(0.01)  # in the copying thread: the disk need not hold much
            check(collector)

        monkeypatch.setattr(ArtifactCollector, "_check", slow_check)


async def stopped_while_redacting(
    log: EventLog,
    tmp_path: Path,
    redacting: Redacting,
    stop: Callable[[Agent, JobSpec], Awaitable[object]],
    *,
    limit_s: float = 50.0,
    **fields: Any,
) -> tuple[list[str], str]:
    """Notes and verdict of a job that `stop` reaches while a file without end is redacted."""
    script = r'mkdir "$QGJET_ATTEMPT_DIR/test-results"; cd "$QGJET_ATTEMPT_DIR/test-results"; echo text >huge; truncate -s 1T huge; exit 1'
    settings = ArtifactSettings(
        max_file_bytes=1 << 41, max_attempt_bytes=1 << 41, upload_timeout_s=limit_s
    )
    job = spec(test="1", max_retries=0, **fields)
    runners: Any = commands(tmp_path, script, env={"API_TOKEN": SECRET}, redact=("API_TOKEN",))
    async with running_agent(
        log, tmp_path / "work", runners=runners, artifact_settings=settings
    ) as agent:
        await submit(log, job)
        async with asyncio.timeout(patience(10)):
            await redacting.begun.wait()
        await stop(agent, job)
        found = await ended(log, job.slot)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("artifacts")]
    outcome = (await log.history(job.slot))[-1].event.outcome  # type: ignore[union-attr]
    return [one.note for one in outcome.artifacts if one.name == "test-results/huge"], str(
        found.verdict
    )


async def nothing(_: Agent, __: JobSpec) -> None:
    return


async def test_a_cancel_ends_the_redaction_and_keeps_the_verdict(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel(_: Agent, job: JobSpec) -> None:
        await log.cancel(job.slot, job.job_id, by="test")

    notes, verdict = await stopped_while_redacting(log, tmp_path, Redacting(monkeypatch), cancel)
    assert (notes, verdict) == (["left out: the job was cancelled"], "failed")


async def test_the_deadline_ends_the_redaction_and_keeps_the_verdict(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, verdict = await stopped_while_redacting(
        log, tmp_path, Redacting(monkeypatch), nothing, execution_timeout_s=2.0
    )
    assert (notes, verdict) == (["left out: the job reached its deadline"], "failed")


async def test_the_upload_timeout_ends_the_redaction_and_keeps_the_verdict(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, verdict = await stopped_while_redacting(
        log, tmp_path, Redacting(monkeypatch), nothing, limit_s=0.5
    )
    assert (notes, verdict) == (["left out: not stored within upload_timeout (0.5 s)"], "failed")


async def test_a_halt_ends_the_redaction_and_keeps_the_verdict(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def halt(agent: Agent, _: JobSpec) -> None:
        agent.halt()

    notes, verdict = await stopped_while_redacting(log, tmp_path, Redacting(monkeypatch), halt)
    assert (notes, verdict) == (["left out: the agent was stopped, or lost the job"], "failed")


@pytest.mark.parametrize("stop", ["cancel", "deadline"])
async def test_a_run_that_was_stopped_keeps_its_log(
    log: EventLog, tmp_path: Path, stop: str
) -> None:
    job = spec(test="1", max_retries=0, execution_timeout_s=2.0 if stop == "deadline" else 60.0)
    runners: Any = commands(
        tmp_path,
        "echo the $API_TOKEN; sleep 60",
        env={"API_TOKEN": SECRET},
        redact=("API_TOKEN",),
        stop_grace_s=0.1,
    )
    async with running_agent(log, tmp_path / "work", runners=runners) as agent:
        await submit(log, job)
        if stop == "cancel":

            async def prints() -> bool:
                return bool(
                    await messages(
                        log.connection, LOGS, log_subject(job.job_id, 1), 0, batch=1, max_bytes=1000
                    )
                )

            await eventually(prints)
            await log.cancel(job.slot, job.job_id, by="test")
        found = await ended(log, job.slot)
        assert agent is not None
    assert str(found.verdict) == {"cancel": "cancelled", "deadline": "timed_out"}[stop]
    info = await ArtifactStore(log.connection).stat(object_name(job.job_id, 1, "output.log"))
    assert info is not None
    assert (
        b"".join([piece async for piece in ArtifactStore(log.connection).get(info)]) == b"the ***\n"
    )
