"""From flags and settings to what is submitted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from qgjet.client.base import Batch
from qgjet.config import files
from qgjet.config.settings import JobSettings, Settings
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.deployment import Deployment
from qgjet.domain.submission import SubmitRequest, check_suite_id, make_spec
from qgjet.errors import InvalidInput
from qgjet.support.clock import utc_now
from qgjet.support.units import duration
from qgjet_cli.options import ci
from qgjet_cli.options.selection import expand

BUILT_IN = JobSettings()
MAX_KEY = 255


class Asked(Struct, frozen=True, kw_only=True):
    """The flags of `submit` and `run`."""

    tests: Sequence[str]
    org_id: str | None
    app_version_id: str | None
    targets: Sequence[str]
    priority: int | None
    max_retries: int | None
    infra_retries: int | None
    execution_timeout: str | None
    queue_timeout: str | None
    on_duplicate: OnDuplicate
    tags: Sequence[str]
    ci_tags: bool
    suite_id: str | None
    idempotency_key: str | None
    partial: bool


def settings_of(path: Path | None, nats: str | None, api: str | None) -> Settings:
    """Settings with the flags that every command has. `--api` alone means: through the API,
    whatever else is set.
    """
    return files.load(path, {"nats_url": "" if api and not nats else nats, "api_url": api})


def batch_of(asked: Asked, settings: Settings, *, suite: bool) -> Batch:
    """What to submit: each test on each target. Raises InvalidInput with the flag at fault, NoTests
    when nothing matches.
    """
    jobs = [
        (test, target)
        for target in targets_of(asked, settings)
        for test in _tests_of(asked, settings, target)
    ]
    suite_id = _suite_id(asked, new=suite or len(jobs) > 1)
    tags = _all_tags(asked)
    requests = tuple(
        _request(asked, settings, test, target, suite_id=suite_id, tags=tags)
        for test, target in jobs
    )
    for request in requests:  # all of them, before the first is sent
        make_spec(
            request,
            job_id="",
            now=utc_now(),
            deployment=Deployment(),
            defaults=BUILT_IN,
            submitted_by="",
        )
    return Batch(
        requests=requests, suite_id=suite_id, key=_key(asked.idempotency_key), partial=asked.partial
    )


def targets_of(asked: Asked, settings: Settings) -> list[str]:
    """Those asked for, else the settings' own, else the only one that is declared. Raises
    InvalidInput.
    """
    only = list(settings.targets) if len(settings.targets) == 1 else []
    targets = list(dict.fromkeys(asked.targets)) or [settings.target or next(iter(only), "")]
    return [
        _needed("target", target, "QGJET_TARGET, or target in qgjet.toml") for target in targets
    ]


def project_of(settings: Settings, target: str) -> Path:
    """Where the test paths of a target begin: the directory that its settings name, where that is
    here.
    """
    declared = settings.targets.get(target)
    return Path(declared.dir) if declared and Path(declared.dir).is_dir() else Path.cwd()


def _tests_of(asked: Asked, settings: Settings, target: str) -> list[str]:
    """The tests for one target. A file has to be there where the settings say that it is run from
    here.
    """
    declared = settings.targets.get(target)
    root = project_of(settings, target)
    runs_files = (
        declared is not None
        and Path(declared.dir).is_dir()
        and (declared.runner == "appwright" or "{test}" in declared.command)
    )
    return expand(asked.tests, root, must_exist=runs_files)


def _suite_id(asked: Asked, *, new: bool) -> str:
    if asked.suite_id is not None:
        return check_suite_id(asked.suite_id)
    if not new:
        return ""
    # under a key the suite is the same one again
    return str(
        uuid.uuid5(uuid.NAMESPACE_OID, f"{asked.org_id} {asked.idempotency_key}")
        if asked.idempotency_key
        else uuid.uuid4()
    )


def _request(
    asked: Asked, settings: Settings, test: str, target: str, *, suite_id: str, tags: dict[str, str]
) -> SubmitRequest:
    job = settings.job
    return SubmitRequest(
        org_id=_needed(
            "org_id", asked.org_id or settings.org_id, "QGJET_ORG_ID, or org_id in qgjet.toml"
        ),
        app_version_id=_needed(
            "app_version_id", asked.app_version_id or "", "QGJET_APP_VERSION_ID"
        ),
        target=target,
        test=test,
        priority=_chosen(asked.priority, job.priority, BUILT_IN.priority),
        max_retries=_chosen(asked.max_retries, job.max_retries, BUILT_IN.max_retries),
        infra_retries=_chosen(asked.infra_retries, job.infra_retries, BUILT_IN.infra_retries),
        execution_timeout=asked.execution_timeout or job.execution_timeout_s,
        queue_timeout=asked.queue_timeout or job.queue_timeout_s,
        tags=tags,
        suite_id=suite_id,
        on_duplicate=asked.on_duplicate,
    )


def _needed(field: str, text: str, else_from: str) -> str:
    if not text:
        raise InvalidInput(field, f"is missing: give it, or set {else_from}")
    return text


def _chosen(flag: int | None, setting: int, built_in: int) -> int | None:
    """None, which leaves the choice to the server, unless there is a flag, or a setting of one's
    own.
    """
    return flag if flag is not None else None if setting == built_in else setting


def _all_tags(asked: Asked) -> dict[str, str]:
    """Those asked for and what the CI says of the run. Under a key the latter would make another
    request of a command that is run again, so there are none.
    """
    own = tags_of(asked.tags)
    return (
        ci.joined(own, ci.tags(os.environ, _event(os.environ)))
        if asked.ci_tags and not asked.idempotency_key
        else own
    )


def _event(environ: Mapping[str, str]) -> bytes:
    """What GitHub Actions was started by, a JSON document; empty elsewhere."""
    path = environ.get("GITHUB_EVENT_PATH", "") if ci.is_github(environ) else ""
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""  # then the environment is all there is


def tags_of(pairs: Iterable[str]) -> dict[str, str]:
    """`k=v` -> {k: v}; of one key the last counts. Raises InvalidInput."""
    return dict(_tag(pair) for pair in pairs)


def _tag(pair: str) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise InvalidInput("tag", f"{pair!r} is not of the form key=value")
    return key, value


def _key(text: str | None) -> str:
    if text is None:
        return ""
    if not 1 <= len(text) <= MAX_KEY or not text.isascii() or not text.isprintable():
        raise InvalidInput("idempotency_key", f"must be 1 to {MAX_KEY} printable ASCII characters")
    return text


def seconds(flag: str, text: str | None) -> float | None:
    """A duration of a flag, more than 0; None when it is not given. Raises InvalidInput."""
    if text is None:
        return None
    value = duration(text, flag)
    if value <= 0:
        raise InvalidInput(flag, "must be more than 0")
    return value
