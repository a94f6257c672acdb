"""Runs jobs with any command: the target's argv template, filled with the job's words. Its exit
code decides, and a JUnit report where one is due.

A test need not be a file here (`tests/x.py::test_a` is fine), but it is a relative path that stays
inside the project, or it is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from msgspec.structs import replace

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Outcome, Verdict
from qgjet.process.run import ProcessResult, run_process, stop_ladder
from qgjet.runners.base import Attempt
from qgjet.runners.commandline import CommandLineRunner, PreparedTarget, report_of
from qgjet.runners.environment import job_environment
from qgjet.runners.own_report import own_report
from qgjet.runners.template import check_test_path, fill_argv, fill_path, lacks_file, words_in
from qgjet.verdict.evidence import CommandEvidence
from qgjet.verdict.patterns import Patterns
from qgjet.verdict.reasons import Reason
from qgjet.verdict.rules import command_outcome


def command_runner(target: TargetSettings, patterns: Patterns) -> CommandLineRunner:
    return CommandLineRunner(target, execute, patterns)


async def execute(place: PreparedTarget, attempt: Attempt) -> Outcome:
    check_test_path(attempt.spec.test, place.project)
    words = job_words(attempt)
    argv = fill_argv(place.target.command, words)
    junit = junit_path(place, words)
    began = time.monotonic()
    async with (
        own_report(junit, attempt.stop_control)
        if junit and not _is_private(junit, attempt)
        else contextlib.nullcontext(True) as is_ours
    ):
        if not is_ours:
            result = ProcessResult(
                exit_code=None,
                signal="",
                stopped=attempt.stop_control.reason,
                duration_s=time.monotonic() - began,
                tail=b"",
            )
            return _judge(result, place, attempt, None)
        if junit:
            junit.unlink(missing_ok=True)  # an earlier job's report is no evidence
        result = await run_process(
            argv,
            cwd=place.project,
            env=job_environment(place.env, attempt),
            stop_control=attempt.stop_control,
            stop_ladder=stop_ladder(place.target.stop_grace_s),
            on_output=attempt.on_output,
            log_path=attempt.directory / "output.log",
        )
        outcome = await asyncio.to_thread(_judge, result, place, attempt, junit)
    return _without_its_file(outcome, place, attempt) if result.stopped is None else outcome


def _is_private(junit: Path, attempt: Attempt) -> bool:
    return junit.is_relative_to(attempt.directory.absolute())


def _without_its_file(outcome: Outcome, place: PreparedTarget, attempt: Attempt) -> Outcome:
    """The outcome; a configuration error when the command did not pass and no test case ran,
    because the file that it was given is not there.

    A command that passes knows better: its tests may lie elsewhere, such as on a device farm.
    """
    test = attempt.spec.test
    if (
        outcome.verdict is Verdict.PASSED
        or outcome.tests
        or "{test}" not in place.target.command
        or not lacks_file(test, place.project)
    ):
        return outcome
    said = f" ({outcome.message})" if outcome.message else ""
    return replace(
        outcome,
        verdict=Verdict.CONFIG_ERROR,
        reason=Reason.NO_TESTS,
        message=f"there is no test file {test} in {place.project}{said}",
    )


def job_words(attempt: Attempt) -> dict[str, str]:
    """What the placeholders of a command stand for."""
    return {
        "test": attempt.spec.test,
        "org_id": attempt.spec.org_id,
        "app_version_id": attempt.spec.app_version_id,
        "target": attempt.spec.target,
        "job_id": attempt.spec.job_id,
        "attempt": str(attempt.number),
        "report": str(attempt.directory.absolute() / "junit.xml"),
    }


def junit_path(place: PreparedTarget, words: dict[str, str]) -> Path | None:
    """Where the report is due: as `junit` says, or at {report} for a command that is given it. None
    when there is none to come.
    """
    target = place.target
    template = target.junit or (
        "{report}" if any("report" in words_in(argument) for argument in target.command) else ""
    )
    return place.project / fill_path(template, words) if template else None


def _judge(
    result: ProcessResult, place: PreparedTarget, attempt: Attempt, junit: Path | None
) -> Outcome:
    with report_of(result, junit) as report:
        evidence = CommandEvidence(
            exit_code=result.exit_code,
            signal=result.signal,
            junit=report,
            junit_due=junit is not None,
            output=place.redactor.text(result.tail.decode(errors="replace")),
            stopped=result.stopped or "",
            duration_s=result.duration_s,
            project_dir=str(place.project),
            patterns=place.patterns,
            must_keep=attempt.failed_before,
        )
        return command_outcome(evidence)
