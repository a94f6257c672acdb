"""Every key of `qgjet.toml`, with its type and its default.

A key `batch` of the table `[agent]` is the variable `QGJET_AGENT_BATCH`, the key `slots` of
`[targets.emulator]` is `QGJET_TARGETS_EMULATOR_SLOTS`. Durations are seconds, or text such as
`30s`, `10m`, `1h`. Variables for lists and tables hold TOML: `QGJET_AGENT_TARGETS='["emulator"]'`.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from qgjet.domain.deployment import (
    DEFAULT_EVENT_RETENTION_S,
    DEFAULT_LOG_RETENTION_S,
    DEFAULT_MAX_DELIVER,
    DEFAULT_RETENTION_S,
    DEFAULT_VISIBILITY_TIMEOUT_S,
    Deployment,
)
from qgjet.domain.retry import MAX_RETRIES, Backoff

RUNNERS = ("appwright", "command", "scripted")
RUNNER_PLUGINS = "qgjet.runners"
"""Entry point group of runners that other distributions bring along."""
COLLECT = ("always", "on-failure", "never")
MIN_INTERVAL_S = 0.1
"""Shorter waits would keep an agent busy with nothing else."""
Limit = Annotated[float, Meta(gt=0)]
"""A time after which something is ended. 0 would end it at once, and means "no limit" elsewhere."""
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
Interval = Annotated[float, Meta(ge=MIN_INTERVAL_S)]


class TargetSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of place to run tests: `[targets.<name>]`."""

    name: str = ""
    """The table's own name; not a key."""
    runner: str = "appwright"
    dir: str = "."
    """The test project, relative to the file of settings."""
    project: str = ""
    """Playwright's `--project`; empty: the target's name."""
    config: str = "appwright.config.ts"
    build: str = ""
    """The app for a version, such as `builds/{app_version_id}.apk`; the test finds its path in
    APP_BUILD_PATH.
    """
    command: tuple[str, ...] = ()
    """Of the `command` runner; {test} {app_version_id} {org_id} {target} {job_id} {attempt}
    {report} are filled in.
    """
    junit: str = ""
    """Where the `command` runner's command leaves its JUnit report; due when it is set."""
    prepare: tuple[str, ...] = ()
    healthy: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    slots: AtLeastOne = 1
    """Jobs of this target that one agent may run side by side."""
    prepare_timeout_s: Limit = field(default=300.0, name="prepare_timeout")
    healthy_timeout_s: Limit = field(default=10.0, name="healthy_timeout")
    release_timeout_s: Limit = field(default=30.0, name="release_timeout")
    stop_grace_s: float = field(default=15.0, name="stop_grace")
    """From SIGINT to SIGTERM, for a job that is told to stop. AppWright on BrowserStack waits 10 s
    for its video first.
    """
    test_retries: Count = 0
    """Retries inside the runner (`--retries`), apart from those of the queue."""
    env: dict[str, str] = {}
    pass_env: tuple[str, ...] = ()
    """Names of the agent's own variables that jobs may see, besides PATH, HOME, LANG, LC_ALL,
    TMPDIR and TZ.
    """
    redact: tuple[str, ...] = ()
    """Names of variables of the jobs whose values become `***` in everything that leaves the agent
    as text.
    """
    options: dict[str, Any] = {}
    """Of a runner that is a plugin: whatever it defines."""
    outcomes: dict[str, tuple[str, ...]] = {}
    """Of the `scripted` runner: test path or `*` -> the verdict of each attempt."""


class QueueSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[queue]`: the same for everybody on one server."""

    priority_order: str = "low-first"
    """Fixed when the log is made. `low-first`: priority 0 is the most urgent."""
    replicas: int = 1
    """3 on a cluster."""
    visibility_timeout_s: Annotated[float, Meta(ge=0.5)] = field(
        default=DEFAULT_VISIBILITY_TIMEOUT_S, name="visibility_timeout"
    )
    """A job whose agent is silent for this long is given to another one. Stored with the log: the
    API's value is in force for all.
    """
    max_deliver: Annotated[int, Meta(ge=2)] = DEFAULT_MAX_DELIVER
    """Deliveries of one message that the server allows, whatever our code does. Stored with the
    log, too.
    """
    retry_base_s: float = field(default=1.0, name="retry_base")
    retry_cap_s: float = field(default=60.0, name="retry_cap")
    retention_s: float = field(default=DEFAULT_EVENT_RETENTION_S, name="retention")
    """Jobs that ended longer ago are forgotten; 0: none is. Live ones never are. Stored with the
    log, too.
    """

    @property
    def deployment(self) -> Deployment:
        return Deployment(
            priority_order=self.priority_order,
            replicas=self.replicas,
            visibility_timeout_s=self.visibility_timeout_s,
            max_deliver=self.max_deliver,
            retention_s=self.retention_s,
        )

    def agreed(self, deployment: Deployment) -> QueueSettings:
        """These settings with what is in force on the server in place of what was asked for."""
        return msgspec.structs.replace(
            self,
            priority_order=deployment.priority_order,
            replicas=deployment.replicas,
            visibility_timeout_s=deployment.visibility_timeout_s,
            max_deliver=deployment.max_deliver,
            retention_s=deployment.retention_s,
        )

    @property
    def backoff(self) -> Backoff:
        return Backoff(base_s=self.retry_base_s, cap_s=self.retry_cap_s)


class JobSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[job]`: what a submission gets that does not say."""

    priority: Annotated[int, Meta(ge=0, le=9)] = 5
    max_retries: Retries = 3
    infra_retries: Retries = 3
    execution_timeout_s: Limit | None = field(default=None, name="execution_timeout")
    queue_timeout_s: Limit | None = field(default=None, name="queue_timeout")


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[agent]`"""

    targets: tuple[str, ...] = ()
    """Empty: every target declared."""
    app_version_id: str = "all"
    """Serve this version only; `all`: any."""
    slots: Count = 0
    """Jobs side by side, over all targets; 0: what the targets allow together."""
    batch: AtLeastOne = 3
    """Jobs of one partition before the agent looks for something more urgent."""
    execution_timeout_s: Limit = field(default=600.0, name="execution_timeout")
    """Deadline of an attempt, for jobs that bring none."""
    keep_warm_s: Interval = field(default=120.0, name="keep_warm")
    """An idle session is released after this long."""
    poll_s: Interval = field(default=15.0, name="poll")
    """Interval of looking at all partitions, should a bell have been missed."""
    work_dir: str = ""
    """Where attempts run; empty: a temporary directory that goes with the agent."""
    keep_attempts: bool = False
    """Leave the directories of finished attempts in `work_dir`."""
    name: str = ""
    """For people; empty: the host's name."""


class ArtifactSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[artifacts]`: what agents keep of attempts, and for how long."""

    collect: str = "on-failure"
    """Of every attempt its logs and reports, and media (`test-results`) of those that did not pass;
    `always`: media of all; `never`: nothing.
    """
    max_file_bytes: Count = field(default=100_000_000, name="max_file")
    max_attempt_bytes: Count = field(default=250_000_000, name="max_attempt")
    upload_timeout_s: Limit = field(default=60.0, name="upload_timeout")
    """Of all files of an attempt together; the result is told after it."""
    retention_s: Annotated[float, Meta(ge=1)] = field(default=DEFAULT_RETENTION_S, name="retention")
    """Fixed when the first of all starts, like the next one."""
    log_retention_s: Annotated[float, Meta(ge=1)] = field(
        default=DEFAULT_LOG_RETENTION_S, name="log_retention"
    )
    """Of live output. The whole log of an attempt is an artifact."""


class VerdictSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[verdicts]`: errors that say nothing about the app, in addition to those that qgjet knows."""

    infra: tuple[str, ...] = ()
    """Regular expressions, matched at the beginning of an error's message: device, farm or network.
    """
    config: tuple[str, ...] = ()
    """The same for errors of the set-up, which would happen again."""


class ApiSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[api]`"""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    database: str = ".qgjet/read-model.sqlite"
    """This replica's own file; made, and made anew, from the log."""
    max_lag_events: Count = 10_000
    """`/readyz` says no while the read model is further behind than this."""
    max_partitions_per_org: Count = 1_000
    """App versions times targets with queued or running jobs; a submission that brings more is
    answered with 429. 0: no limit.
    """
    janitor: bool = True
    auth: bool = True
    """False: nobody is asked for a token. On loopback only."""
    tokens_file: str = ".qgjet/tokens.json"
    """Written by `qgjet token`, read again when it has changed."""
    tokens: str = ""
    """More of them, as they stand in the file."""
    rate_limit: Count = 50
    """Requests per second of one token, over time; 0: no limit."""
    rate_burst: AtLeastOne = 200
    """Requests at once, of a token that was silent before."""
    cors_origins: tuple[str, ...] = ()
    """Other sites whose pages may ask, such as `https://ci.example`."""


class Login(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[nats.janitor]`: whom the janitor of `qgjet serve` is for NATS. Without a secret it shares
    the API's connection.
    """

    user: str = "janitor"
    password: str = ""
    password_file: str = ""
    nkey: str = ""

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


class NatsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[nats]`: who this process is for the NATS server, and how it knows that server. Files are
    read when a connection is made.
    """

    user: str = ""
    """The role, such as `submitter`. With an nkey it names the inbox only."""
    password: str = ""
    password_file: str = ""
    nkey: str = ""
    """File with the seed."""
    inbox_prefix: str = ""
    """Empty: `_INBOX_<user>`, as nats.conf has it."""
    ca: str = ""
    """File with the certificates that may sign the server's; empty: the system's."""
    cert: str = ""
    """File with this client's certificate, for mutual TLS; `key`: its key."""
    key: str = ""
    janitor: Login = Login()

    def __repr__(self) -> str:  # a password must not get into a traceback or a log
        return f"NatsSettings(user={self.user!r})"

    @property
    def of_janitor(self) -> NatsSettings | None:
        """The janitor's own login; None when it has none."""
        login = self.janitor
        if not (login.password or login.password_file or login.nkey):
            return None
        own = {
            "user": login.user,
            "password": login.password,
            "password_file": login.password_file,
            "nkey": login.nkey,
        }
        return msgspec.structs.replace(self, **own, inbox_prefix="", janitor=Login())


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    nats_url: str = ""
    api_url: str = ""
    api_token: str = ""
    """For the API. Not a flag: every user of a machine can read the flags of its processes."""
    api_token_file: str = ""
    org_id: str = ""
    target: str = ""
    nats: NatsSettings = NatsSettings()
    queue: QueueSettings = QueueSettings()
    job: JobSettings = JobSettings()
    agent: AgentSettings = AgentSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    api: ApiSettings = ApiSettings()
    verdicts: VerdictSettings = VerdictSettings()
    targets: dict[str, TargetSettings] = {}

    @property
    def deployment(self) -> Deployment:
        """What these settings ask for where nothing is agreed yet."""
        kept = self.artifacts
        return msgspec.structs.replace(
            self.queue.deployment,
            artifact_retention_s=kept.retention_s,
            log_retention_s=kept.log_retention_s,
        )
