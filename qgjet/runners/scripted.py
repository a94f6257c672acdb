"""Gives outcomes that were written down before, for tests and for load. Starts no process; a passed
job costs microseconds.

`outcomes` maps a test path, or `*` for any other, to the results of its attempts: the n-th attempt
has the n-th word, and the last word repeats. Words are the verdicts, `hang` (until the stop control
ends it) and `crash` (`run` raises, as a defective runner does). The key `@prepare` has a word for
each session that is
prepared: `prepare_failed` or `passed`. Without any entry everything passes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from qgjet.domain.events import Outcome, Partition, Verdict
from qgjet.errors import InvalidSettings, PrepareFailed
from qgjet.process.stop_control import StopReason
from qgjet.runners.base import Attempt, Session
from qgjet.runners.redaction import Redactor
from qgjet.support.clock import LEASE_LOOK_S, lease_time

PREPARE = "@prepare"
HANG = "hang"
CRASH = "crash"
PREPARE_FAILED = "prepare_failed"

_OUTCOMES = {verdict.value: Outcome(verdict=verdict, reason="scripted") for verdict in Verdict}
_STOPPED = {
    StopReason.CANCELLED: Verdict.CANCELLED,
    StopReason.DEADLINE: Verdict.TIMED_OUT,
    StopReason.LEASE_LOST: Verdict.INFRA_ERROR,
    StopReason.DRAINED: Verdict.INFRA_ERROR,
}
_PASSED = (Verdict.PASSED.value,)


class ScriptedCrash(RuntimeError):
    """A defect, as scripted."""


class ScriptedRunner:
    """`gate`, for tests: every job waits until it is set, or until its stop control stops it."""

    def __init__(
        self, outcomes: Mapping[str, tuple[str, ...]], *, gate: asyncio.Event | None = None
    ) -> None:
        for test, words in outcomes.items():
            _check(test, words)
        self._outcomes = outcomes
        self._gate = gate
        self._prepared = 0

    async def prepare(self, partition: Partition, directory: Path) -> Session:
        self._prepared += 1
        if _nth(self._outcomes.get(PREPARE, _PASSED), self._prepared) == PREPARE_FAILED:
            raise PrepareFailed(
                f"target {partition.target}: prepare number {self._prepared} fails, as scripted"
            )
        return ScriptedSession(self._outcomes, self._gate)


class ScriptedSession:
    device = "scripted"
    redactor = Redactor()

    def __init__(self, outcomes: Mapping[str, tuple[str, ...]], gate: asyncio.Event | None) -> None:
        self._outcomes = outcomes
        self._otherwise = outcomes.get("*", _PASSED)
        self._gate = gate

    async def healthy(self) -> bool:
        return True

    async def run(self, attempt: Attempt) -> Outcome:
        word = _nth(self._outcomes.get(attempt.spec.test, self._otherwise), attempt.number)
        if word == HANG:
            return await _until_stopped(attempt, asyncio.Event()) or _OUTCOMES["passed"]
        if (
            self._gate is not None
            and not self._gate.is_set()
            and (stopped := await _until_stopped(attempt, self._gate))
        ):
            return stopped
        if word == CRASH:
            raise ScriptedCrash(
                f"{attempt.spec.test}: attempt {attempt.number} crashes, as scripted"
            )
        return _OUTCOMES[word]

    async def release(self) -> None:
        return


def _nth(words: tuple[str, ...], number: int) -> str:
    return words[min(number, len(words)) - 1]


async def _until_stopped(attempt: Attempt, gate: asyncio.Event) -> Outcome | None:
    """Wait for the gate: None. Or for the end of the stop control, either end: what the attempt has
    come to by that.
    """
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(attempt.stop_control.stopped()), group.create_task(gate.wait())]
        while (
            not gate.is_set()
            and attempt.stop_control.reason is None
            and (left_s := attempt.stop_control.kill_at - lease_time()) > 0
        ):
            await asyncio.wait(
                waits, timeout=min(left_s, LEASE_LOOK_S), return_when=asyncio.FIRST_COMPLETED
            )
        for wait in waits:
            wait.cancel()
    if gate.is_set() and attempt.stop_control.reason is None:
        return None
    reason = attempt.stop_control.reason or StopReason.LEASE_LOST
    return Outcome(
        verdict=_STOPPED[reason],
        reason=reason.value,
        message="stopped while it waited, as scripted",
        duration_s=time.monotonic() - began,
    )


def _check(test: str, words: tuple[str, ...]) -> None:
    allowed = {PREPARE_FAILED, "passed"} if test == PREPARE else {*_OUTCOMES, HANG, CRASH}
    if not words or not allowed.issuperset(words):
        raise InvalidSettings(
            f"outcomes.{test}",
            f"must be a list of {', '.join(sorted(allowed))}; it is {list(words)}",
        )
