"""`qgjet wait`: until jobs that are in the queue have ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace

from qgjet.client.base import open_api, patience
from qgjet.client.results import report_of
from qgjet.client.tracker import JobTracker
from qgjet.domain.events import PASSING, Verdict
from qgjet.domain.suite import shared_tags
from qgjet.errors import InvalidInput, NotAccepted, QgjetError
from qgjet.reporting.model import SuiteReport
from qgjet_cli.exits import Exit, of_error
from qgjet_cli.options import ci, flags
from qgjet_cli.options.request import seconds, settings_of
from qgjet_cli.output import console, downloads, github, reports
from qgjet_cli.output.reports import Outputs
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupted, Interrupts, TimedOut
from qgjet_cli.tracking import result
from qgjet_cli.tracking.progress import View, summary, view_of
from qgjet_cli.tracking.watch import watch

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient

ARRIVAL_S = 1.0
"""Between two looks at a suite whose jobs still arrive."""
LOOKUPS = 8
"""Jobs that are looked up at the same time."""
LOOKUP_S = 30.0
"""For all of them, so that a report does not keep a command that has ended."""


def wait(
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="SUITE_ID|JOB_ID", help="A suite, or jobs.", show_default=False),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="SUITE_ID", help="The same as SUITE_ID.")
    ] = None,
    timeout: flags.Timeout = None,
    fail_on_flaky: flags.FailOnFlaky = False,
    patience_: flags.Patience = None,
    junit: flags.Junit = None,
    ctrf: flags.Ctrf = None,
    report_json: flags.ReportJson = None,
    html: flags.Html = None,
    artifacts_dir: flags.ArtifactsDir = None,
    artifacts: flags.Artifacts = flags.Keep.ALWAYS,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Wait for jobs and show their verdicts. Ctrl-C leaves them running. Needs the API."""
    if bool(job_ids) == bool(suite):
        raise InvalidInput("job_id", "give jobs, or --suite")
    timeout_s, patience_s = seconds("timeout", timeout), seconds("patience", patience_)
    settings = settings_of(config, None, api)
    directory = downloads.prepare(artifacts_dir)
    outputs = reports.prepare(Outputs(junit=junit, ctrf=ctrf, report_json=report_json, html=html))

    step = github.Step(settings, junit=str(junit or ""))

    async def body(interrupts: Interrupts) -> Exit:
        async with open_api(
            settings,
            what="waiting by id",
            patience_s=patience(timeout_s, patience_s),
            notice=console.note,
        ) as client:
            tracker = JobTracker([], suite or "", grows=bool(suite))
            try:
                async with interrupts.limit(timeout_s):
                    await _fill(client, tracker, job_ids or [])
                    console.note(
                        f"Waiting for {console.counted(len(tracker.tracks), 'job')}: {summary(tracker)}"
                    )
                    with view_of(tracker) as view:
                        tracker.missing = await _to_the_end(client, tracker, view)
                    await _complete(client, tracker)
                if tracker.missing:
                    absent = console.counted(tracker.missing, "job")
                    console.warn(
                        f"{absent} of the suite never arrived: the client ended while it submitted them. Submit the suite again"
                    )
                code = result.exit_of(
                    result.results_of(tracker), fail_on_flaky=fail_on_flaky, missing=tracker.missing
                )
            except TimedOut:
                code = Exit.TIMEOUT
                console.note(f"--timeout {timeout} is over: {summary(tracker)}")
            except Interrupted:
                code = interrupts.code
                reports.write(
                    _report(tracker), outputs, code, settings
                )  # at once: the second signal, or the end of a CI step, may come in the look-up
                step.write(_report(tracker))
            except QgjetError as error:
                if tracker.tracks:  # the last that was known of them
                    reports.write(_report(tracker), outputs, of_error(error), settings)
                    step.finish(_report(tracker))
                raise
            if outputs.asked or directory is not None or ci.is_github(os.environ):
                with interrupts.held("looking up the attempts"):
                    await _look_up(client, tracker)
            if not interrupts.heard:
                with interrupts.held("fetching the artifacts"):
                    await downloads.of_tracker_from(settings, client, tracker, directory, artifacts)
        report = _report(tracker)
        code = reports.write(report, outputs, code, settings)
        result.show(result.results_of(tracker), code, suite_id=tracker.suite_id, json=json)
        step.finish(report)
        return code

    foreground.run(body)


async def _fill(client: ApiClient, tracker: JobTracker, job_ids: Sequence[str]) -> None:
    """Put what is asked for on the tracker, as it is now; what is there already is kept."""
    from qgjet.client.http import track_of

    if tracker.suite_id:
        found = await client.suite(tracker.suite_id)
    elif len(job_ids) == 1:
        found = await _job_or_suite(client, tracker, job_ids[0])
    else:
        found = [await client.job(job_id) for job_id in dict.fromkeys(job_ids)]
    for job in found:
        tracker.tracks.setdefault(job["job_id"], track_of(job))


async def _to_the_end(client: ApiClient, tracker: JobTracker, view: View) -> int:
    """Follow the jobs to their end, and a suite until all its jobs have arrived; gives the number
    of those that never will.
    """
    while True:
        await watch(client, tracker, view)
        if not tracker.suite_id:
            return 0
        suite = await client.suite_summary(tracker.suite_id)
        if not suite.get("to_come") and suite["total"] <= len(tracker.tracks):
            return int(suite.get("missing", 0))
        await asyncio.sleep(ARRIVAL_S)
        await _fill(client, tracker, [])


async def _job_or_suite(
    client: ApiClient, tracker: JobTracker, known_as: str
) -> list[dict[str, Any]]:
    try:
        return [await client.job(known_as)]
    except NotAccepted as refused:
        if refused.status != 404:
            raise
    try:
        found = await client.suite(known_as)
    except NotAccepted as refused:
        raise (
            InvalidInput("id", f"there is no job and no suite {known_as}")
            if refused.status == 404
            else refused
        ) from None
    tracker.follow_suite(known_as)
    return found


async def _complete(client: ApiClient, tracker: JobTracker) -> None:
    """Look up the first failure of jobs that had failed before this command looked."""
    from qgjet.client.http import track_of

    for job_id, track in tracker.tracks.items():
        if track.first_failure is None and (
            track.verdict not in PASSING or track.verdict is Verdict.FLAKY
        ):
            track.first_failure = track_of(await client.job(job_id)).first_failure


async def _look_up(client: ApiClient, tracker: JobTracker) -> None:
    """Bring every job up to date, with all its attempts: those that ended before this command
    looked are in no event that it has seen.
    """
    from qgjet.client.http import track_of

    gate = asyncio.Semaphore(LOOKUPS)
    errors: list[Exception] = []

    async def one(job_id: str) -> None:
        async with gate:
            try:
                found = track_of(await client.job(job_id))
            except QgjetError as error:
                errors.append(error)
                return
        before = tracker.tracks[job_id]
        if found.seq >= before.seq:
            tracker.tracks[job_id] = found
            found.attached, found.replaced = before.attached, before.replaced

    try:
        async with asyncio.timeout(LOOKUP_S), asyncio.TaskGroup() as group:
            for job_id in tracker.tracks:
                group.create_task(one(job_id))
    except TimeoutError:
        errors.append(TimeoutError(f"the API needs more than {LOOKUP_S:.0f} s"))
    if errors:
        console.warn(f"attempts may be missing in the reports: {errors[0]}")


def _report(tracker: JobTracker) -> SuiteReport:
    report = report_of(tracker)
    return replace(report, tags=shared_tags([job.tags for job in report.jobs]))
