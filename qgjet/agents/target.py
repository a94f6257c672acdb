"""From a target's settings to the runner of its jobs."""

from __future__ import annotations

from qgjet.agents.appwright import appwright_runner
from qgjet.agents.command import command_runner
from qgjet.agents.runner import Runner
from qgjet.agents.scripted import ScriptedRunner
from qgjet.agents.template import JOB_WORDS, PARTITION_WORDS, check_command, check_words
from qgjet.errors import InvalidSettings
from qgjet.settings import Target

__all__ = ["Target", "make_runner"]


def make_runner(target: Target) -> Runner:
    """The runner of a target. `dir`, where it is relative, counts from the current directory now, once and for all.

    Raises InvalidSettings for settings that could never work or would not be safe. Whether project, Node.js and builds are there shows when a job comes.
    """
    where = f"targets.{target.name}"
    check_words(f"{where}.build", target.build, PARTITION_WORDS)
    check_words(f"{where}.junit", target.junit, JOB_WORDS)
    check_command(f"{where}.command", target.command)
    match target.runner:
        case "appwright":
            return appwright_runner(target)
        case "command":
            if not target.command:
                raise InvalidSettings(f"{where}.command", "is needed by the command runner")
            return command_runner(target)
        case "scripted":
            return ScriptedRunner(target.outcomes)
        case unknown:
            raise InvalidSettings(f"{where}.runner", f"{unknown!r} is none of appwright, command, scripted")
