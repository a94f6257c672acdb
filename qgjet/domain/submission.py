"""What a submission may ask for, and the job it becomes. The one set of rules for the API, the CLI
and whoever imports qgjet.

Text is kept exactly as it was given, or refused with the reason: two spellings are two things, and
nothing is trimmed, cased or normalised behind anybody's back. Ids may hold dots, slashes, stars,
spaces and any Unicode; test paths are paths inside the test project and are held to that.
"""

from __future__ import annotations

import hashlib
import math
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec
from msgspec import Struct

from qgjet.domain import subjects
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import JobSpec, Slot
from qgjet.domain.retry import MAX_RETRIES
from qgjet.errors import InvalidInput
from qgjet.support.units import duration

MAX_TAGS = 32
MAX_TAG_KEY = 64
MAX_TAG_VALUE = 256
"""Characters."""
MAX_SUITE_ID_BYTES = 128
"""As a subject token."""
MAX_TIMEOUT_S = 30 * 86_400.0
MAX_SUITE_JOBS = 1000
"""Jobs of one bulk submission."""
MAX_TO_COME = 1_000_000

Duration = float | int | str
"""Seconds, or text such as `30s`, `10m`, `1h`."""


class JobDefaults(Protocol):
    """What a submission gets that does not say."""

    @property
    def priority(self) -> int: ...
    @property
    def max_retries(self) -> int: ...
    @property
    def infra_retries(self) -> int: ...
    @property
    def execution_timeout_s(self) -> float | None: ...
    @property
    def queue_timeout_s(self) -> float | None: ...


class SubmitRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One job, as its submitter writes it. None and empty: the deployment's default."""

    org_id: str
    app_version_id: str
    target: str
    test: str = ""
    """Path of the test file inside the test project, with `/`."""
    test_path: str = ""
    """Another name of `test`."""
    priority: int | None = None
    """0-9. Which end is urgent is the deployment's choice, `low-first` unless it was made
    otherwise: 0 runs first.
    """
    max_retries: int | None = None
    """0-10 more attempts after `failed` or `timed_out`."""
    infra_retries: int | None = None
    """0-10 more attempts after a device, farm or agent broke."""
    execution_timeout: Duration | None = None
    """Deadline of one attempt."""
    queue_timeout: Duration | None = None
    """How long the job may wait in the queue."""
    tags: dict[str, str] = {}
    suite_id: str = ""
    on_duplicate: OnDuplicate = OnDuplicate.ATTACH


class SuiteRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many jobs at once: `jobs`, or one set of fields for many `tests` on one or more targets."""

    suite_id: str = ""
    """Empty: made for it."""
    on_duplicate: OnDuplicate = OnDuplicate.ATTACH
    """For jobs that do not say otherwise, and for those that say `attach`."""
    atomic: bool = True
    """All jobs or none; False: those that can be accepted."""
    submission: str = ""
    """Name of a submission that takes several requests, the same in each of them. Empty: this
    request is all of it.
    """
    to_come: int = 0
    """Jobs that later requests of the submission bring. The suite is complete after the request
    with 0, and cancelled if that does not come within minutes.
    """
    jobs: tuple[SubmitRequest, ...] = ()
    org_id: str = ""
    app_version_id: str = ""
    target: str = ""
    targets: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    priority: int | None = None
    max_retries: int | None = None
    infra_retries: int | None = None
    execution_timeout: Duration | None = None
    queue_timeout: Duration | None = None
    tags: dict[str, str] = {}


_FOR_TESTS = (
    "org_id",
    "app_version_id",
    "target",
    "targets",
    "tests",
    "priority",
    "max_retries",
    "infra_retries",
    "execution_timeout",
    "queue_timeout",
    "tags",
)


class SuiteJob(Struct, frozen=True, kw_only=True):
    """One job of a suite, and where its fields stand in the request."""

    request: SubmitRequest
    prefix: str = ""
    places: dict[str, str] = {}

    def place(self, field: str) -> str:
        """Where the submitter wrote the job's `field`, such as `jobs.3.test` or `tests.3`."""
        return self.places.get(field, self.prefix + field)


def jobs_of(suite: SuiteRequest, suite_id: str) -> list[SuiteJob]:
    """The jobs a suite asks for, 1 to 1000, each with `suite_id`. Raises InvalidInput; the jobs'
    own fields are looked at by `make_spec`.
    """
    _storable("suite_id", suite_id)
    if suite.jobs:
        both = [field for field in _FOR_TESTS if getattr(suite, field)]
        _require(
            "jobs",
            (
                (
                    not both,
                    f"cannot stand beside {', '.join(both)}: send jobs, or tests with the fields they share",
                ),
            ),
        )
        jobs = [
            _in_suite(job, suite, suite_id, f"jobs.{number}.")
            for number, job in enumerate(suite.jobs)
        ]
    else:
        jobs = _jobs_of_tests(suite, suite_id)
    _check_submission(suite, jobs)
    field = "jobs" if suite.jobs else "tests"
    _require(
        field,
        (
            (bool(jobs), "must not be empty"),
            (
                len(jobs) <= MAX_SUITE_JOBS,
                f"make {len(jobs)} jobs; at most {MAX_SUITE_JOBS} are accepted at once",
            ),
        ),
    )
    return jobs


def _check_submission(suite: SuiteRequest, jobs: Sequence[SuiteJob]) -> None:
    one_org = len({job.request.org_id for job in jobs}) <= 1
    _storable("submission", suite.submission)
    _require(
        "submission",
        (
            (
                bool(suite.submission) or not suite.to_come,
                "is missing: requests with to_come name the submission that they are of",
            ),
        ),
    )
    _require(
        "to_come",
        ((0 <= suite.to_come <= MAX_TO_COME, f"must be an integer from 0 to {MAX_TO_COME}"),),
    )
    _require(
        "submission",
        (
            (
                one_org or not suite.submission,
                "cannot hold jobs of several orgs: send a submission for each",
            ),
        ),
    )


def _in_suite(job: SubmitRequest, suite: SuiteRequest, suite_id: str, prefix: str) -> SuiteJob:
    _require(
        prefix + "suite_id", ((job.suite_id in ("", suite_id), "differs from that of the suite"),)
    )
    duplicate = suite.on_duplicate if job.on_duplicate is OnDuplicate.ATTACH else job.on_duplicate
    return SuiteJob(
        request=msgspec.structs.replace(job, suite_id=suite_id, on_duplicate=duplicate),
        prefix=prefix,
    )


def _jobs_of_tests(suite: SuiteRequest, suite_id: str) -> list[SuiteJob]:
    _require(
        "targets",
        ((not (suite.target and suite.targets), "cannot stand beside target: send one of them"),),
    )
    targets = [(f"targets.{number}", target) for number, target in enumerate(suite.targets)] or [
        ("target", suite.target)
    ]
    return [
        SuiteJob(
            request=_of_test(suite, suite_id, target, test),
            places={"target": place, "test": f"tests.{number}"},
        )
        for place, target in targets
        for number, test in enumerate(suite.tests)
    ]


def _of_test(suite: SuiteRequest, suite_id: str, target: str, test: str) -> SubmitRequest:
    return SubmitRequest(
        org_id=suite.org_id,
        app_version_id=suite.app_version_id,
        target=target,
        test=test,
        priority=suite.priority,
        max_retries=suite.max_retries,
        infra_retries=suite.infra_retries,
        execution_timeout=suite.execution_timeout,
        queue_timeout=suite.queue_timeout,
        tags=suite.tags,
        suite_id=suite_id,
        on_duplicate=suite.on_duplicate,
    )


def make_spec(
    request: SubmitRequest,
    *,
    job_id: str,
    now: datetime,
    deployment: Deployment,
    defaults: JobDefaults,
    submitted_by: str,
    request_hash: str = "",
) -> JobSpec:
    """The job that `request` asks for. Raises InvalidInput with the field's name as the submitter
    wrote it, and what to change.
    """
    slot = slot_of(request)
    priority = _within("priority", request.priority, defaults.priority, 9)
    return JobSpec(
        job_id=job_id,
        org_id=slot.org_id,
        app_version_id=slot.app_version_id,
        target=slot.target,
        test=slot.test,
        priority=priority,
        rank=deployment.rank(priority),
        max_retries=_within("max_retries", request.max_retries, defaults.max_retries, MAX_RETRIES),
        infra_retries=_within(
            "infra_retries", request.infra_retries, defaults.infra_retries, MAX_RETRIES
        ),
        execution_timeout_s=_timeout(
            "execution_timeout", request.execution_timeout, defaults.execution_timeout_s
        ),
        queue_timeout_s=_timeout("queue_timeout", request.queue_timeout, defaults.queue_timeout_s),
        submitted_at=now,
        submitted_by=submitted_by,
        suite_ids=(check_suite_id(request.suite_id),) if request.suite_id else (),
        tags=_tags(request.tags),
        request_hash=request_hash,
    )


def slot_of(request: SubmitRequest) -> Slot:
    """The slot that `request` is about. Raises InvalidInput."""
    return Slot(
        check_part("org_id", request.org_id),
        check_part("app_version_id", request.app_version_id),
        check_part("target", request.target),
        _test(request),
    )


def check_part(field: str, text: str) -> str:
    """An org, app version or target: any text of 1 to 64 bytes, encoded. Raises InvalidInput."""
    subjects.encode_part(_storable(field, text), field)
    return text


def _test(request: SubmitRequest) -> str:
    if request.test and request.test_path and request.test != request.test_path:
        raise InvalidInput(
            "test_path", "differs from test; they are two names of one thing: send one of them"
        )
    return check_test(
        request.test or request.test_path,
        "test_path" if request.test_path and not request.test else "test",
    )


def check_test(path: str, field: str = "test") -> str:
    """A path inside the test project, up to 512 bytes encoded. Raises InvalidInput.

    A backslash is refused, not read as `/`: on an agent with Windows it would lead out of the
    project, everywhere else it is another file.
    """
    _storable(field, path)
    rules = (
        (bool(path), "must not be empty"),
        (not any(_is_control(c) for c in path), "must not hold control characters"),
        ("\\" not in path, "must not hold a backslash: write `/` between directories"),
        (
            not path.startswith("/") and not re.match(r"[A-Za-z]:", path),
            "must be relative to the test project",
        ),
        (".." not in path.split("/"), "must not leave the test project: `..` is not accepted"),
        (
            not path.startswith("-"),
            "must not begin with `-`: it would be read as an option; write `./-…`",
        ),
    )
    _require(field, rules)
    try:
        subjects.encode_test(path)
    except InvalidInput as error:
        raise InvalidInput(field, error.reason) from None
    return path


def check_suite_id(suite_id: str, field: str = "suite_id") -> str:
    """A suite's id: up to 128 bytes encoded, fit to stand in a URL's path as one segment. Raises
    InvalidInput.
    """
    _storable(field, suite_id)
    rules = (
        (bool(suite_id), "must not be empty"),
        (not any(_is_control(c) for c in suite_id), "must not hold control characters"),
        (
            not {"/", "\\"} & set(suite_id) and suite_id not in (".", ".."),
            "must not hold `/` or `\\`, nor be `.` or `..`: it stands in URLs",
        ),
        (
            len(subjects.encode_token(suite_id).encode("utf-8", "replace")) <= MAX_SUITE_ID_BYTES,
            f"is longer than {MAX_SUITE_ID_BYTES} bytes encoded",
        ),
    )
    _require(field, rules)
    return suite_id


def _tags(tags: dict[str, str]) -> dict[str, str]:
    for key, value in tags.items():
        _storable("tags", key + value)
        rules = (
            (bool(key), "keys must not be empty"),
            (
                len(key) <= MAX_TAG_KEY,
                f"keys may have {MAX_TAG_KEY} characters; one has {len(key)}",
            ),
            (
                len(value) <= MAX_TAG_VALUE,
                f"values may have {MAX_TAG_VALUE} characters; that of {key[:MAX_TAG_KEY]!r} has {len(value)}",
            ),
            (not any(_is_control(c) for c in key), "keys must not hold control characters"),
        )
        _require("tags", rules)
    _require(
        "tags",
        ((len(tags) <= MAX_TAGS, f"at most {MAX_TAGS} are accepted; there are {len(tags)}"),),
    )
    return dict(tags)


def _within(field: str, given: int | None, default: int, highest: int) -> int:
    value = default if given is None else given
    _require(field, ((0 <= value <= highest, f"must be an integer from 0 to {highest}"),))
    return value


def _timeout(field: str, given: Duration | None, default: float | None) -> float | None:
    if given is None:
        return default
    seconds = duration(given, field) if isinstance(given, str) else float(given)
    in_range = math.isfinite(seconds) and 0 < seconds <= MAX_TIMEOUT_S
    _require(
        field, ((in_range, f"must be more than 0 and at most {MAX_TIMEOUT_S / 86_400:.0f} days"),)
    )
    return seconds


def _storable(field: str, text: str) -> str:
    """Lone surrogates come out of undecodable bytes on a command line; neither JSON nor SQLite can
    keep them.
    """
    _require(
        field,
        (
            (
                not any("\ud800" <= c <= "\udfff" for c in text),
                "is not valid Unicode text: it holds a lone surrogate",
            ),
        ),
    )
    return text


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"


def _require(field: str, rules: Sequence[tuple[bool, str]]) -> None:
    for holds, reason in rules:
        if not holds:
            raise InvalidInput(field, reason)


def idempotent_id(org_id: str, key: str) -> str:
    """The job id of a request that came with an idempotency key: the same for the same org and key,
    for ever.
    """
    return str(uuid.uuid5(_NAMESPACE, f"{len(org_id)}:{org_id}{key}"))


_NAMESPACE = uuid.UUID("5b1c6a2e-0f0e-5d0a-9c63-716a65746a6f")


def hash_of(request: Struct) -> str:
    """sha256 of what was asked, whatever the order and spacing of the JSON it came in."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()
