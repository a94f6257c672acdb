"""`import qgjet`: the same calls over NATS, over HTTP and on a server of their own, with and
without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import qgjet
from agents import eventually, running_agent, scripted
from patience import patience
from qgjet.config.loader import load_settings
from qgjet.errors import CannotReach, DuplicateJob, InvalidInput, InvalidSettings, NotAccepted
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_projections.serving.local_stack import LocalStack

CONFIG = """
[targets.emulator]
runner = "scripted"
slots = 2
outcomes = { "tests/b.spec.ts" = ["failed", "failed"], "tests/flaky.spec.ts" = ["failed", "passed"], "*" = ["passed"] }

[queue]
retry_base = "20ms"
retry_cap = "50ms"
"""
WAITING = '[targets.emulator]\nrunner = "command"\ncommand = ["sh", "-c", "until [ -e go ]; do sleep 0.05; done"]\n'


def job(test: str = "tests/a.spec.ts", **fields: object) -> qgjet.Job:
    return qgjet.Job(
        **{
            "app_version_id": "1.0.0",
            "target": "emulator",
            "test": test,
            "max_retries": 1,
            **fields,
        }
    )  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def stack_of(text: str, directory: Path) -> AsyncIterator[LocalStack]:
    async with LocalStack(
        load_settings(text, flags={"targets.emulator.dir": str(directory)})
    ) as stack:
        yield stack


@pytest.fixture
async def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalStack]:
    monkeypatch.chdir(tmp_path)
    async with stack_of(CONFIG, tmp_path) as running:
        yield running


@pytest.fixture(params=["nats", "http"])
async def url(request: pytest.FixtureRequest, stack: LocalStack) -> str:
    return stack.nats_url if request.param == "nats" else stack.api_url


async def test_a_suite_is_submitted_followed_and_reported(url: str) -> None:
    async with qgjet.connect(url) as client:
        suite = await client.submit([job(), job("tests/b.spec.ts"), job("tests/flaky.spec.ts")])
        assert [one.slot.test for one in suite.jobs] == [
            "tests/a.spec.ts",
            "tests/b.spec.ts",
            "tests/flaky.spec.ts",
        ]
        assert {one.slot.org_id for one in suite.jobs} == {"default"}
        updates = [update async for update in suite.follow()]
        ended = {
            update.job.slot.test: update.job.verdict for update in updates if not update.job.live
        }
        assert ended == {
            "tests/a.spec.ts": "passed",
            "tests/b.spec.ts": "failed",
            "tests/flaky.spec.ts": "flaky",
        }
        of_b = [
            (update.job.status, update.job.attempt)
            for update in updates
            if update.job.slot.test == "tests/b.spec.ts"
        ]
        assert of_b[-4:] == [("running", 1), ("queued", 1), ("running", 2), ("failed", 2)], (
            "each update keeps the state that it had"
        )
        report = await suite.wait(timeout=1)
    assert (report.verdict, report.passed) == (qgjet.Verdict.FAILED, False)
    assert {one.test: one.verdict for one in report.jobs} == ended
    root = ElementTree.fromstring(report.junit())
    assert (root.get("failures"), len(list(root.iter("testcase")))) == ("1", 3)
    assert b'"tests"' in report.ctrf()
    assert report.html().startswith("<!doctype html>")
    assert suite.id in report.json().decode()


async def test_a_wait_that_takes_too_long_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with (
        stack_of(WAITING, tmp_path) as stack,
        qgjet.connect(stack.nats_url, org_id="acme") as client,
    ):
        suite = await client.submit([job()])
        with pytest.raises(TimeoutError):
            await suite.wait(timeout=0.2)
        assert suite.report().verdict is None
        (tmp_path / "go").touch()
        report = await suite.wait(timeout=patience(30))
        assert (report.verdict, report.jobs[0].org_id) == (qgjet.Verdict.PASSED, "acme")


async def test_a_cancelled_suite_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with stack_of(WAITING, tmp_path) as stack:
        for url in (stack.nats_url, stack.api_url):
            async with qgjet.connect(url) as client:
                suite = await client.submit([job()])
                await suite.cancel("not needed")
                await suite.cancel()
                assert (await suite.wait(timeout=patience(30))).verdict is qgjet.Verdict.CANCELLED


async def test_the_same_key_finds_the_same_suite(url: str) -> None:
    async with qgjet.connect(url) as client:
        first = await client.submit([job(), job("tests/c.spec.ts")], idempotency_key="build-7")
        await first.wait(timeout=patience(30))
        second = await client.submit([job(), job("tests/c.spec.ts")], idempotency_key="build-7")
        assert (second.id, [one.job_id for one in second.jobs]) == (
            first.id,
            [one.job_id for one in first.jobs],
        )
        assert (await second.wait(timeout=patience(30))).passed


async def test_what_is_refused_is_raised_or_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with stack_of(WAITING, tmp_path) as stack:
        for url, refusal in ((stack.nats_url, DuplicateJob), (stack.api_url, NotAccepted)):
            async with qgjet.connect(url, org_id=url[:4]) as client:
                await client.submit([job()])
                again, other = (
                    job(on_duplicate="reject"),
                    job("tests/c.spec.ts", on_duplicate="reject"),
                )
                with pytest.raises(refusal):
                    await client.submit([again, other])
                suite = await client.submit([again, other], partial=True)
                assert [one.slot.test for one in suite.jobs] == ["tests/c.spec.ts"]
                assert [(one.request.test, type(one.error)) for one in suite.refused] == [
                    ("tests/a.spec.ts", refusal)
                ]


async def test_what_no_server_would_take_is_not_sent(stack: LocalStack) -> None:
    async with qgjet.connect(stack.nats_url) as client:
        for wrong in (
            [],
            [job(), job("../escape.spec.ts")],
            [job(priority=17)],
            [job(priority="high")],
            [job(on_duplicate="sometimes")],
            [job(tags={"a": object()})],
        ):
            with pytest.raises(InvalidInput):
                await client.submit(wrong)
        suite = await client.submit([job()])
        async for _ in suite.follow():
            with pytest.raises(RuntimeError, match="followed already"):
                await suite.wait()


@pytest.mark.parametrize("url", ["nats://127.0.0.1:1", "http://127.0.0.1:1"])
async def test_a_server_that_is_not_there_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotReach, match=r"127\.0\.0\.1:1"):
        async with qgjet.connect(url, patience=0.1) as client:
            await client.submit([job()])


@pytest.mark.parametrize("url", ["127.0.0.1:4222", "ftp://127.0.0.1", "nats"])
async def test_an_address_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="nats://"):
        async with qgjet.connect(url):
            raise AssertionError


async def test_without_an_address_the_server_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qgjet.toml").write_text(CONFIG)
    async with qgjet.connect() as client:
        report = await (await client.submit([job(), job("tests/flaky.spec.ts")])).wait(
            timeout=patience(30)
        )
    assert (report.verdict, report.passed) == (qgjet.Verdict.FLAKY, True)
    with pytest.raises(InvalidSettings, match=r"nothing\.toml"):
        async with qgjet.connect(config=tmp_path / "nothing.toml"):
            raise AssertionError


def test_a_script_needs_no_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qgjet.toml").write_text(CONFIG)
    with qgjet.connect_sync() as client:
        suite = client.submit([job(), job("tests/b.spec.ts")])
        for update in suite.follow():
            if update.job.verdict is not None:
                break  # and leave early
        assert suite.wait(timeout=patience(30)).verdict is qgjet.Verdict.FAILED
        with pytest.raises(InvalidInput):
            client.submit([])
    with (
        pytest.raises(CannotReach),
        qgjet.connect_sync("nats://127.0.0.1:1", patience=0.1) as client,
    ):
        raise AssertionError


async def test_a_restart_of_the_server_is_outlasted(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gate = asyncio.Event()
    async with (
        connect(server.url, name="test") as connection,
        qgjet.connect(server.url) as client,
        running_agent(EventLog(connection), tmp_path, runners=scripted(gate=gate)),
    ):
        suite = await client.submit([job()])
        waiting = asyncio.create_task(suite.wait(timeout=patience(60)))

        async def running() -> bool:
            return suite.jobs[0].status is qgjet.Status.RUNNING

        await eventually(running)
        server.kill()
        await server.start()
        gate.set()
        assert (await waiting).verdict is qgjet.Verdict.PASSED


def test_the_import_brings_nothing_along() -> None:
    """An agent has no use for an HTTP client, and `import qgjet` should cost nothing."""
    code = "import sys, qgjet; print(sorted(m for m in sys.modules if m.split('.')[0] in ('nats', 'httpx', 'litestar', 'msgspec')))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_every_public_name_is_there_and_documented() -> None:
    for name in qgjet.__all__:
        thing = getattr(qgjet, name)
        assert name == "__version__" or thing.__doc__, name
    assert set(qgjet.__all__) <= set(dir(qgjet))
    with pytest.raises(AttributeError):
        _ = qgjet.nothing  # type: ignore[attr-defined]
