"""A runner whose tests are shell scripts: exit code 0 is passed, 77 is skipped, anything else is
failed.
"""

from __future__ import annotations

from msgspec.structs import replace

from qgjet import Outcome, Verdict
from qgjet.errors import InvalidSettings
from qgjet.runners import (
    Attempt,
    CommandEvidence,
    CommandLineRunner,
    PreparedTarget,
    Runner,
    TargetSettings,
    command_outcome,
    job_environment,
    run_process,
)

SKIPPED = 77


def make_runner(target: TargetSettings) -> Runner:
    """Called for each target that names this runner, when an agent starts."""
    shell = target.options.get("shell", "sh")
    if not isinstance(shell, str):
        raise InvalidSettings(f"targets.{target.name}.options.shell", "must be text")

    async def execute(prepared: PreparedTarget, attempt: Attempt) -> Outcome:
        result = await run_process(
            [shell, attempt.spec.test],
            cwd=prepared.project,
            env=job_environment(prepared.env, attempt),
            stop_control=attempt.stop_control,  # a cancel, the deadline and a lost lease end the process and all its children
            on_output=attempt.on_output,  # the live log
            log_path=attempt.directory
            / "output.log",  # the files of this directory become artifacts
        )
        evidence = CommandEvidence(
            exit_code=result.exit_code,
            signal=result.signal,
            stopped=result.stopped or "",
            output=result.tail.decode(errors="replace"),
            duration_s=result.duration_s,
            project_dir=str(prepared.project),
        )
        outcome = command_outcome(evidence)
        skipped = result.exit_code == SKIPPED and result.stopped is None
        return (
            replace(
                outcome,
                verdict=Verdict.SKIPPED,
                reason="skipped",
                message="the script asked to be skipped",
            )
            if skipped
            else outcome
        )

    return CommandLineRunner(target, execute)
