"""`qgjet status`: one job, as it is now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qgjet.domain.events import ACTIVE, Status, Verdict
from qgjet.errors import InvalidInput
from qgjet_cli.commands.question import ask
from qgjet_cli.exits import Exit, of_verdicts
from qgjet_cli.options import flags
from qgjet_cli.output import console

COLUMNS = ("attempt", "verdict", "time", "device", "agent", "reason")


def status(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB_ID", help="The job.", show_default=False)
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--job-id", metavar="ID", help="The same, as a flag.")
    ] = None,
    exit_status: Annotated[
        bool,
        typer.Option(
            "--exit-status",
            help="Exit with the code of the verdict, as `qgjet wait`; 0 for an active job.",
        ),
    ] = False,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Show a job and its attempts. Without --exit-status the exit code is 0 whatever the job's
    verdict is.
    """
    if (job is None) == (job_id is None):
        raise InvalidInput("job_id", "give one job: `qgjet status JOB_ID`")
    wanted = job or job_id or ""
    exit_of = _exit_of if exit_status else lambda _: Exit.PASSED
    ask(
        lambda client: client.job(wanted),
        show,
        what="reading a job by its id",
        json=json,
        api=api,
        config=config,
        exit_of=exit_of,
    )


def _exit_of(job: dict[str, Any]) -> Exit:
    return (
        Exit.PASSED
        if Status(job["status"]) in ACTIVE
        else of_verdicts([Verdict(job["verdict"]) if job["verdict"] else None])
    )


def show(job: dict[str, Any]) -> None:
    fields = {
        "Job": job["job_id"],
        "Status": job["status"]
        + (f" ({job['pending_reason']})" if job.get("pending_reason") else ""),
        "Verdict": job["verdict"] or "",
        "Reason": ": ".join(part for part in (job["reason"], job["message"]) if part),
        "Test": job["test"],
        "Target": job["target"],
        "App version": job["app_version_id"],
        "Organisation": job["org_id"],
        "Priority": f"{job['priority']} ({priority_order(job)})",
        "Retries": f"{job['retries_left']} of {job['max_retries']} left, infra {job['infra_retries_left']} of {job['infra_retries']}",
        "Submitted": job["created_at"],
        "Started": job["started_at"] or "",
        "Finished": job["finished_at"] or "",
        "Tags": ", ".join(f"{key}={value}" for key, value in job["tags"].items()),
        "Suites": ", ".join(job["suite_ids"]),
    }
    for name, value in fields.items():
        if value:
            console.line(f"{name + ':':<14}{value}")
    if job["attempts"]:
        console.table(COLUMNS, [_row(attempt) for attempt in job["attempts"]])


def _row(attempt: dict[str, Any]) -> tuple[str, ...]:
    verdict = attempt["verdict"] or attempt["ended_by"] or "running"
    reason = ": ".join(part for part in (attempt["reason"], attempt["message"]) if part)
    return (
        str(attempt["attempt"]),
        verdict,
        console.duration(attempt["duration_s"]),
        attempt["device"],
        attempt["agent"],
        console.one_line(reason, 200),
    )


def priority_order(job: dict[str, Any]) -> str:
    """Which end runs first on the job's server: the rank is the priority after that order."""
    return "0 runs first" if job["rank"] == job["priority"] else "9 runs first"
