"""Flags that several commands share, each described once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qgjet.domain.decide import OnDuplicate

Tests = Annotated[
    list[str],
    typer.Option(
        "--test",
        metavar="PATH|GLOB",
        help="Test file inside the test project, or a pattern such as 'tests/**/*.spec.[jt]s' ({a,b} works too); quote it. Repeatable; "
        "one such as '!tests/slow/**' leaves tests out.",
        show_default=False,
    ),
]
OrgId = Annotated[
    str | None,
    typer.Option(
        "--org-id", metavar="TEXT", help="Organisation. [QGJET_ORG_ID, or org_id in qgjet.toml]"
    ),
]
AppVersion = Annotated[
    str | None,
    typer.Option(
        "--app-version-id",
        metavar="TEXT",
        envvar="QGJET_APP_VERSION_ID",
        help="Version of the app under test.",
    ),
]
OneTarget = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="TEXT",
        help="Where to run: emulator, device, browserstack, … [QGJET_TARGET, or target in qgjet.toml]",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TEXT",
        help="Where to run; repeatable: each test runs on each target. [QGJET_TARGET, or target in qgjet.toml]",
        show_default=False,
    ),
]
Priority = Annotated[
    int | None,
    typer.Option(
        "--priority",
        metavar="0-9",
        min=0,
        max=9,
        help="0 runs first and 9 last, unless the server was set up `high-first`: then 9 runs first. `qgjet job list` shows which. [default: 5]",
    ),
]
MaxRetries = Annotated[
    int | None,
    typer.Option(
        "--max-retries",
        metavar="0-10",
        min=0,
        max=10,
        help="More attempts after a failure or a timeout. [default: 3]",
    ),
]
InfraRetries = Annotated[
    int | None,
    typer.Option(
        "--infra-retries",
        metavar="0-10",
        min=0,
        max=10,
        help="More attempts after a device, farm or agent broke. [default: 3]",
    ),
]
ExecutionTimeout = Annotated[
    str | None,
    typer.Option(
        "--execution-timeout",
        metavar="DURATION",
        help="Limit of one attempt, such as 90s or 10m. [default: the agent's own, 10m]",
    ),
]
QueueTimeout = Annotated[
    str | None,
    typer.Option(
        "--queue-timeout",
        metavar="DURATION",
        help="How long a job may wait for an agent. [default: no limit]",
    ),
]
Duplicate = Annotated[
    OnDuplicate,
    typer.Option(
        "--on-duplicate",
        help="When the same test is live already: attach to that job, reject the new one, or replace (cancel) the old one.",
    ),
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY=VALUE", help="Repeatable.", show_default=False),
]
NoCiTags = Annotated[
    bool,
    typer.Option(
        "--no-ci-tags",
        help="Leave out the tags that a CI's variables give: commit, branch, pull_request, … (--idempotency-key does, too).",
    ),
]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Cancel the rest once a test has failed for good.")
]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        "--max-failures",
        metavar="N",
        min=1,
        help="Cancel the rest once N tests have failed for good.",
    ),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial",
        help="Accept the tests that can be accepted, even if others are refused. Otherwise all or none.",
    ),
]
SuiteId = Annotated[
    str | None,
    typer.Option(
        "--suite-id",
        metavar="TEXT",
        help="Put the jobs into this suite. [default for several tests: a new one]",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="TEXT",
        help="The same command with the same key again gives the same jobs, not new ones.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")
]
Nats = Annotated[
    str | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help="Go straight to this NATS server. [QGJET_NATS_URL, or nats_url in qgjet.toml]",
    ),
]
Api = Annotated[
    str | None,
    typer.Option(
        "--api",
        metavar="URL",
        help="Go through this API. [QGJET_API_URL, or api_url in qgjet.toml]",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="File of settings. [QGJET_CONFIG; default: the nearest qgjet.toml]",
        show_default=False,
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="DURATION",
        help="Wait so long at most, such as 30m; then exit 124. [default: no limit]",
    ),
]
Patience = Annotated[
    str | None,
    typer.Option(
        "--patience",
        metavar="DURATION",
        help="Keep trying so long when the server is gone; then exit 4. [default: --timeout, else 2m]",
    ),
]
FailOnFlaky = Annotated[
    bool,
    typer.Option(
        "--fail-on-flaky", help="A test that passed only after a failure counts as failed."
    ),
]
_REPORTS = "Reports"
Junit = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        metavar="FILE",
        help="Write JUnit XML, with retries as Surefire has them.",
        show_default=False,
        rich_help_panel=_REPORTS,
    ),
]
Ctrf = Annotated[
    Path | None,
    typer.Option(
        "--ctrf",
        metavar="FILE",
        help="Write CTRF JSON (ctrf.io).",
        show_default=False,
        rich_help_panel=_REPORTS,
    ),
]
ReportJson = Annotated[
    Path | None,
    typer.Option(
        "--report-json",
        metavar="FILE",
        help="Write all that is known as one JSON document.",
        show_default=False,
        rich_help_panel=_REPORTS,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write a page for people: one file, no network needed.",
        show_default=False,
        rich_help_panel=_REPORTS,
    ),
]


class Keep(StrEnum):
    """Of which attempts files are fetched."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


ArtifactsDir = Annotated[
    Path | None,
    typer.Option(
        "--artifacts-dir",
        metavar="DIR",
        help="Fetch the files of the attempts into DIR/<job>/<attempt>/ at the end.",
        show_default=False,
    ),
]
Artifacts = Annotated[
    Keep,
    typer.Option(
        "--artifacts",
        help="With --artifacts-dir: of all attempts, of those that did not pass, or none.",
    ),
]

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
CONNECT_TIMEOUT_S = 5.0
"""How long a command that needs NATS tries to reach it."""

ServedTargets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="TEXT",
        help="Serve this target; repeatable. [default: every target declared]",
        show_default=False,
    ),
]
NatsServer = Annotated[
    str | None,
    typer.Option(
        "--nats",
        metavar="URL",
        help=f"The NATS server. [QGJET_NATS_URL, or nats_url in qgjet.toml; {DEFAULT_NATS_URL}]",
    ),
]
