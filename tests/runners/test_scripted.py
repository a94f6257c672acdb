"""The scripted runner: outcomes in order, waits that end, and no cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Partition, Verdict
from qgjet.errors import InvalidSettings, PrepareFailed
from qgjet.process.stop_control import StopReason
from qgjet.runners.base import Attempt, Session
from qgjet.runners.registry import make_runner
from qgjet.runners.scripted import ScriptedCrash, ScriptedRunner

MakeAttempt = Callable[..., Attempt]
PARTITION = Partition("acme", "1.0.0", "emulator")


async def scripted(
    outcomes: dict[str, tuple[str, ...]], gate: asyncio.Event | None = None
) -> Session:
    return await ScriptedRunner(outcomes, gate=gate).prepare(PARTITION, Path("/nowhere"))


async def test_the_nth_attempt_takes_the_nth_outcome_and_the_last_one_repeats(
    make_attempt: MakeAttempt,
) -> None:
    session = await scripted(
        {"*": ("skipped",), "tests/flaky.spec.js": ("failed", "infra_error", "passed")}
    )
    verdicts = [
        (await session.run(make_attempt(test="tests/flaky.spec.js", number=number))).verdict
        for number in (1, 2, 3, 4)
    ]
    assert verdicts == [Verdict.FAILED, Verdict.INFRA_ERROR, Verdict.PASSED, Verdict.PASSED]
    assert (await session.run(make_attempt(test="tests/other.spec.js"))).verdict is Verdict.SKIPPED


async def test_without_a_script_everything_passes(make_attempt: MakeAttempt) -> None:
    session = await make_runner(TargetSettings(name="emulator", runner="scripted")).prepare(
        PARTITION, Path("/nowhere")
    )
    assert (await session.run(make_attempt())).verdict is Verdict.PASSED
    assert await session.healthy()
    await session.release()


async def test_a_crash_is_a_defect_and_no_outcome(make_attempt: MakeAttempt) -> None:
    with pytest.raises(ScriptedCrash, match="attempt 1 crashes"):
        await (await scripted({"*": ("crash",)})).run(make_attempt())


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [
        (StopReason.CANCELLED, Verdict.CANCELLED),
        (StopReason.DEADLINE, Verdict.TIMED_OUT),
        (StopReason.LEASE_LOST, Verdict.INFRA_ERROR),
        (StopReason.DRAINED, Verdict.INFRA_ERROR),
    ],
)
async def test_a_hanging_job_ends_when_its_tether_stops_it(
    reason: StopReason, verdict: Verdict, make_attempt: MakeAttempt
) -> None:
    session = await scripted({"*": ("hang",)})
    attempt = make_attempt()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(session.run(attempt))
        attempt.stop_control.stop(reason)
    assert (task.result().verdict, task.result().reason) == (verdict, reason.value)


async def test_a_hanging_job_ends_with_its_hold(make_attempt: MakeAttempt) -> None:
    outcome = await (await scripted({"*": ("hang",)})).run(make_attempt(hold_s=0.05))
    assert (outcome.verdict, outcome.reason) == (Verdict.INFRA_ERROR, "lease_lost")


async def test_jobs_wait_at_the_gate_until_it_opens_or_they_are_stopped(
    make_attempt: MakeAttempt,
) -> None:
    gate = asyncio.Event()
    session = await scripted({"*": ("failed",)}, gate)
    attempts = [make_attempt() for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(session.run(attempt)) for attempt in attempts]
        attempts[0].stop_control.stop(StopReason.CANCELLED)
        assert (await tasks[0]).verdict is Verdict.CANCELLED
        assert not tasks[1].done()
        gate.set()
    assert [task.result().verdict for task in tasks[1:]] == [Verdict.FAILED, Verdict.FAILED]


async def test_a_cancelled_wait_is_cancelled(make_attempt: MakeAttempt) -> None:
    task = asyncio.create_task((await scripted({"*": ("hang",)})).run(make_attempt()))
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_prepare_fails_as_often_as_scripted() -> None:
    runner = ScriptedRunner({"@prepare": ("prepare_failed", "prepare_failed", "passed")})
    for _ in range(2):
        with pytest.raises(PrepareFailed, match="emulator"):
            await runner.prepare(PARTITION, Path("/nowhere"))
    for _ in range(2):
        await runner.prepare(PARTITION, Path("/nowhere"))


@pytest.mark.parametrize(
    "outcomes",
    [{"*": ()}, {"*": ("pass",)}, {"a": ("passed", "prepare_failed")}, {"@prepare": ("failed",)}],
)
def test_words_that_mean_nothing_are_refused(outcomes: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(InvalidSettings, match="outcomes"):
        make_runner(TargetSettings(name="x", runner="scripted", outcomes=outcomes))
