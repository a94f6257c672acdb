"""The library: submit jobs, follow them and read their report, over NATS or HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from qgjet.client import base
from qgjet.client.base import Batch, SubmitResult, open_client
from qgjet.client.results import report_of, tracked
from qgjet.client.tracker import JobTracker, JobUpdate, TrackedJob
from qgjet.client.updates import updates
from qgjet.config import files
from qgjet.config.settings import Settings, TargetSettings
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import PASSING
from qgjet.domain.submission import SubmitRequest, check_suite_id, make_spec
from qgjet.domain.suite import shared_tags
from qgjet.errors import InvalidInput, NotInstalled
from qgjet.reporting import ctrf, document, html, junit
from qgjet.reporting.model import SuiteReport
from qgjet.support import plugins
from qgjet.support.clock import utc_now

log = logging.getLogger(__name__)

DEFAULT_ORG = "default"
EMBEDDED = "qgjet.embedded"
"""Entry point group of what `connect` starts without an address: `stack` is called with settings,
and is an asynchronous context manager.
"""


class Job(SubmitRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One test file to run against one app version on one target.

    `app_version_id`, `target` and `test` are needed. Everything else has the server's default.
    """

    org_id: str = ""
    """Empty: the client's `org_id`."""


class Report(SuiteReport, frozen=True, kw_only=True):
    """What became of a suite: `verdict`, `jobs`, `counts`, and the reports that CI systems read."""

    @property
    def passed(self) -> bool:
        """Whether every job has a verdict and none is worse than flaky. Never for an empty or
        incomplete suite.
        """
        return self.verdict in PASSING

    def junit(self) -> bytes:
        """JUnit XML, as `qgjet run --junit` writes it."""
        return junit.render(self)

    def ctrf(self) -> bytes:
        """Common Test Report Format (JSON), as `qgjet run --ctrf` writes it."""
        return ctrf.render(self)

    def json(self) -> bytes:
        """qgjet's own document, as `qgjet run --report-json` writes it; without an exit code."""
        return document.render(self)

    def html(self) -> str:
        """One page for people, without any file beside it."""
        return html.render(self)


class Suite:
    """Jobs that were submitted together. Made by `Client.submit`; belongs to its client, and is of
    no use once that is closed.
    """

    def __init__(
        self,
        client: base.Client,
        tracker: JobTracker,
        results: list[SubmitResult],
        tags: Mapping[str, str],
    ) -> None:
        self._client = client
        self._tracker = tracker
        self._results = results
        self._tags = dict(tags)
        self._following = False

    @property
    def id(self) -> str:
        """The id under which the API, the dashboard and `qgjet wait --suite` know it."""
        return self._tracker.suite_id

    @property
    def jobs(self) -> list[TrackedJob]:
        """The accepted jobs, as far as they have been followed. Copies: they do not change."""
        return [copy.copy(job) for job in self._tracker.tracks.values()]

    @property
    def refused(self) -> list[SubmitResult]:
        """The jobs that were not accepted, each with its `error`. Only a `partial` submission has
        any.
        """
        return [one for one in self._results if not one.job_id]

    async def follow(self) -> AsyncGenerator[JobUpdate, None]:
        """Each change of a job once, in the order of the log, until all jobs have ended.

        An update's `job` is a copy. Outlasts restarts of the server. Leave it early with
        `contextlib.aclosing`, and call it again to go on where it was left. Raises CannotReach when
        the server stays away for longer than the client's patience, RuntimeError while somebody
        else follows this suite.
        """
        if self._following:
            raise RuntimeError(
                "this suite is being followed already: one `follow` or `wait` at a time"
            )
        self._following = True
        try:
            async with contextlib.aclosing(updates(self._client, self._tracker)) as changes:
                async for change in changes:
                    if change is not None:
                        yield replace(change, job=copy.copy(change.job))
        finally:
            self._following = False

    async def wait(self, timeout: float | None = None) -> Report:
        """Wait until all jobs have ended, for at most `timeout` seconds; gives the report.

        Raises TimeoutError when that time is over: the jobs go on, and a second call waits for them
        again. Raises CannotReach as `follow` does.
        """
        async with asyncio.timeout(timeout), contextlib.aclosing(self.follow()) as changes:
            async for _ in changes:
                pass
        return self.report()

    def report(self) -> Report:
        """What is known now: jobs that have not ended have no verdict, and then the suite has none
        either.
        """
        made = report_of(self._tracker, self._results, tags=self._tags)
        return Report(**{name: getattr(made, name) for name in made.__struct_fields__})

    async def cancel(self, reason: str = "") -> None:
        """Ask for the end of all jobs that no other suite waits for. Returns before they have
        ended: `wait` for that. A second call changes nothing.
        """
        await self._client.cancel(
            self._tracker.live, reason or "cancelled by its submitter", self.id
        )


class Client:
    """A connection to one queue. Made by `connect`."""

    def __init__(self, client: base.Client, settings: Settings, org_id: str) -> None:
        self._client = client
        self._settings = settings
        self._org_id = org_id

    @property
    def where(self) -> str:
        """The server, for messages; never with a password."""
        return self._client.where

    async def submit(
        self,
        jobs: Iterable[Job],
        *,
        suite_id: str = "",
        idempotency_key: str = "",
        partial: bool = False,
    ) -> Suite:
        """Submit jobs as one suite: all of them, or none.

        Args:
            jobs: At least one.
            suite_id: Its name; made for it when it is empty. A second submission under the same name adds to the suite.
            idempotency_key: With the same key and the same jobs, a second call finds the first one's suite and writes nothing.
            partial: Accept what can be accepted. The others are in `Suite.refused`.

        An answer that was lost on the way is resolved: nothing is submitted twice. Raises
        InvalidInput for what no server would take, before anything is sent; Conflict, DuplicateJob
        or NotAccepted when the server refuses a job; CannotReach or NatsUnavailable when no answer
        comes.
        """
        requests = tuple(
            replace(_checked(number, job), org_id=job.org_id or self._org_id)
            for number, job in enumerate(jobs)
        )
        if not requests:
            raise InvalidInput("jobs", "give at least one job")
        suite_id = suite_id or (
            str(uuid.uuid5(_SUITES, idempotency_key)) if idempotency_key else str(uuid.uuid4())
        )
        check_suite_id(suite_id)
        requests = tuple(replace(request, suite_id=suite_id) for request in requests)
        for request in requests:  # all of them, before the first is sent
            make_spec(
                request,
                job_id="",
                now=utc_now(),
                deployment=Deployment(),
                defaults=self._settings.job,
                submitted_by="",
            )
        results = await self._client.submit(
            Batch(requests=requests, suite_id=suite_id, key=idempotency_key, partial=partial)
        )
        errors = [one.error for one in results if one.error is not None]
        if errors and (not partial or len(errors) == len(results)):
            raise errors[0]
        tracker = JobTracker([tracked(one) for one in results if one.job_id], suite_id)
        return Suite(
            self._client, tracker, results, shared_tags([request.tags for request in requests])
        )


def _checked(number: int, job: Job) -> Job:
    """The job with fields of the right types: constructors do not look at them. Raises
    InvalidInput.
    """
    try:
        return msgspec.convert(msgspec.to_builtins(job), Job)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidInput(f"jobs.{number}", str(error)) from None


_SUITES = uuid.UUID("5b0f6d6e-41f2-5f0c-9d5b-8a6c5a3d7a51")
"""Namespace of suite ids that follow from an idempotency key."""


@contextlib.asynccontextmanager
async def connect(
    url: str = "",
    *,
    org_id: str = "",
    token: str = "",
    config: str | Path | None = None,
    patience: float = base.LONG_PATIENCE_S,
) -> AsyncIterator[Client]:
    """A client, closed at the end of the block.

    Args:
        url: `nats://…` or `tls://…` for NATS, `http://…` or `https://…` for the API. Empty: as QGJET_NATS_URL, QGJET_API_URL or `qgjet.toml` say, and a
            server, an API and an agent in this process when they say nothing.
        org_id: Of jobs that name none. Empty: as QGJET_ORG_ID or `qgjet.toml` say, else `default`.
        token: For the API; else as QGJET_API_TOKEN or `qgjet.toml` say.
        config: The settings to read in place of the nearest `qgjet.toml`. They have the login for NATS.
        patience: Seconds that a server may be away before CannotReach is raised.

    Raises InvalidSettings for an address or settings that cannot be used, CannotReach when nothing
    answers, PermissionDenied for a login that is refused.
    """
    settings = files.load(
        Path(config) if config is not None else None,
        _addresses(url) | {"api_token": token or None, "org_id": org_id or None},
    )
    async with contextlib.AsyncExitStack() as parts:
        if not settings.nats_url and not settings.api_url:
            stack = await parts.enter_async_context(_embedded(_local(settings)))
            settings = replace(settings, nats_url=stack.nats_url, nats=stack.settings.nats)
        opened = await parts.enter_async_context(
            open_client(settings, patience_s=patience, notice=log.warning)
        )
        yield Client(opened, settings, settings.org_id or DEFAULT_ORG)


def _addresses(url: str) -> dict[str, Any]:
    if not url:
        return {}
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("http", "https"):
        return {"nats_url": "", "api_url": url}
    if scheme in ("nats", "tls", "ws", "wss"):
        return {"nats_url": url, "api_url": ""}
    raise InvalidInput(
        "url",
        f"{scheme or url!r} is not an address such as nats://127.0.0.1:4222 or http://127.0.0.1:8000",
    )


def _local(settings: Settings) -> Settings:
    """Without a declared target, an AppWright project in the current directory is one by any name;
    only declared ones can be served.
    """
    return (
        settings
        if settings.targets
        else replace(
            settings, targets={"emulator": TargetSettings(name="emulator", dir=str(Path.cwd()))}
        )
    )


def _embedded(settings: Settings) -> Any:
    stack = plugins.load(EMBEDDED, "stack")
    if stack is None:
        raise NotInstalled(
            "a server of its own needs more than is installed here: pip install 'qgjet[embedded]', or set QGJET_NATS_URL or QGJET_API_URL"
        )
    return stack(settings)


__all__ = ["Client", "Job", "JobUpdate", "Report", "Suite", "TrackedJob", "connect"]
