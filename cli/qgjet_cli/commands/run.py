"""`qgjet run`: submit, wait, report. The verb for CI and for a laptop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct
from msgspec.structs import replace

from qgjet.client.base import Batch, Client, SubmitResult, open_client, patience
from qgjet.client.results import report_of, tracked
from qgjet.client.tracker import JobTracker
from qgjet.config.settings import Settings, TargetSettings
from qgjet.domain.decide import OnDuplicate
from qgjet.errors import InvalidInput, QgjetError
from qgjet.reporting.model import SuiteReport
from qgjet_cli import exits
from qgjet_cli.commands.submit import slots_of, tell_refused, told, warn_attached
from qgjet_cli.exits import Exit, of_error
from qgjet_cli.options import flags
from qgjet_cli.options.request import Asked, batch_of, seconds, settings_of, targets_of
from qgjet_cli.output import console, downloads, github, reports
from qgjet_cli.output.reports import Outputs
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupted, Interrupts, TimedOut
from qgjet_cli.tracking import result
from qgjet_cli.tracking.progress import summary, view_of
from qgjet_cli.tracking.watch import unserved, watch

CANCEL_WAIT_S = 15.0
"""How long to wait for cancelled jobs to end; they end without us too. An agent looks every third
of its visibility timeout (30 s).
"""
EMBEDDED_LEAVE_S = 5.0
"""Agent and server get so long to stop, even in a hurry."""
LOCAL = "local"
"""Org and app version of a run that nobody else sees."""


class Plan(Struct, frozen=True, kw_only=True):
    settings: Settings
    batch: Batch
    embedded: bool
    timeout_s: float | None
    patience_s: float
    detach: bool
    max_failures: int
    fail_on_flaky: bool
    json: bool
    outputs: Outputs
    artifacts_dir: Path | None
    artifacts: flags.Keep


def run(
    test: flags.Tests,
    org_id: flags.OrgId = None,
    app_version_id: flags.AppVersion = None,
    target: flags.Targets = None,
    priority: flags.Priority = None,
    max_retries: flags.MaxRetries = None,
    infra_retries: flags.InfraRetries = None,
    execution_timeout: flags.ExecutionTimeout = None,
    queue_timeout: flags.QueueTimeout = None,
    on_duplicate: flags.Duplicate = OnDuplicate.ATTACH,
    tag: flags.Tags = None,
    no_ci_tags: flags.NoCiTags = False,
    suite_id: flags.SuiteId = None,
    idempotency_key: flags.IdempotencyKey = None,
    partial: flags.Partial = False,
    timeout: flags.Timeout = None,
    patience_: flags.Patience = None,
    fail_on_flaky: flags.FailOnFlaky = False,
    fail_fast: flags.FailFast = False,
    max_failures: flags.MaxFailures = None,
    detach_on_interrupt: Annotated[
        bool,
        typer.Option("--detach-on-interrupt", help="Leave the jobs running on Ctrl-C and SIGTERM."),
    ] = False,
    junit: flags.Junit = None,
    ctrf: flags.Ctrf = None,
    report_json: flags.ReportJson = None,
    html: flags.Html = None,
    artifacts_dir: flags.ArtifactsDir = None,
    artifacts: flags.Artifacts = flags.Keep.ALWAYS,
    json: flags.Json = False,
    nats: flags.Nats = None,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Submit tests, wait for them, show the verdicts.

    Without a server (--nats, --api or the settings) everything is started here and stopped at the
    end.

    Ctrl-C cancels the jobs that this command has submitted, not those it was attached to; a second
    one leaves at once.
    """
    settings = settings_of(config, nats, api)
    asked = Asked(
        tests=test,
        org_id=org_id,
        app_version_id=app_version_id,
        targets=target or [],
        priority=priority,
        max_retries=max_retries,
        infra_retries=infra_retries,
        execution_timeout=execution_timeout,
        queue_timeout=queue_timeout,
        on_duplicate=on_duplicate,
        tags=tag or [],
        ci_tags=not no_ci_tags,
        suite_id=suite_id,
        idempotency_key=idempotency_key,
        partial=partial,
    )
    timeout_s = seconds("timeout", timeout)
    plan = _plan(
        settings,
        asked,
        timeout_s=timeout_s,
        patience_s=patience(timeout_s, seconds("patience", patience_)),
        detach=detach_on_interrupt,
        max_failures=1 if fail_fast else max_failures or 0,
        fail_on_flaky=fail_on_flaky,
        json=json,
        outputs=reports.prepare(
            Outputs(junit=junit, ctrf=ctrf, report_json=report_json, html=html)
        ),
        artifacts_dir=downloads.prepare(artifacts_dir),
        artifacts=artifacts,
    )
    foreground.run(lambda interrupts: _run(plan, interrupts))


def _plan(settings: Settings, asked: Asked, **others: Any) -> Plan:
    embedded = not settings.nats_url and not settings.api_url
    if embedded and others["detach"]:
        raise InvalidInput(
            "detach_on_interrupt",
            "needs a server to leave the jobs to: set QGJET_NATS_URL or QGJET_API_URL, or pass --nats or --api",
        )
    if embedded:
        settings, asked = _local(settings, asked)
    return Plan(
        settings=settings, batch=batch_of(asked, settings, suite=True), embedded=embedded, **others
    )


def _local(settings: Settings, asked: Asked) -> tuple[Settings, Asked]:
    """For a server of our own: an org and a version if none is given, and only the targets asked
    for. Raises InvalidInput for one that is not declared.
    """
    names = targets_of(asked, settings)
    declared = settings.targets or {
        name: TargetSettings(name=name, dir=str(Path.cwd())) for name in names
    }
    unknown = [name for name in names if name not in declared]
    if unknown:
        raise InvalidInput(
            "target",
            f"{', '.join(unknown)}: no such target; qgjet.toml declares {', '.join(declared)}",
        )
    return (
        replace(settings, targets=declared, agent=replace(settings.agent, targets=tuple(names))),
        replace(
            asked,
            org_id=asked.org_id or settings.org_id or LOCAL,
            app_version_id=asked.app_version_id or LOCAL,
        ),
    )


Halt = Callable[[], None]
"""Stops what runs at once, where the agent is our own."""


@contextlib.asynccontextmanager
async def _reached(plan: Plan, interrupts: Interrupts) -> AsyncIterator[tuple[Client, Halt | None]]:
    if not plan.embedded:
        async with open_client(
            plan.settings, patience_s=plan.patience_s, notice=console.note
        ) as client:
            yield client, None
        return
    from qgjet_projections.serving.local_stack import LocalStack

    interrupts.leave_s = EMBEDDED_LEAVE_S
    console.note("No server is configured: starting one for this run.")
    async with LocalStack(plan.settings) as stack:
        settings = replace(plan.settings, nats_url=stack.nats_url, nats=stack.settings.nats)
        async with open_client(settings, patience_s=plan.patience_s, notice=console.note) as client:
            yield client, stack.agent.halt if stack.agent else None


async def _run(plan: Plan, interrupts: Interrupts) -> Exit:
    async with _reached(plan, interrupts) as (client, halt):
        began = asyncio.get_running_loop().time()
        with interrupts.held(
            "finishing the submission"
        ):  # up to the wait, which knows what to cancel
            placed = await client.submit(plan.batch)
            await _tell(plan, client, placed)
        step = github.Step(plan.settings, junit=str(plan.outputs.junit or ""))
        tracker = JobTracker([tracked(one) for one in placed if one.job_id], plan.batch.suite_id)
        try:
            code = (
                await _wait(plan, client, tracker, interrupts, began)
                if tracker.tracks
                else exits.of_errors(one.error for one in placed)
            )
        except Interrupted:
            code = interrupts.code
            try:
                await _stop(
                    plan, client, tracker, halt, lambda: _write(plan, step, tracker, placed, code)
                )
            except asyncio.CancelledError:  # the second signal
                _finish(plan, step, tracker, placed, code)
                raise
        code = _finish(plan, step, tracker, placed, code)
        if not interrupts.heard:
            with interrupts.held("fetching the artifacts"):
                await downloads.of_tracker(client, tracker, plan.artifacts_dir, plan.artifacts)
        return code


def _write(
    plan: Plan, step: github.Step, tracker: JobTracker, placed: Sequence[SubmitResult], code: Exit
) -> None:
    """Write reports, summary and outputs as far as the verdicts are known: a job without one is an
    error in them.
    """
    report = _report(plan, tracker, placed)
    reports.write(report, plan.outputs, code, plan.settings)
    step.write(report)


def _finish(
    plan: Plan, step: github.Step, tracker: JobTracker, placed: Sequence[SubmitResult], code: Exit
) -> Exit:
    """Print the result and write everything. Gives `code`, or the exit code that the verdicts have."""
    results = result.results_of(tracker, placed)
    code = code or result.exit_of(results, fail_on_flaky=plan.fail_on_flaky)
    report = _report(plan, tracker, placed)
    code = reports.write(report, plan.outputs, code, plan.settings)
    result.show(results, code, suite_id=plan.batch.suite_id, json=plan.json)
    step.finish(report)
    return code


def _report(plan: Plan, tracker: JobTracker, placed: Sequence[SubmitResult]) -> SuiteReport:
    return report_of(tracker, placed, tags=plan.batch.requests[0].tags)


async def _tell(plan: Plan, client: Client, placed: Sequence[SubmitResult]) -> None:
    accepted = [one for one in placed if one.job_id]
    if not sys.stderr.isatty():
        for one in accepted:
            console.note(f"{told(one)} | Test: {one.request.test} | Target: {one.request.target}")
    attached = sum(one.attached for one in accepted)
    console.note(
        f"Suite {plan.batch.suite_id}: {console.counted(len(accepted), 'job')}"
        + (f", {attached} of them live before" if attached else "")
    )
    warn_attached(placed)
    tell_refused(placed)
    if not plan.embedded:
        for warning in await unserved(client, slots_of(placed)):
            console.warn(warning)


async def _wait(
    plan: Plan, client: Client, tracker: JobTracker, interrupts: Interrupts, began: float
) -> Exit:
    """PASSED when every job has ended, however it did. Raises Interrupted."""
    elapsed_s = asyncio.get_running_loop().time() - began
    try:
        async with interrupts.limit(None if plan.timeout_s is None else plan.timeout_s - elapsed_s):
            with view_of(tracker) as view:
                await watch(client, tracker, view, max_failures=plan.max_failures)
        return Exit.PASSED
    except TimedOut:
        console.note(f"--timeout is over: {summary(tracker)}.{_later(plan)}")
        return Exit.TIMEOUT
    except QgjetError as error:
        console.fail(error)
        console.note(f"{summary(tracker)}.{_later(plan)}")
        return of_error(error)


def _later(plan: Plan) -> str:
    return (
        ""
        if plan.embedded
        else f" What is live goes on; `qgjet wait --suite {plan.batch.suite_id}` waits for it"
    )


async def _stop(
    plan: Plan, client: Client, tracker: JobTracker, halt: Halt | None, write: Callable[[], None]
) -> None:
    """Cancel what no other run waits for, and give it a moment to end.

    What is known is written meanwhile: a CI system that cancels a step kills it a few seconds later
    (GitHub Actions: SIGTERM after 7.5 s, SIGKILL after 10 s).
    """
    live = tracker.live
    if plan.detach or not live:
        console.note(f"Interrupted: {summary(tracker)}.{_later(plan)}")
        return
    own = sum(not track.attached for track in live)
    console.note(
        f"Interrupted: cancelling {console.counted(own, 'job')}. Once more to leave at once."
        if own
        else f"Interrupted: {summary(tracker)}."
    )
    ending = JobTracker(live)
    try:
        async with asyncio.timeout(CANCEL_WAIT_S):
            writing = asyncio.create_task(asyncio.to_thread(write))
            try:
                others = await client.cancel(live, "interrupted", plan.batch.suite_id)
            finally:
                await writing
            ending = JobTracker([track for track in live if track.job_id not in others])
            if kept := sum(track.job_id in others and not track.attached for track in live):
                console.note(f"{console.counted(kept, 'job')} not cancelled: others wait for them.")
            if halt is not None:
                halt()
            with view_of(ending) as view:
                await watch(client, ending, view)
    except TimeoutError:
        console.note(f"Not ended yet: {summary(ending)}. They are asked to.")
    except QgjetError as error:
        console.warn(f"not all jobs could be cancelled: {error}")
