"""From a target's settings to the runner of its jobs."""

from __future__ import annotations

from qgjet.config.settings import RUNNER_PLUGINS, RUNNERS, TargetSettings, VerdictSettings
from qgjet.errors import InvalidSettings
from qgjet.runners.appwright import appwright_runner
from qgjet.runners.base import Runner
from qgjet.runners.command import command_runner
from qgjet.runners.scripted import ScriptedRunner
from qgjet.runners.template import JOB_WORDS, PARTITION_WORDS, check_command, check_words, words_in
from qgjet.support import plugins
from qgjet.support.plugins import CannotLoad
from qgjet.verdict.patterns import patterns_with


def make_runner(target: TargetSettings, verdicts: VerdictSettings = VerdictSettings()) -> Runner:  # noqa: B008 - frozen
    """The runner of a target. `dir`, where it is relative, counts from the current directory now,
    once and for all.

    Raises InvalidSettings for settings that could never work or would not be safe. Whether project,
    Node.js and builds are there shows when a job comes.
    """
    where = f"targets.{target.name}"
    check_words(f"{where}.build", target.build, PARTITION_WORDS)
    check_words(f"{where}.junit", target.junit, JOB_WORDS)
    check_command(f"{where}.command", target.command)
    _check_own_report(where, target)
    if target.options and target.runner in RUNNERS:
        raise InvalidSettings(
            f"{where}.options",
            f"are for runners that are plugins; {target.runner} has keys of its own",
        )
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
        case plugin:
            return _plugin(where, plugin, target)


def _plugin(where: str, name: str, target: TargetSettings) -> Runner:
    """Raises InvalidSettings when no distribution brings it, and for what it raises itself: a
    plugin names the setting at fault, or is at fault.
    """
    try:
        factory = plugins.load(RUNNER_PLUGINS, name)
        if factory is None:
            installed = (*RUNNERS, *plugins.names(RUNNER_PLUGINS))
            raise InvalidSettings(
                f"{where}.runner",
                f"{name!r} is none of {', '.join(installed)}: is the package that brings it installed here?",
            )
        runner: Runner = factory(target)
    except InvalidSettings:
        raise
    except Exception as error:
        raise InvalidSettings(
            f"{where}.runner",
            f"the plugin {name} failed: {error if isinstance(error, CannotLoad) else repr(error)}",
        ) from error
    return runner


def _check_own_report(where: str, target: TargetSettings) -> None:
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
