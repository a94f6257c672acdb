"""`qgjet job cancel`: end jobs, or the live jobs of a suite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qgjet.client.base import open_api
from qgjet.errors import InvalidInput, NeedsToken, NotAccepted
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient


def cancel(
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SUITE_ID|JOB_ID",
            help="What to cancel: jobs, or the live jobs of suites.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="SUITE_ID", help="The same as SUITE_ID.")
    ] = None,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", metavar="TEXT", help="For people; kept with the job.", show_default=False
        ),
    ] = "",
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Cancel jobs and suites. A queued job ends at once, a running one when its agent has stopped
    it. Cancelling twice is harmless.

    Exit code 2 when a job is unknown or has ended in another way; the others are cancelled
    nevertheless.
    """
    if bool(job_ids) == bool(suite):
        raise InvalidInput("job_id", "give jobs, or --suite")
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(
            settings, what="cancelling a job by its id", notice=console.note
        ) as client:
            answers = (
                [await client.cancel_suite(suite, reason)]
                if suite
                else await _cancel_each(client, list(dict.fromkeys(job_ids or [])), reason)
            )
        if json:
            console.json(answers)
        else:
            for answer in answers:
                console.line(_told(answer))
        return Exit.USAGE if any(answer.get("error") for answer in answers) else Exit.PASSED

    foreground.run(body)


async def _cancel_each(client: ApiClient, job_ids: list[str], reason: str) -> list[dict[str, Any]]:
    answers = []
    for job_id in job_ids:
        try:
            answers.append(await _cancel(client, job_id, reason))
        except NeedsToken:
            raise
        except NotAccepted as refused:
            console.fail(refused)
            answers.append(
                {
                    "job_id": job_id,
                    "status": None,
                    "cancel_requested": False,
                    "seq": None,
                    "error": str(refused),
                }
            )
    return answers


async def _cancel(client: ApiClient, known_as: str, reason: str) -> dict[str, Any]:
    try:
        return await client.cancel_job(known_as, reason)
    except NotAccepted as unknown:
        if unknown.status != 404:
            raise
        try:
            return await client.cancel_suite(known_as, reason)
        except NotAccepted as refused:
            raise unknown if refused.status == 404 else refused from None


def _told(answer: dict[str, Any]) -> str:
    if "suite_id" in answer:
        kept = f", {answer['kept']} go on: others wait for them" if answer.get("kept") else ""
        return f"Suite {answer['suite_id']}: {answer['cancelled']} cancelled, {answer['cancelling']} asked to stop{kept}"
    if answer.get("error"):
        return f"Job {answer['job_id']} → not cancelled"
    return f"Job {answer['job_id']} → {answer['status']}" + (
        " · asked to stop" if answer["status"] == "running" else ""
    )
