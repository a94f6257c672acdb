"""Runners execute jobs on a target: AppWright, a command, or a script of outcomes. They know no
NATS subject, no lease and no retry.

The names here are what a runner of your own is made of; docs/runners.md shows one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qgjet.config.settings import TargetSettings
    from qgjet.process.run import ProcessResult, run_process
    from qgjet.process.stop_control import StopControl, StopReason
    from qgjet.runners.base import Attempt, Runner, Session
    from qgjet.runners.commandline import CommandLineRunner, PreparedTarget
    from qgjet.runners.environment import job_environment
    from qgjet.runners.redaction import Redactor
    from qgjet.verdict.evidence import CommandEvidence
    from qgjet.verdict.rules import command_outcome

__all__ = [
    "Attempt",
    "CommandEvidence",
    "CommandLineRunner",
    "PreparedTarget",
    "ProcessResult",
    "Redactor",
    "Runner",
    "Session",
    "StopControl",
    "StopReason",
    "TargetSettings",
    "command_outcome",
    "job_environment",
    "run_process",
]

_HOMES = {
    "qgjet.config.settings": ("TargetSettings",),
    "qgjet.process.run": ("ProcessResult", "run_process"),
    "qgjet.process.stop_control": ("StopControl", "StopReason"),
    "qgjet.runners.base": ("Attempt", "Runner", "Session"),
    "qgjet.runners.commandline": ("CommandLineRunner", "PreparedTarget"),
    "qgjet.runners.environment": ("job_environment",),
    "qgjet.runners.redaction": ("Redactor",),
    "qgjet.verdict.evidence": ("CommandEvidence",),
    "qgjet.verdict.rules": ("command_outcome",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is used first: what asks for one runner does not load the others."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qgjet.runners' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
