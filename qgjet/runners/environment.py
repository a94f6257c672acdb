"""The variables of a target's commands and jobs.

Nothing of the agent's own environment gets through, except BASE_VARIABLES and what the target names
in `pass_env`. On top of these, the later winning: the target's `env`, APP_BUILD_PATH and the QGJET_
variables, and what `prepare` appended as `KEY=VALUE` lines to the file in QGJET_ENV. CI is `true`
unless one of these sets it, so that `forbidOnly: !!process.env.CI` and similar protections work in
every queued run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Partition
from qgjet.errors import PrepareFailed
from qgjet.runners.base import Attempt
from qgjet.runners.template import check_text, fill_path

BASE_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
DEVICE_VARIABLE = "QGJET_DEVICE"
"""The only QGJET_ variable that `prepare` and `env` may set: what runs the jobs, for people."""
ENV_FILE_LIMIT_BYTES = 1024 * 1024

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def session_environment(
    target: TargetSettings,
    project: Path,
    partition: Partition,
    directory: Path,
    agent: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """The variables of `prepare`, and the ground for those of jobs. Raises InvalidInput for ids
    that no job could use, PrepareFailed without the build.
    """
    words = {
        "org_id": partition.org_id,
        "app_version_id": partition.app_version_id,
        "target": partition.target,
    }
    for field, value in words.items():
        check_text(field, value)
    passed = {name: agent[name] for name in (*BASE_VARIABLES, *target.pass_env) if name in agent}
    build = {"APP_BUILD_PATH": str(_build_path(target, project, words))} if target.build else {}
    ours = {
        "QGJET_ORG_ID": partition.org_id,
        "QGJET_APP_VERSION_ID": partition.app_version_id,
        "QGJET_TARGET": partition.target,
        "QGJET_SESSION_DIR": str(directory),
        "QGJET_ENV": str(directory / "env"),
    }
    return {"CI": "true", **passed, **target.env, **build, **ours}


def _build_path(target: TargetSettings, project: Path, words: Mapping[str, str]) -> Path:
    path = project / fill_path(target.build, words)
    if not path.exists():
        raise PrepareFailed(
            f"target {target.name}: there is no build {path} for app version {words['app_version_id']!r}; put it there, or mend `build`"
        )
    return path


def job_environment(session: Mapping[str, str], attempt: Attempt) -> dict[str, str]:
    return {
        **session,
        "QGJET_JOB_ID": attempt.spec.job_id,
        "QGJET_ATTEMPT": str(attempt.number),
        "QGJET_TEST": attempt.spec.test,
        "QGJET_ATTEMPT_DIR": str(attempt.directory.absolute()),
    }


def read_variables(file: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a QGJET_ENV file; blank lines are skipped, values are taken as they
    stand. Raises PrepareFailed with the line's number.
    """
    try:
        data = file.read_bytes() if file.stat().st_size <= ENV_FILE_LIMIT_BYTES else None
    except OSError as error:
        raise PrepareFailed(f"QGJET_ENV cannot be read: {error}") from error
    if data is None:
        raise PrepareFailed(f"QGJET_ENV is larger than {ENV_FILE_LIMIT_BYTES} bytes")
    variables = {}
    for number, line in enumerate(os.fsdecode(data).split("\n"), 1):
        if line.strip():
            name, value = _variable(line.removesuffix("\r"), number)
            variables[name] = value
    return variables


def _variable(line: str, number: int) -> tuple[str, str]:
    # The value is not repeated in the message: it may be a secret.
    name, separator, value = line.partition("=")
    if not separator or not _VARIABLE_NAME.fullmatch(name) or "\0" in value:
        raise PrepareFailed(f"line {number} of QGJET_ENV is not KEY=VALUE")
    if name.startswith("QGJET_") and name != DEVICE_VARIABLE:
        raise PrepareFailed(
            f"line {number} of QGJET_ENV sets {name}: names beginning with QGJET_ are qgjet's own, except {DEVICE_VARIABLE}"
        )
    return name, value
