"""`qgjet job rerun`: the work of jobs or suites once more, as new jobs."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qgjet.client.base import open_api
from qgjet.errors import NeedsToken, NotAccepted
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient


def rerun(
    ids: Annotated[
        list[str],
        typer.Argument(metavar="SUITE_ID|JOB_ID", help="What to run again.", show_default=False),
    ],
    failed: Annotated[
        bool,
        typer.Option(
            "--failed",
            help="Of a suite only the tests that did not pass: failed, timed out, without a verdict, cancelled.",
        ),
    ] = False,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Run suites or jobs again. A suite becomes a new suite, which `qgjet wait` can wait for; a job
    becomes a new job.

    Exit code 2 when one is unknown, still live, or has nothing to run again; the others are
    submitted nevertheless.
    """
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        answers = []
        async with open_api(settings, what="running jobs again", notice=console.note) as client:
            for one in dict.fromkeys(ids):
                answers.append(await _rerun(client, one, failed=failed))
        if json:
            console.json(answers)
        else:
            for answer in answers:
                _tell(answer)
        return Exit.USAGE if any(answer["error"] for answer in answers) else Exit.PASSED

    foreground.run(body)


async def _rerun(client: ApiClient, known_as: str, *, failed: bool) -> dict[str, Any]:
    """As a suite if there is one of that id, else as a job."""
    told: dict[str, Any] = {"rerun_of": known_as, "suite_id": None, "jobs": [], "error": None}
    try:
        try:
            answer = await client.rerun_suite(known_as, failed=failed, key=str(uuid.uuid4()))
        except NotAccepted as refused:
            if refused.status != 404:
                raise
        else:
            return told | {"suite_id": answer["suite_id"], "jobs": answer["jobs"]}
        try:
            return told | {"jobs": [await client.rerun_job(known_as)]}
        except NotAccepted as refused:
            if refused.status != 404:
                raise
            return told | {"error": f"there is no suite and no job {known_as}"}
    except NeedsToken:
        raise
    except NotAccepted as refused:
        return told | {"error": str(refused)}


def _tell(answer: dict[str, Any]) -> None:
    if answer["error"]:
        console.note(f"Error: {answer['rerun_of']}: {answer['error']}")
        return
    for job in answer["jobs"]:
        attached = " | attached to a live job of the same test" if job["attached"] else ""
        test = f" | Test: {job['test']} | Target: {job['target']}" if "test" in job else ""
        console.line(
            f"Job submitted! ID: {job['job_id']} | Status: {job['status']}{test}{attached}"
        )
    if answer["suite_id"]:
        console.note(
            f"Suite {answer['suite_id']}: {console.counted(len(answer['jobs']), 'job')}; `qgjet wait {answer['suite_id']}` waits for them"
        )
