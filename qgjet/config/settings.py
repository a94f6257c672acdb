"""Settings: `qgjet.toml`, overridden by QGJET_ variables, overridden by flags. Pure: the text and the environment are passed in.

A key `batch` of the table `[agent]` is the variable `QGJET_AGENT_BATCH`, the key `slots` of `[targets.emulator]` is `QGJET_TARGETS_EMULATOR_SLOTS`.
Durations are seconds, or text such as `30s`, `10m`, `1h`. Variables for lists and tables hold TOML: `QGJET_AGENT_TARGETS='["emulator"]'`.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field

from qgjet.domain.retry import MAX_RETRIES, Backoff
from qgjet.errors import InvalidSettings
from qgjet.verdict.patterns import check_heads

PREFIX = "QGJET_"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
RUNNERS = ("appwright", "command", "scripted")
COLLECT = ("always", "on-failure", "never")
MIN_INTERVAL_S = 0.1
"""Shorter waits would keep an agent busy with nothing else."""
_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "date": "a date",
    "time": "a time",
    "datetime": "a date",
}
"""Types as msgspec calls them, in words."""
Limit = Annotated[float, Meta(gt=0)]
"""A time after which something is ended. 0 would end it at once, and means "no limit" elsewhere."""
Count = Annotated[int, Meta(ge=0)]
AtLeastOne = Annotated[int, Meta(ge=1)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
Interval = Annotated[float, Meta(ge=MIN_INTERVAL_S)]


DEFAULT_VISIBILITY_TIMEOUT_S = 30.0
DEFAULT_MAX_DELIVER = 20
DEFAULT_RETENTION_S = 14 * 86_400.0
DEFAULT_LOG_RETENTION_S = 7 * 86_400.0
DEFAULT_EVENT_RETENTION_S = 90 * 86_400.0
MIN_EVENT_RETENTION_S = 86_400.0
"""Clients that wait, rerun or repeat a request look for finished jobs; clocks of agents differ by minutes, not by a day."""


class Deployment(Struct, frozen=True, kw_only=True):
    """What everybody on one server has to agree on; stored with the log's stream by whoever comes first."""

    priority_order: str = "low-first"
    """`low-first`: 0 is the most urgent; `high-first`: 9 is."""
    replicas: int = 1
    max_consumers: int = 10_000
    """Explicit, because 2.15 limits a stream to 1000 consumers otherwise."""
    agents_ttl_s: float = 30.0
    visibility_timeout_s: float = DEFAULT_VISIBILITY_TIMEOUT_S
    next_visibility_timeout_s: float = 0.0
    """A shorter one that agents adopt before consumers get it; 0: none."""
    max_deliver: int = DEFAULT_MAX_DELIVER
    retention_s: float = DEFAULT_EVENT_RETENTION_S
    """What the log remembers of jobs that have ended; 0: all of it, for ever."""
    artifact_retention_s: float = DEFAULT_RETENTION_S
    """This one and the next are used when the streams are made; those that are there keep theirs."""
    log_retention_s: float = DEFAULT_LOG_RETENTION_S

    @property
    def lease_timeout_s(self) -> float:
        """What agents keep to; never longer than what consumers wait for."""
        return self.next_visibility_timeout_s or self.visibility_timeout_s

    def rank(self, priority: int) -> int:
        """Priority 0-9 to rank: 0 runs first."""
        return priority if self.priority_order == "low-first" else 9 - priority


class Target(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    """The app for a version, such as `builds/{app_version_id}.apk`; the test finds its path in APP_BUILD_PATH."""
    command: tuple[str, ...] = ()
    """Of the `command` runner; {test} {app_version_id} {org_id} {target} {job_id} {attempt} {report} are filled in."""
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
    """From SIGINT to SIGTERM, for a job that is told to stop. AppWright on BrowserStack waits 10 s for its video first."""
    test_retries: Count = 0
    """Retries inside the runner (`--retries`), apart from those of the queue."""
    env: dict[str, str] = {}
    pass_env: tuple[str, ...] = ()
    """Names of the agent's own variables that jobs may see, besides PATH, HOME, LANG, LC_ALL, TMPDIR and TZ."""
    redact: tuple[str, ...] = ()
    """Names of variables of the jobs whose values become `***` in everything that leaves the agent as text."""
    outcomes: dict[str, tuple[str, ...]] = {}
    """Of the `scripted` runner: test path or `*` -> the verdict of each attempt."""


class QueueSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[queue]`: the same for everybody on one server."""

    priority_order: str = "low-first"
    """Fixed when the log is made. `low-first`: priority 0 is the most urgent."""
    replicas: int = 1
    """3 on a cluster."""
    visibility_timeout_s: Annotated[float, Meta(ge=0.5)] = field(default=DEFAULT_VISIBILITY_TIMEOUT_S, name="visibility_timeout")
    """A job whose agent is silent for this long is given to another one. Stored with the log: the API's value is in force for all."""
    max_deliver: Annotated[int, Meta(ge=2)] = DEFAULT_MAX_DELIVER
    """Deliveries of one message that the server allows, whatever our code does. Stored with the log, too."""
    retry_base_s: float = field(default=1.0, name="retry_base")
    retry_cap_s: float = field(default=60.0, name="retry_cap")
    retention_s: float = field(default=DEFAULT_EVENT_RETENTION_S, name="retention")
    """Jobs that ended longer ago are forgotten; 0: none is. Live ones never are. Stored with the log, too."""

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
    """Of every attempt its logs and reports, and media (`test-results`) of those that did not pass; `always`: media of all; `never`: nothing."""
    max_file_bytes: Count = field(default=100_000_000, name="max_file")
    max_attempt_bytes: Count = field(default=250_000_000, name="max_attempt")
    upload_timeout_s: Limit = field(default=60.0, name="upload_timeout")
    """Of all files of an attempt together; the result is told after it."""
    retention_s: Annotated[float, Meta(ge=1)] = field(default=DEFAULT_RETENTION_S, name="retention")
    """Fixed when the first of all starts, like the next one."""
    log_retention_s: Annotated[float, Meta(ge=1)] = field(default=DEFAULT_LOG_RETENTION_S, name="log_retention")
    """Of live output. The whole log of an attempt is an artifact."""


class VerdictSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[verdicts]`: errors that say nothing about the app, in addition to those that qgjet knows."""

    infra: tuple[str, ...] = ()
    """Regular expressions, matched at the beginning of an error's message: device, farm or network."""
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
    """App versions times targets with queued or running jobs; a submission that brings more is answered with 429. 0: no limit."""
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
    """`[nats.janitor]`: whom the janitor of `qgjet serve` is for NATS. Without a secret it shares the API's connection."""

    user: str = "janitor"
    password: str = ""
    password_file: str = ""
    nkey: str = ""

    def __repr__(self) -> str:
        return f"Login(user={self.user!r})"


class NatsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[nats]`: who this process is for the NATS server, and how it knows that server. Files are read when a connection is made."""

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
        own = {"user": login.user, "password": login.password, "password_file": login.password_file, "nkey": login.nkey}
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
    targets: dict[str, Target] = {}

    @property
    def deployment(self) -> Deployment:
        """What these settings ask for where nothing is agreed yet."""
        kept = self.artifacts
        return msgspec.structs.replace(self.queue.deployment, artifact_retention_s=kept.retention_s, log_retention_s=kept.log_retention_s)


_PATHS: dict[type[Struct], tuple[str, ...]] = {
    Settings: ("api_token_file",),
    NatsSettings: ("password_file", "nkey", "ca", "cert", "key"),
    Login: ("password_file", "nkey"),
    AgentSettings: ("work_dir",),
    ApiSettings: ("database", "tokens_file"),
    Target: ("dir",),
}
"""Keys that hold a path. `build`, `config` and `junit` of a target count from its `dir`."""


def load_settings(
    text: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None, *, file_dir: Path = Path(), current_dir: Path = Path()
) -> Settings:
    """Settings from a file's text, the environment and flags (dotted key -> value; None: not given).

    Relative paths in the text count from `file_dir`, those in variables and flags from the current directory.
    Raises InvalidSettings that names the key, variable or flag at fault. Variables that no key has are left alone: other programs may use the prefix.
    """
    data = _parse(text)
    _check_tables(data)
    _resolve_paths(data, file_dir, _PATHS)
    _apply_environment(data, Settings, PREFIX, environ or {}, ())
    for key, value in (flags or {}).items():
        if value is not None:
            _set(data, tuple(key.split(".")), value)
    _check_tables(data)
    _resolve_paths(data, current_dir, (ApiSettings, Target))  # so that only their default paths stay relative
    _check_keys({key: value for key, value in data.items() if key != "targets"}, Settings, "")
    targets = {name: _target(name, table) for name, table in data.pop("targets", {}).items()}
    settings = msgspec.structs.replace(_convert(data, Settings, ""), targets=targets)
    _check_values(settings)
    return settings


def _resolve_paths(data: dict[str, Any], base: Path, kinds: Collection[type[Struct]]) -> None:
    """Make relative paths in the tables of some kinds count from `base`; absolute ones stay."""
    tables: list[tuple[type[Struct], Any]] = [(Settings, data)]
    tables += [(one.type, data.get(one.encode_name, {})) for one in msgspec.structs.fields(Settings) if _is_struct(one.type)]
    tables += [(Login, data.get("nats", {}).get("janitor"))]
    tables += [(Target, table) for table in data.get("targets", {}).values()]
    for kind, table in tables:
        for key in _PATHS[kind] if kind in kinds and isinstance(table, dict) else ():
            if isinstance(table.get(key), str) and table[key]:
                table[key] = str(base / Path(table[key]).expanduser())


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSettings("qgjet.toml", f"is not valid TOML: {error}") from error


def _check_tables(data: dict[str, Any]) -> None:
    tables = {one.encode_name: data.get(one.encode_name, {}) for one in msgspec.structs.fields(Settings) if _is_struct(one.type)}
    tables |= {"targets": data.get("targets", {})}
    if isinstance(tables["targets"], dict):
        tables |= {f"targets.{name}": table for name, table in tables["targets"].items()}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidSettings(key, f"must be a table, [{key}]")


def _check_keys(data: dict[str, Any], kind: type[Struct], path: str) -> None:
    """Raises InvalidSettings for a key or table that does not exist, with the nearest name or all names."""
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    tables = [name for name, one in fields.items() if _is_struct(one.type)] + (["targets"] if kind is Settings else [])
    keys = [name for name in fields if name not in tables] if kind is Settings else [name for name in fields if (kind, name) != (Target, "name")]
    for key, value in data.items():
        if kind is Settings and key not in tables and isinstance(value, dict):
            name, hint = _unknown_table(key, value, tables)
            raise InvalidSettings("qgjet.toml", f"unknown table [{name}]. {hint}", key=name)
        if key not in fields:
            near = _nearest(key, keys)
            hint = f"Did you mean `{near}`?" if near else f"Keys: {', '.join(keys)}"
            raise InvalidSettings(path.rstrip(".") or "qgjet.toml", f"unknown key `{key}`. {hint}", key=f"{path}{key}")
        if isinstance(value, dict) and _is_struct(fields[key].type):
            _check_keys(value, fields[key].type, f"{path}{key}.")


def _unknown_table(key: str, table: dict[str, Any], tables: list[str]) -> tuple[str, str]:
    """The table's name as it was meant, and what is allowed instead."""
    inner = next((name for name, value in table.items() if isinstance(value, dict)), "")
    near = _nearest(key, tables)
    if near == "targets":
        key, near = (f"{key}.{inner}", f"targets.{inner}") if inner else (key, "targets.<name>")
    listed = ", ".join(f"[{name}]" if name != "targets" else "[targets.<name>]" for name in tables)
    return key, f"Did you mean [{near}]?" if near else f"Tables: {listed}"


def _hint(value: str, values: Sequence[str]) -> str:
    near = _nearest(value, values)
    return f". Did you mean `{near}`?" if near else ""


def _nearest(name: str, names: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name[:50].lower(), names, n=1)), "")


def _is_struct(kind: Any) -> TypeGuard[type[Struct]]:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _apply_environment(data: dict[str, Any], kind: type[Struct], prefix: str, environ: Mapping[str, str], path: tuple[str, ...]) -> None:
    for one in msgspec.structs.fields(kind):
        name = prefix + one.encode_name.upper()
        if _is_struct(one.type):
            _apply_environment(data, one.type, name + "_", environ, (*path, one.encode_name))
        elif one.encode_name == "targets" and kind is Settings:
            for target in list(data.get("targets", {})):
                _apply_environment(data, Target, f"{name}_{_shouted(target)}_", environ, ("targets", target))
        elif name in environ and not (kind is Target and one.name == "name"):
            _set(data, (*path, one.encode_name), _from_text(name, environ[name], one.type))


def _shouted(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _from_text(name: str, text: str, kind: Any) -> Any:
    if (get_origin(kind) or kind) not in (tuple, dict):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        if get_origin(kind) is tuple and get_args(kind)[0] is str and not text.lstrip().startswith(("[", "{")):
            return [item.strip() for item in text.split(",") if item.strip()]
        raise InvalidSettings(name, f'must hold TOML, such as ["a", "b"]; it holds {text!r}') from None


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for depth, key in enumerate(path[:-1]):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise InvalidSettings(".".join(path[: depth + 1]), "is no table")
    data[path[-1]] = value


def _target(name: str, table: dict[str, Any]) -> Target:
    path = f"targets.{name}."
    if "name" in table:
        raise InvalidSettings(f"{path}name", "is no key: the table's own name is the target's")
    _check_keys(table, Target, path)
    return msgspec.structs.replace(_convert(table, Target, path), name=name)


S = TypeVar("S", bound=Struct)


def _convert(data: dict[str, Any], kind: type[S], path: str) -> S:
    try:
        return msgspec.convert(_seconds(data, kind, path), kind, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`").lstrip(".")
        raise InvalidSettings((path + where).rstrip(".") or "qgjet.toml", _in_words(what, _field(kind, where))) from None


def _field(kind: type[Struct], where: str) -> msgspec.structs.FieldInfo | None:
    """Find the field that the path of a key leads to; None for a value inside a list or table."""
    found = None
    for part in where.split("."):
        found = next((one for one in msgspec.structs.fields(kind) if one.encode_name == part), None)
        if found is None:
            return None
        kind = found.type if _is_struct(found.type) else Struct
    return found


def _in_words(what: str, one: msgspec.structs.FieldInfo | None) -> str:
    """Write msgspec's message about a type the way the rest of the errors is written."""
    name = one.name if one is not None else ""
    found = re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", what)
    if found is None:
        return f"must be {_range(one.type, name)}" if one is not None and _meta(one.type) is not None else what
    expected = _KINDS.get(found[1], found[1])
    if name.endswith("_s"):
        expected = "a duration such as 30s or 10m"
    elif name.endswith("_bytes"):
        expected = "a size such as 100MB"
    return f"must be {expected}, not {_KINDS.get(found[2], found[2])}"


def _meta(kind: Any) -> Meta | None:
    """The range that a type states; None when it states none."""
    candidates = (kind, *get_args(kind))  # an optional value states it inside
    return next((one.__metadata__[0] for one in candidates if get_origin(one) is Annotated), None)


def _range(kind: Any, name: str) -> str:
    """Write the whole range, not only the end that a value misses."""
    meta = _meta(kind)
    assert meta is not None
    if meta.gt is not None:
        return f"more than {meta.gt:g}. For no practical limit, write a long time such as 7d"
    if meta.le is not None:
        return f"from {meta.ge} to {meta.le}"
    low = meta.ge or 0
    if not name.endswith("_s"):
        return f"at least {low}"
    return f"at least {low:g}s" if low >= 1 else f"at least {low * 1000:g}ms"


def _seconds(data: dict[str, Any], kind: type[Struct], path: str) -> dict[str, Any]:
    """Turn durations and sizes in text into numbers, wherever a field of `kind` counts seconds or bytes."""
    result = dict(data)
    for one in msgspec.structs.fields(kind):
        key, value = one.encode_name, data.get(one.encode_name)
        if one.name.endswith("_s") and isinstance(value, str):
            result[key] = duration(value, f"{path}{key}")
        elif one.name.endswith("_bytes") and isinstance(value, str):
            result[key] = size(value, f"{path}{key}")
        elif isinstance(value, dict) and _is_struct(one.type):
            result[key] = _seconds(value, one.type, f"{path}{key}.")
    return result


def duration(text: str, where: str = "duration") -> float:
    """Seconds from `90`, `1.5s`, `10m`, `2h`, `1d` or `250ms`. Raises InvalidSettings."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d)?\s*", text)
    if match is None:
        raise InvalidSettings(where, f"{text!r} is not a duration; write 90, 30s, 10m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def size(text: str, where: str = "size") -> int:
    """Bytes from `1000000`, `100MB` (10^8), `1.5 GB` or `64MiB` (2^26). Raises InvalidSettings."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmg]?i?b)?\s*", text, re.IGNORECASE)
    unit = _SIZES.get((match[2] or "b").lower()) if match else None
    if match is None or unit is None:
        raise InvalidSettings(where, f"{text!r} is not a size; write 1000000, 100MB or 64MiB")
    return round(float(match[1]) * unit)


def without_password(urls: str) -> str:
    """Addresses, separated by commas, fit to be shown. Passwords may hold what no URL may, such as `/`, `,` and `@`: too much goes rather than too little."""
    return ",".join(map(_without_password, re.split(r",(?=[a-z]+://)", urls)))


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("//")
    if not separator or "@" in scheme:
        scheme, separator, rest = "", "", url
    may_have_one = re.search("[:@]", rest.partition("/")[0])
    return scheme + separator + (rest.rpartition("@")[2] if may_have_one else rest)


def _check_values(settings: Settings) -> None:
    rules = [
        ("queue.priority_order", settings.queue.priority_order in ("low-first", "high-first"), "must be low-first or high-first"),
        ("queue.replicas", settings.queue.replicas in (1, 3, 5), "must be 1, 3 or 5"),
        ("queue.retention", _is_event_retention(settings.queue.retention_s), "must be at least 1d, or 0 to keep events for ever"),
        (
            "artifacts.collect",
            (collect := settings.artifacts.collect) in COLLECT,
            f"must be {', '.join(COLLECT[:-1])} or {COLLECT[-1]}{_hint(collect, COLLECT)}",
        ),
        *(("api.cors_origins", _is_origin(one), f"{one!r} is not an origin such as https://ci.example") for one in settings.api.cors_origins),
        (
            "QGJET_API_TOKEN (api_token)",
            re.fullmatch(r"[!-~]*", settings.api_token) is not None,
            "must be printable ASCII without spaces: what `qgjet token create` printed",
        ),
        *_time_rules(settings, ""),
    ]
    for name, target in settings.targets.items():
        rules.append((f"targets.{name}.runner", target.runner in RUNNERS, f"{target.runner!r} is none of {', '.join(RUNNERS)}{_hint(target.runner, RUNNERS)}"))
        rules.append((f"targets.{name}.command", target.runner != "command" or bool(target.command), "is needed by the command runner"))
        rules += _time_rules(target, f"targets.{name}.")
    check_heads("verdicts.infra", settings.verdicts.infra)
    check_heads("verdicts.config", settings.verdicts.config)
    for where, holds, reason in rules:
        if not holds:
            raise InvalidSettings(where, reason)


def _is_origin(text: str) -> bool:
    return re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", text, re.ASCII) is not None


def _is_event_retention(seconds: float) -> bool:
    return seconds == 0 or seconds >= MIN_EVENT_RETENTION_S


def _time_rules(settings: Struct, path: str) -> Iterator[tuple[str, bool, str]]:
    for one in msgspec.structs.fields(settings):
        value = getattr(settings, one.name)
        if isinstance(value, Struct):
            yield from _time_rules(value, f"{path}{one.encode_name}.")
        elif one.name.endswith("_s") and value is not None:
            yield f"{path}{one.encode_name}", math.isfinite(value) and value >= 0, "must be a time from 0 on"
