"""From a target's settings to the runner of its jobs."""

from __future__ import annotations

from qgjet.config.settings import Target, VerdictSettings
from qgjet.errors import InvalidSettings
from qgjet.runners.appwright import appwright_runner
from qgjet.runners.base import Runner
from qgjet.runners.command import command_runner
from qgjet.runners.scripted import ScriptedRunner
from qgjet.runners.template import JOB_WORDS, PARTITION_WORDS, check_command, check_words, words_in
from qgjet.verdict.patterns import patterns_with

__all__ = ["Target", "make_runner"]


def make_runner(target: Target, verdicts: VerdictSettings = VerdictSettings()) -> Runner:  # noqa: B008 - frozen
    """The runner of a target. `dir`, where it is relative, counts from the current directory now, once and for all.

    Raises InvalidSettings for settings that could never work or would not be safe. Whether project, Node.js and builds are there shows when a job comes.
    """
    where = f"targets.{target.name}"
    check_words(f"{where}.build", target.build, PARTITION_WORDS)
    check_words(f"{where}.junit", target.junit, JOB_WORDS)
    check_command(f"{where}.command", target.command)
    _check_own_report(where, target)
    patterns = patterns_with(verdicts.infra, verdicts.config)
    match target.runner:
        case "appwright":
            return appwright_runner(target, patterns)
        case "command":
            if not target.command:
                raise InvalidSettings(f"{where}.command", "is needed by the command runner")
            return command_runner(target, patterns)
        case "scripted":
            return ScriptedRunner(target.outcomes)
        case unknown:
            raise InvalidSettings(f"{where}.runner", f"{unknown!r} is none of appwright, command, scripted")


def _check_own_report(where: str, target: Target) -> None:
    """Raises InvalidSettings when jobs side by side would write, and be judged by, the same report."""
    words = words_in(target.junit)
    one_per_job = words & {"report", "job_id"} or words >= {"org_id", "app_version_id", "test"}
    if target.runner == "command" and target.slots > 1 and target.junit and not one_per_job:
        path, dot, suffix = target.junit.rpartition(".")
        own = f"{path}-{{job_id}}.{suffix}" if dot else f"{target.junit}-{{job_id}}"
        raise InvalidSettings(
            f"{where}.junit",
            f"{target.junit!r} is one file for all {target.slots} slots, so a job could be judged by the report of another. "
            f'Write junit = "{own}", or pass {{report}} to the command and remove junit',
        )
