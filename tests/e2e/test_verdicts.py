"""What AppWright runs come to, live through the whole of qgjet: verdict, exit code and JUnit of
each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import junitparser
import pytest

from agents import agree, eventually
from e2e.conftest import Ended
from patience import patience
from qgjet.config.settings import QueueSettings
from qgjet.domain.events import Slot, Status
from qgjet.domain.job import Job
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from surroundings import is_ours

pytestmark = pytest.mark.timeout(150)
Run = Callable[..., Ended]

SPECS = {
    "syntax": 'import { test } from "./shop";\ntest("never read", async ({ device }) => {\n  await device.getByText("Next").tap(;\n});\n',
    "worker": 'import { test } from "./shop";\ntest("ends its worker", async ({ device }) => { await device.getByText("Next").tap(); process.exit(7); });\n',
    "slow": 'import { test } from "./shop";\ntest("takes too long", async ({ device }) => { test.setTimeout(3_000); await new Promise(() => {}); });\n',
    "none": 'import { expect } from "./shop";\nexpect(1).toBe(1);\n',
    "skipped": 'import { test } from "./shop";\ntest.skip("not today", async ({ device }) => {});\n',
    "fails": 'import { test, expect } from "./shop";\ntest("cannot hold", async ({ device }) => { expect(1, "one is two").toBe(2); });\n',
}
BRIEF = QueueSettings(visibility_timeout_s=3.0)
RETRIES = ("--max-retries", "0", "--infra-retries", "0")


@pytest.fixture
def lab(shop: Path, tmp_path: Path) -> Path:
    """The example project with specs that go wrong, in a directory of its own."""
    place = tmp_path / "lab"
    shutil.copytree(
        shop, place, ignore=shutil.ignore_patterns("node_modules", ".qgjet", "test-results")
    )
    (place / "node_modules").symlink_to(shop / "node_modules")
    for name, text in SPECS.items():
        (place / "tests" / f"{name}.spec.ts").write_text(text)
    return place


def environment(**variables: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not is_ours(name)} | variables


@pytest.fixture
def run(lab: Path) -> Run:
    """`qgjet run --junit junit.xml --json` of one app version on one target."""

    def call(
        *tests: str,
        target: str = "emulator",
        version: str = "1.0.0",
        flags: tuple[str, ...] = RETRIES,
        **variables: str,
    ) -> Ended:
        named = [flag for test in tests for flag in ("--test", f"tests/{test}")]
        asked = (
            "--org-id",
            "shop",
            "--app-version-id",
            version,
            "--target",
            target,
            *named,
            *flags,
            "--junit",
            "junit.xml",
            "--json",
        )
        done = subprocess.run(
            [str(Path(sys.executable).with_name("qgjet")), "run", *asked],
            cwd=lab,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience(100),
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


def found(ended: Ended) -> dict[str, tuple[str, str]]:
    return {
        job["test"].removeprefix("tests/"): (job["verdict"], job["reason"])
        for job in ended.document["jobs"]
    }


SEVERITY = ("passed", "flakyFailure", "skipped", "failure", "error")


def junit(lab: Path) -> dict[str, str]:
    """The worst that the report says of each file, by two readers that must agree: passed,
    flakyFailure, skipped, failure or error.
    """
    first: dict[str, list[str]] = {}
    for suite in junitparser.JUnitXml.fromfile(str(lab / "junit.xml")):
        for case in suite:
            kind = type(case.result[0]).__name__ if case.result else "passed"
            first.setdefault(Path(case.classname or "").name, []).append(kind[0].lower() + kind[1:])
    second: dict[str, list[str]] = {}
    for element in ET.parse(lab / "junit.xml").getroot().iter("testcase"):
        kinds = [
            child.tag
            for child in element
            if child.tag in ("failure", "error", "skipped", "flakyFailure")
        ]
        second.setdefault(Path(element.get("classname", "")).name, []).append(
            kinds[0] if kinds else "passed"
        )
    # the first reader does not know Surefire's flakyFailure
    assert _worst(first) == {
        name: "passed" if word == "flakyFailure" and first[name] == ["passed"] else word
        for name, word in _worst(second).items()
    }
    return _worst(second)


def _worst(found: dict[str, list[str]]) -> dict[str, str]:
    return {name: max(words, key=SEVERITY.index) for name, words in found.items()}


def test_each_way_a_spec_can_go_has_its_verdict(run: Run, lab: Path) -> None:
    tests = [f"{name}.spec.ts" for name in SPECS]
    ended = run("onboarding.spec.js", *tests)
    verdicts = {test: verdict for test, (verdict, _) in found(ended).items()}
    assert verdicts == {
        "onboarding.spec.js": "passed",
        "syntax.spec.ts": "config_error",
        "worker.spec.ts": "infra_error",
        "slow.spec.ts": "timed_out",
        "none.spec.ts": "config_error",
        "skipped.spec.ts": "skipped",
        "fails.spec.ts": "failed",
    }, ended.stderr
    assert ended.code == 1
    said = junit(lab)
    assert {name: said[name] for name in verdicts} == {
        "onboarding.spec.js": "passed",
        "syntax.spec.ts": "error",
        "worker.spec.ts": "error",
        "slow.spec.ts": "failure",
        "none.spec.ts": "error",
        "skipped.spec.ts": "skipped",
        "fails.spec.ts": "failure",
    }
    assert "one is two" in (lab / "junit.xml").read_text()


def test_a_test_file_that_is_not_there_is_refused_before_anything_is_submitted(
    run: Run, lab: Path
) -> None:
    ended = run("onboarding.spec.js", "missing.spec.ts")
    assert (ended.code, ended.stdout) == (5, "")
    assert f"there is no test file tests/missing.spec.ts in {lab}" in ended.stderr


def test_a_project_that_the_config_does_not_have_is_a_config_error(run: Run, lab: Path) -> None:
    settings = (
        (lab / "qgjet.toml").read_text().replace('project = "emulator"', 'project = "toaster"')
    )
    tomllib.loads(settings)
    (lab / "qgjet.toml").write_text(settings)
    ended = run("login.spec.ts")
    assert (ended.code, found(ended)["login.spec.ts"][0]) == (3, "config_error"), ended.stderr
    assert junit(lab) == {"login.spec.ts": "error"}


def test_a_failure_that_passes_at_the_second_attempt_stays_visible(run: Run, lab: Path) -> None:
    ended = run(
        "checkout.spec.ts",
        version="flaky",
        flags=("--max-retries", "1"),
        QGJET_QUEUE_RETRY_BASE="100ms",
    )
    assert (ended.code, found(ended)["checkout.spec.ts"][0]) == (0, "flaky"), ended.stderr
    assert junit(lab) == {"checkout.spec.ts": "flakyFailure"}


@pytest.mark.parametrize(
    ("target", "version", "variables"),
    [
        ("device", "unplug", {}),
        ("emulator", "1.0.0", {"FARM_NO_DEVICE": "1"}),
        ("browserstack", "1.0.0", {"FARM_REFUSE_UPLOAD": "1"}),
        ("emulator", "crash", {}),
    ],
    ids=["gone-in-the-middle", "missing-at-prepare", "upload-refused", "session-lost"],
)
def test_what_breaks_around_the_test_is_no_verdict_on_the_app(
    run: Run, lab: Path, target: str, version: str, variables: dict[str, str]
) -> None:
    test = "checkout.spec.ts" if version == "crash" else "cart.spec.ts"
    ended = run(test, target=target, version=version, **variables)
    (verdict, _) = found(ended)[test]
    assert (verdict, ended.code, junit(lab)[test]) == ("infra_error", 3, "error"), ended.stderr


def test_a_test_over_its_deadline_has_timed_out(run: Run, lab: Path) -> None:
    ended = run(
        "profile.spec.ts", version="hang", flags=("--max-retries", "0", "--execution-timeout", "5s")
    )
    assert (ended.code, found(ended)["profile.spec.ts"][0]) == (1, "timed_out"), ended.stderr
    assert junit(lab)["profile.spec.ts"] in ("error", "failure"), "as far as the test had come"


# -- jobs that somebody ends, over a server that stays -----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def process(
    lab: Path, *arguments: str, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("qgjet")),
        *arguments,
        cwd=lab,
        env=environment(**variables),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.communicate()


async def state(log: EventLog, test: str) -> Job | None:
    return await log.load(Slot("shop", "hang", "emulator", f"tests/{test}"))


async def test_a_run_that_is_interrupted_cancels_what_waits_and_what_runs(
    server: NatsServer, log: EventLog, lab: Path
) -> None:
    """Twenty seconds of a test that hangs, and one behind it; Ctrl-C ends both."""
    await agree(log.connection, BRIEF.deployment)
    named = ("--test", "tests/profile.spec.ts", "--test", "tests/login.spec.ts")
    asked = (
        "--org-id",
        "shop",
        "--app-version-id",
        "hang",
        "--target",
        "emulator",
        *named,
        "--junit",
        "junit.xml",
    )
    async with process(lab, "agent", "--target", "emulator", QGJET_NATS_URL=server.url):
        async with process(lab, "run", *asked, QGJET_NATS_URL=server.url) as running:
            hangs = await eventually(lambda: is_running(log, "profile.spec.ts"), within_s=60)
            assert hangs
            running.send_signal(signal.SIGINT)
            await asyncio.wait_for(running.wait(), patience(60))  # noqa: TID251 - a test's own limit
            assert running.returncode == 130
        for test in ("profile.spec.ts", "login.spec.ts"):
            ended = await eventually(lambda test=test: has_ended(log, test), within_s=30)  # type: ignore[misc]
            assert ended.status is Status.CANCELLED
    assert junit(lab) == {"profile.spec.ts": "error", "login.spec.ts": "error"}


async def test_a_killed_agent_costs_the_job_nothing_but_time(
    server: NatsServer, log: EventLog, lab: Path
) -> None:
    await agree(log.connection, BRIEF.deployment)
    variables = {"QGJET_NATS_URL": server.url, "QGJET_AGENT_POLL": "500ms"}
    asked = (
        "--org-id",
        "shop",
        "--app-version-id",
        "1.0.0",
        "--target",
        "emulator",
        "--test",
        "tests/cart.spec.ts",
        "--max-retries",
        "0",
    )
    cart = Slot("shop", "1.0.0", "emulator", "tests/cart.spec.ts")

    async def runs() -> bool:
        job = await log.load(cart)
        return job is not None and job.status is Status.RUNNING

    async with process(lab, "run", *asked, "--junit", "junit.xml", **variables) as running:
        async with process(lab, "agent", "--target", "emulator", **variables) as victim:
            await eventually(runs, within_s=60)
            victim.kill()
        async with process(lab, "agent", "--target", "emulator", **variables):
            await asyncio.wait_for(running.wait(), patience(90))  # noqa: TID251 - a test's own limit
    assert running.returncode == 0
    job = await log.load(cart)
    assert job is not None
    assert (job.attempt, job.retries_left, str(job.verdict)) == (2, 0, "passed")
    assert junit(lab)["cart.spec.ts"] in ("passed", "flakyFailure")


async def is_running(log: EventLog, test: str) -> bool:
    job = await state(log, test)
    return job is not None and job.status is Status.RUNNING


async def has_ended(log: EventLog, test: str) -> Job | None:
    job = await state(log, test)
    return job if job is not None and not job.live else None
