"""A day in the life of a queue, written to the log as clients and agents would have: suites of
several branches, retries, dead letters, work in progress.
"""

from __future__ import annotations

import asyncio
import io
import random
import struct
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from qgjet.domain.control import Kind, Paused
from qgjet.domain.decide import EndAttempt, OnDuplicate, Start
from qgjet.domain.events import Artifact, JobSpec, Outcome, TestError, TestResult, Try, Verdict
from qgjet.domain.job import Job, state_of
from qgjet.domain.subjects import log_subject
from qgjet.store import agent_registry, control_log
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.artifacts import ArtifactStore, object_name
from qgjet.store.suite_log import Submission, submit_suite
from web.stack import Stack

TESTS = {
    "tests/cart.spec.ts": ("adds an item", "changes the quantity", "shows the total"),
    "tests/checkout.spec.ts": ("pays with a card", "keeps the address"),
    "tests/deeplink.spec.ts": ("opens a product",),
    "tests/login.spec.ts": ("logs in", "refuses a wrong password"),
    "tests/notifications.spec.ts": ("asks for permission", "opens the order"),
    "tests/offline.spec.ts": ("shows what is cached",),
    "tests/onboarding.spec.ts": ("walks through", "can be skipped"),
    "tests/profile.spec.ts": ("changes the name", "shows the avatar"),
    "tests/search.spec.ts": ("finds by name", "finds nothing"),
    "tests/wishlist.spec.ts": ("adds", "removes"),
}
MESSAGES = {
    "tests/cart.spec.ts": 'expect(locator).toHaveText(\'$ 31.80\')\n\nExpected: "$ 31.80"\nReceived: "$ 15.90"',
    "tests/search.spec.ts": "element 'search-result-0' was not visible within 10000 ms",
    "tests/offline.spec.ts": "element 'banner-offline' was not visible within 10000 ms",
}
DEVICES = {
    "emulator": ("mac-mini-1", "Pixel 8, Android 15"),
    "device": ("mac-mini-2", "Galaxy S23, Android 14"),
}
SLOTS = {"emulator": 3, "device": 2}
INSTALL_S = 21.0
LOG = """booting com.example.shop {version} on {device}
{install}

Running {count} tests using 1 worker

{lines}
"""


@dataclass
class Scene:
    """Where to look: names of what is in it."""

    stack: Stack
    now: datetime
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    running: dict[str, list[str]] = field(default_factory=dict)
    warm: dict[str, str] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    """`<suite>/<target>/<test>` -> job id."""
    suites: list[str] = field(default_factory=list)
    screen: bytes = b""
    """PNG that failed attempts leave behind."""

    # -- writing -----------------------------------------------------------------------------------------------------

    async def suite(
        self,
        name: str,
        at: datetime,
        *,
        branch: str,
        version: str,
        verdicts: Mapping[str, Sequence[str]] | None = None,
        targets: Sequence[str] = ("emulator", "device"),
        org_id: str = "shop",
    ) -> None:
        """Jobs of all tests on all targets, run by the agents as far as time has come. `verdicts`:
        test, or `target:test` -> words, one per attempt.
        """
        specs = [
            self._spec(name, at, version, target, test, org_id)
            for target in targets
            for test in TESTS
        ]
        commit = f"{self.rng.getrandbits(160):040x}"
        self.stack.clock.at = at
        tags = {
            "branch": branch,
            "commit": commit,
            "pipeline": "nightly"
            if name.startswith("nightly")
            else "pull request"
            if branch != "main"
            else "push",
        }
        await submit_suite(
            self.stack.log,
            Submission(
                suite_id=name,
                id=str(uuid.UUID(int=self.rng.getrandbits(128))),
                specs=specs,
                modes=[OnDuplicate.ATTACH] * len(specs),
                by="api:ci",
                tags=tags,
            ),
        )
        self.suites.append(name)
        for target in targets:
            if target in DEVICES:
                await self._run(
                    [spec for spec in specs if spec.target == target], at, verdicts or {}
                )

    def _spec(
        self, suite: str, at: datetime, version: str, target: str, test: str, org_id: str
    ) -> JobSpec:
        job_id = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        self.jobs[f"{suite}/{target}/{test}"] = job_id
        return JobSpec(
            job_id=job_id,
            org_id=org_id,
            app_version_id=version,
            target=target,
            test=test,
            max_retries=1,
            infra_retries=1,
            submitted_at=at,
            submitted_by="api:ci",
            suite_ids=(suite,),
            tags={"branch": suite.rpartition("-")[0]},
        )

    async def _run(
        self, specs: Sequence[JobSpec], at: datetime, verdicts: Mapping[str, Sequence[str]]
    ) -> None:
        """Every slot of the target's agent takes the next job."""
        name, device = DEVICES[specs[0].target]
        free = [at + timedelta(seconds=2 + number) for number in range(SLOTS[specs[0].target])]
        cold = set(range(len(free)))
        for spec in specs:
            words = (
                verdicts.get(f"{spec.target}:{spec.test}") or verdicts.get(spec.test) or ("passed",)
            )
            job, earliest = await self.stack.log.load(spec.slot), at
            for word in words:
                place = free.index(min(free))
                began = max(free[place], earliest)
                if job is None or began > self.now:
                    break
                warm = place not in cold
                cold.discard(place)
                job, free[place] = await self._attempt(
                    spec, job, began, word, name, device, warm=warm
                )
                earliest = free[place] + timedelta(seconds=1.2)

    async def _attempt(
        self,
        spec: JobSpec,
        job: Job,
        began: datetime,
        word: str,
        agent: str,
        device: str,
        *,
        warm: bool,
    ) -> tuple[Job | None, datetime]:
        self.stack.clock.at = began
        event, seq = await self.stack.log.execute(
            spec.slot, Start(job.ticket, agent, device=device, warm=warm), job
        )
        job = state_of(event, seq)
        took = (0.0 if warm else INSTALL_S) + (
            9 + sum(map(ord, spec.test)) % 23
        ) * self.rng.uniform(0.9, 1.2) * (1.6 if word == "failed" else 1)
        self.warm[agent] = f"{spec.org_id}/{spec.app_version_id}/{spec.target}"
        ends = began + timedelta(seconds=took)
        if ends > self.now:
            self.running.setdefault(agent, []).append(spec.job_id)
            text = self._log(spec, word, device, warm).rpartition("\n  ")[0]
            await self.stack.connection.request(
                log_subject(spec.job_id, job.attempt), text.encode() + b"\n"
            )
            return None, ends
        text = self._log(spec, word, device, warm).encode()
        if word == "failed":
            await self.stack.connection.request(log_subject(spec.job_id, job.attempt), text)
        outcome = await self._with_files(spec, job.attempt, self._outcome(spec, word, took), text)
        self.stack.clock.at = ends
        event, seq = await self.stack.log.execute(
            spec.slot, EndAttempt(agent, job.attempt, outcome, retry_in_s=1.0), job
        )
        return state_of(event, seq), ends

    def _outcome(self, spec: JobSpec, word: str, took: float) -> Outcome:
        if word == "infra_error":
            return Outcome(
                verdict=Verdict.INFRA_ERROR,
                reason="device_lost",
                message="adb: device 'R5CW20XYZ' not found",
                duration_s=took,
            )
        error = TestError(
            message=MESSAGES.get(spec.test, "expected the screen to be shown"),
            file=spec.test,
            line=27,
        )
        titles = TESTS[spec.test]
        tests = []
        for number, title in enumerate(titles):
            last = number == len(titles) - 1
            tries = (Try(status="passed", duration_s=took / len(titles)),)
            if last and word == "failed":
                tries = (Try(status="failed", duration_s=took / 2, error=error),)
            elif last and word == "flaky":
                tries = (Try(status="failed", duration_s=took / 3, error=error), *tries)
            outcome = word if last else "passed"
            tests.append(
                TestResult(
                    id=f"{spec.test}:{number}",
                    title=title,
                    file=spec.test,
                    line=9 * number + 9,
                    outcome=outcome,
                    tries=tries,
                )
            )
        reason = {"failed": "tests_failed", "flaky": "tests_flaky"}.get(word, "tests_passed")
        return Outcome(
            verdict=Verdict(word),
            reason=reason,
            exit_code=int(word == "failed"),
            duration_s=took,
            tests=tuple(tests),
        )

    def _log(self, spec: JobSpec, word: str, device: str, warm: bool) -> str:
        titles = TESTS[spec.test]
        bad = word in ("failed", "infra_error")
        lines = [
            f"  {'✘' if bad and title == titles[-1] else '✓'}  {number} [{spec.target}] > {spec.test}:{9 * number} > {title} ({self.rng.uniform(2, 9):.1f}s)"
            for number, title in enumerate(titles, 1)
        ]
        if bad:
            lines += [
                "",
                *(
                    f"    {line}"
                    for line in MESSAGES.get(spec.test, "the device is gone").splitlines()
                ),
            ]
        install = (
            "app is installed already"
            if warm
            else f"installing shop-{spec.app_version_id}.apk (38 MB)"
        )
        return LOG.format(
            version=spec.app_version_id,
            device=device,
            install=install,
            count=len(titles),
            lines="\n".join(lines),
        )

    async def _with_files(
        self, spec: JobSpec, attempt: int, outcome: Outcome, text: bytes
    ) -> Outcome:
        files = [("output.log", "text/plain", text)]
        if outcome.verdict is Verdict.FAILED:
            files.append(("test-results/test-failed-1.png", "image/png", self.screen or picture()))
        else:
            return outcome
        kept = []
        for name, kind, data in files:
            info = await ArtifactStore(self.stack.connection).put(
                object_name(spec.job_id, attempt, name), io.BytesIO(data)
            )
            kept.append(Artifact(name=name, content_type=kind, size=info.size, sha256=info.sha256))
        return replace(outcome, artifacts=tuple(kept))

    async def pause(self, target: str) -> None:
        at = self.now - timedelta(minutes=34)
        until = (self.now + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
        await control_log.append(
            self.stack.connection,
            Paused(
                kind=Kind.TARGET,
                name=target,
                at=at,
                by="api:ana",
                reason="the plan's minutes are used up",
                until=until,
            ),
        )

    # -- what is not in the log --------------------------------------------------------------------------------------

    def agents(self) -> list[AgentInfo]:
        return [
            AgentInfo(
                instance=name,
                name=name,
                host=name,
                pid=100,
                version="1.0.0",
                targets=(
                    TargetSlots(
                        target=target, slots=SLOTS[target], running=len(self.running.get(name, []))
                    ),
                ),
                slots=SLOTS[target],
                since=self.now - timedelta(hours=26, minutes=number),
                running=tuple(self.running.get(name, [])),
                warm=(self.warm[name],) if name in self.warm else (),
            )
            for number, (target, (name, _)) in enumerate(DEVICES.items())
        ]

    async def keep_agents(self) -> None:
        """Until cancelled: without this the bucket forgets them."""
        while True:
            for info in self.agents():
                await agent_registry.announce(self.stack.connection, info)
            await asyncio.sleep(agent_registry.RENEW_EVERY_S)


async def play(
    stack: Stack, now: datetime, *, screen: bytes = b"", nights: int = 0, first: int = 0
) -> Scene:
    """The day up to `now`, from its `first` suite on, and so many nights before it."""
    scene = Scene(stack, now, screen=screen)
    for night in range(nights, 0, -1):
        bad = (
            {"tests/cart.spec.ts": ("failed", "failed")}
            if night % 5 == 3
            else {"emulator:tests/cart.spec.ts": ("flaky",)}
            if night % 4 == 1
            else {}
        )
        at = now.replace(hour=1, minute=0, second=0) - timedelta(days=night + 1)
        await scene.suite(
            f"nightly-{200 - night}",
            at,
            branch="main",
            version=f"2.13.{20 - night}",
            verdicts={"device:tests/search.spec.ts": ("flaky",), **bad},
        )
    branches = ("main", "cart-total", "main", "new-search", "main", "login-sso")
    flaky, infra = (
        {"tests/search.spec.ts": ("flaky",)},
        {"device:tests/profile.spec.ts": ("infra_error", "infra_error")},
    )
    for number in range(first, 12):
        branch = branches[number % len(branches)]
        bad = (
            {"tests/cart.spec.ts": ("failed", "failed")}
            if branch == "cart-total" or number == 10
            else {}
        )
        retried = {"device:tests/login.spec.ts": ("failed", "passed")} if number % 3 == 1 else {}
        verdicts = {
            **(flaky if number % 2 else {}),
            **(infra if number in (3, 7) else {}),
            **bad,
            **retried,
        }
        hours = 21.7 - number * 1.9 + (0.6 if number % 2 else 0)
        await scene.suite(
            f"{branch}-{3120 + number}",
            now - timedelta(hours=hours),
            branch=branch,
            version=f"2.14.{number}",
            verdicts=verdicts,
        )
    offline = {"tests/offline.spec.ts": ("failed", "failed"), "tests/search.spec.ts": ("flaky",)}
    await scene.suite(
        "main-3132",
        now - timedelta(seconds=66),
        branch="main",
        version="2.14.12",
        verdicts=offline,
        targets=("emulator", "device", "browserstack"),
    )
    await scene.pause("browserstack")
    stack.clock.at = None
    return scene


def picture(width: int = 90, height: int = 160) -> bytes:
    """A plain PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress((b"\0" + b"\x30\x60\xa0" * width) * height))
        + chunk(b"IEND", b"")
    )
