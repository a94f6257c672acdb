"""The rules of a submission: pure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import NOW
from qgjet.config.settings import JobSettings
from qgjet.domain import subjects
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import JobSpec
from qgjet.domain.submission import (
    MAX_SUITE_JOBS,
    SubmitRequest,
    SuiteRequest,
    hash_of,
    idempotent_id,
    jobs_of,
    make_spec,
)
from qgjet.errors import InvalidInput


def request(**fields: Any) -> SubmitRequest:
    return SubmitRequest(
        **{
            "org_id": "acme",
            "app_version_id": "1.0.0",
            "target": "emulator",
            "test": "tests/a.spec.js",
            **fields,
        }
    )


def spec_of(asked: SubmitRequest, **fields: Any) -> JobSpec:
    given: dict[str, Any] = {
        "job_id": "id",
        "now": NOW,
        "deployment": Deployment(),
        "defaults": JobSettings(),
        "submitted_by": "me",
        **fields,
    }
    return make_spec(asked, **given)


def refusal(**fields: Any) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        spec_of(request(**fields))
    return caught.value.field, caught.value.reason


def test_what_is_not_said_comes_from_the_settings() -> None:
    defaults = JobSettings(
        priority=2, max_retries=1, infra_retries=0, execution_timeout_s=60.0, queue_timeout_s=3600.0
    )
    spec = spec_of(request(), defaults=defaults)
    assert spec == JobSpec(
        job_id="id",
        org_id="acme",
        app_version_id="1.0.0",
        target="emulator",
        test="tests/a.spec.js",
        priority=2,
        rank=2,
        max_retries=1,
        infra_retries=0,
        execution_timeout_s=60.0,
        queue_timeout_s=3600.0,
        submitted_at=NOW,
        submitted_by="me",
    )


def test_what_is_said_is_kept() -> None:
    asked = request(
        priority=0,
        max_retries=0,
        infra_retries=10,
        execution_timeout="10m",
        queue_timeout=90,
        tags={"branch": "main"},
        suite_id="ci 1",
    )
    spec = spec_of(asked, request_hash="h")
    assert (spec.priority, spec.max_retries, spec.infra_retries) == (0, 0, 10)
    assert (spec.execution_timeout_s, spec.queue_timeout_s) == (600.0, 90.0)
    assert (spec.tags, spec.suite_ids, spec.request_hash) == ({"branch": "main"}, ("ci 1",), "h")


def test_rank_follows_the_order_of_the_deployment() -> None:
    assert spec_of(request(priority=9)).rank == 9
    assert (
        spec_of(request(priority=9), deployment=Deployment(priority_order="high-first")).rank == 0
    )


def test_test_path_is_another_name_of_test() -> None:
    assert spec_of(request(test="", test_path="tests/b.js")).test == "tests/b.js"
    assert spec_of(request(test="tests/b.js", test_path="tests/b.js")).test == "tests/b.js"
    assert refusal(test="tests/a.js", test_path="tests/b.js")[0] == "test_path"


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"org_id": ""}, "org_id", "empty"),
        ({"org_id": "x" * 65}, "org_id", "65 bytes"),
        ({"app_version_id": "…" * 22}, "app_version_id", "66 bytes"),
        ({"app_version_id": "." * 22}, "app_version_id", "66 bytes"),
        ({"target": "\udcff"}, "target", "surrogate"),
        ({"test": ""}, "test", "empty"),
        ({"test": "", "test_path": "/etc/passwd"}, "test_path", "relative"),
        ({"test": "C:/x.js"}, "test", "relative"),
        ({"test": "tests/../../x.js"}, "test", "leave"),
        ({"test": ".."}, "test", "leave"),
        ({"test": "--config=evil.js"}, "test", "option"),
        ({"test": "a\0.js"}, "test", "control"),
        ({"test": "a\n.js"}, "test", "control"),
        ({"test": "a\x85.js"}, "test", "control"),
        ({"test": "tests\\a.js"}, "test", "backslash"),
        ({"test": "é" * 257}, "test", "514 bytes"),
        ({"test": "", "test_path": "é" * 257}, "test_path", "514 bytes"),
        ({"priority": 10}, "priority", "0 to 9"),
        ({"priority": -1}, "priority", "0 to 9"),
        ({"max_retries": 11}, "max_retries", "0 to 10"),
        ({"infra_retries": -1}, "infra_retries", "0 to 10"),
        ({"execution_timeout": "soon"}, "execution_timeout", "not a duration"),
        ({"execution_timeout": 0}, "execution_timeout", "more than 0"),
        ({"execution_timeout": float("nan")}, "execution_timeout", "more than 0"),
        ({"queue_timeout": "31d"}, "queue_timeout", "30 days"),
        ({"queue_timeout": "9" * 400}, "queue_timeout", ""),
        ({"tags": {str(n): "" for n in range(33)}}, "tags", "32"),
        ({"tags": {"": "x"}}, "tags", "empty"),
        ({"tags": {"k" * 65: "x"}}, "tags", "64"),
        ({"tags": {"k": "x" * 257}}, "tags", "256"),
        ({"suite_id": "a/b"}, "suite_id", "URLs"),
        ({"suite_id": ".."}, "suite_id", "URLs"),
        ({"suite_id": "a\r\nb"}, "suite_id", "control"),
        ({"suite_id": "x" * 129}, "suite_id", "128"),
    ],
)
def test_what_cannot_be_accepted_is_refused_with_field_and_reason(
    fields: dict[str, Any], field: str, reason: str
) -> None:
    refused_field, refused_reason = refusal(**fields)
    assert refused_field == field
    assert reason in refused_reason


@pytest.mark.parametrize(
    "test",
    [
        "./-odd.js",
        "a b/ü>*.spec.js",
        "tests/..hidden/x.js",
        "a//b",
        "日本/テスト.js",
        "~root",
        "x" * 512,
    ],
)
def test_odd_but_harmless_paths_are_kept_exactly(test: str) -> None:
    assert spec_of(request(test=test)).test == test


def refused_field(asked: SubmitRequest) -> str | None:
    try:
        spec_of(asked)
    except InvalidInput as error:
        return error.field
    return None


@given(st.text(max_size=80), st.text(max_size=80))
def test_ids_are_kept_exactly_or_refused(org: str, target: str) -> None:
    asked = request(org_id=org, target=target)
    refused = refused_field(asked)
    assert refused in (None, "org_id", "target")
    if refused is None:
        spec = spec_of(asked)
        assert (spec.org_id, spec.target) == (org, target)
        assert subjects.parse_job_subject(subjects.slot_prefix(spec.slot) + ".submitted.p5") == (
            spec.slot,
            "submitted",
            5,
        )


@given(st.text(max_size=40))
def test_an_accepted_path_stays_inside_the_project_and_is_no_option(test: str) -> None:
    asked = request(test=test)
    refused = refused_field(asked)
    assert refused in (None, "test")
    if refused is None:
        assert spec_of(asked).test == test
        assert not test.startswith(("/", "-"))
        assert ".." not in test.split("/")
        assert not any(ord(c) < 32 for c in test)


def test_a_suite_is_tests_times_targets() -> None:
    suite = SuiteRequest(
        org_id="acme",
        app_version_id="1",
        targets=("emulator", "device"),
        tests=("a.js", "b.js"),
        priority=1,
    )
    jobs = jobs_of(suite, "s1")
    assert [(job.place("test"), job.request.target, job.request.test) for job in jobs] == [
        ("tests.0", "emulator", "a.js"),
        ("tests.1", "emulator", "b.js"),
        ("tests.0", "device", "a.js"),
        ("tests.1", "device", "b.js"),
    ]
    assert {(job.request.suite_id, job.request.priority) for job in jobs} == {("s1", 1)}
    assert [jobs[3].place(field) for field in ("target", "org_id")] == ["targets.1", "org_id"]
    assert (
        jobs_of(SuiteRequest(jobs=(request(), request())), "s1")[1].place("target")
        == "jobs.1.target"
    )


@pytest.mark.parametrize(
    ("suite", "field"),
    [
        (SuiteRequest(), "tests"),
        (SuiteRequest(jobs=(request(),), tests=("a.js",)), "jobs"),
        (SuiteRequest(jobs=(request(),) * (MAX_SUITE_JOBS + 1)), "jobs"),
        (SuiteRequest(tests=("a.js",) * 501, targets=("x", "y")), "tests"),
        (SuiteRequest(tests=("a.js",), target="x", targets=("y",)), "targets"),
        (SuiteRequest(jobs=(request(), request(suite_id="other"))), "jobs.1.suite_id"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused(suite: SuiteRequest, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        jobs_of(suite, "s1")
    assert caught.value.field == field


def test_idempotent_ids_depend_on_org_and_key_alone() -> None:
    assert idempotent_id("acme", "k") == idempotent_id("acme", "k")
    assert (
        len(
            {
                idempotent_id("acme", "k"),
                idempotent_id("acm", "ek"),
                idempotent_id("acme", "k2"),
                idempotent_id("acme1", "k"),
            }
        )
        == 4
    )


def test_the_hash_does_not_depend_on_the_order_of_tags() -> None:
    assert hash_of(request(tags={"a": "1", "b": "2"})) == hash_of(
        request(tags={"b": "2", "a": "1"})
    )
    assert hash_of(request(priority=1)) != hash_of(request(priority=2))
