"""`qgjet submit`: put jobs into the queue and leave."""

from __future__ import annotations

from collections.abc import Sequence

from qgjet.client.base import Batch, SubmitResult, open_client
from qgjet.client.results import slot_of
from qgjet.config.settings import Settings
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import LEGACY_STATUS, Slot, Status
from qgjet_cli import exits
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import Asked, batch_of, settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts
from qgjet_cli.tracking.watch import unserved


def submit(
    test: flags.Tests,
    org_id: flags.OrgId = None,
    app_version_id: flags.AppVersion = None,
    target: flags.OneTarget = None,
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
    json: flags.Json = False,
    nats: flags.Nats = None,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Submit tests and leave; `qgjet run` also waits for them.

    With --json: one object for one path, a list for a pattern or several --test.
    """
    settings = settings_of(config, nats, api)
    asked = Asked(
        tests=test,
        org_id=org_id,
        app_version_id=app_version_id,
        targets=[target] if target else [],
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
    batch = batch_of(asked, settings, suite=False)

    async def body(_: Interrupts) -> Exit:
        placed = await _submit(settings, batch)
        if json:
            answers = [answer(one) for one in placed]
            console.json(
                answers[0] if len(test) == 1 and batch.requests[0].test == test[0] else answers
            )
        else:
            _tell(batch, placed)
        return exits.of_errors(one.error for one in placed)

    foreground.run(body)


async def _submit(settings: Settings, batch: Batch) -> list[SubmitResult]:
    async with open_client(settings, notice=console.note) as client:
        placed = await client.submit(batch)
        for warning in await unserved(client, slots_of(placed)):
            console.warn(warning)
    warn_attached(placed)
    tell_refused(placed)
    return placed


def slots_of(placed: Sequence[SubmitResult]) -> list[Slot]:
    """Of the jobs that were accepted."""
    return [slot_of(one) for one in placed if one.job_id]


def tell_refused(placed: Sequence[SubmitResult]) -> None:
    for one in placed:
        if one.error:
            console.note(f"Error: {one.request.test} on {one.request.target}: {one.error}")


_SHARED = ("priority", "execution_timeout", "queue_timeout")
_OWN = ("max_retries", "infra_retries")
"""What a job keeps as it was submitted, whatever joins it."""


def warn_attached(placed: Sequence[SubmitResult]) -> None:
    """State what counts for attached jobs. Their retries are theirs, and one that runs has no use
    for another priority.
    """
    attached = [one for one in placed if one.attached]
    if any(getattr(one.request, name) is not None for one in attached for name in _SHARED):
        console.note(
            f"{console.counted(len(attached), 'job')} attached: the better priority and the shorter timeouts of both submissions count."
        )
    names = [
        name.replace("_", " ")
        for name in _OWN
        if any(getattr(one.request, name) is not None for one in attached)
    ]
    if any(one.request.priority is not None and one.status is Status.RUNNING for one in attached):
        names.append("priority")
    if names:
        console.warn(
            f"{console.counted(len(attached), 'job')} attached; {', '.join(names)} of this command not followed: "
            "an active job keeps its own. Use --on-duplicate replace to start it with these"
        )


def told(placed: SubmitResult) -> str:
    """S1's line, with what else there is to say."""
    parts = [f"Job submitted! ID: {placed.job_id}", f"Status: {placed.status}"]
    parts += ["attached to a live job of the same test"] if placed.attached else []
    parts += [f"replaces job {placed.replaced}"] if placed.replaced else []
    return " | ".join(parts)


def _tell(batch: Batch, placed: Sequence[SubmitResult]) -> None:
    accepted = [one for one in placed if one.job_id]
    for one in accepted:
        console.line(
            told(one) + (f" | Test: {one.request.test}" if len(batch.requests) > 1 else "")
        )
    if batch.suite_id and accepted:
        console.line(f"Suite: {batch.suite_id} | Jobs: {len(accepted)}")


def answer(placed: SubmitResult) -> dict[str, object]:
    request = placed.request
    return {
        "job_id": placed.job_id or None,
        "status": placed.status,
        "legacy_status": LEGACY_STATUS[placed.status] if placed.status else None,
        "org_id": request.org_id,
        "app_version_id": request.app_version_id,
        "target": request.target,
        "test": request.test,
        "priority": placed.priority,
        "suite_id": request.suite_id or None,
        "attached": placed.attached,
        "replaced": placed.replaced,
        "seq": placed.seq or None,
        "error": str(placed.error) if placed.error else None,
    }
