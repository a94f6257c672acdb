"""Events as bytes. `tests/golden/` holds one file per event, as it was once written; the files are
never edited, new shapes get new files.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from factories import NOW
from qgjet.domain import events
from qgjet.domain.codec import decode, encode
from qgjet.domain.events import (
    EVENT_TYPES,
    Artifact,
    Attached,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    CancelRequested,
    Detached,
    Event,
    Finished,
    JobSpec,
    Outcome,
    Released,
    Requeued,
    Started,
    Status,
    Submitted,
    Try,
    Verdict,
    event_type,
)
from qgjet.errors import QgjetError, UndecodableEvent
from strategies import outcome, stored_events

GOLDEN = Path(__file__).parent.parent / "golden"
LATER = NOW + timedelta(seconds=1.5)
FULL_SPEC = JobSpec(
    job_id="0b6d1f0e-6a53-4b6c-9d0e-3f1f8f3c2a11",
    org_id="acme",
    app_version_id="xyz123",
    target="emulator",
    test="tests/onboarding.spec.js",
    priority=7,
    rank=2,
    max_retries=4,
    infra_retries=2,
    execution_timeout_s=600.0,
    queue_timeout_s=3600.5,
    submitted_at=NOW,
    submitted_by="ci@acme",
    suite_ids=("suite-1", "suite-2"),
    tags={"branch": "main", "\u00fcber": "\u2713"},
    request_hash="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    rerun_of="5f3e8a52-0c2d-4d5c-8b8a-1c6f6b8f0d01",
)
FULL_OUTCOME = Outcome(
    verdict=Verdict.FAILED,
    reason="tests_failed",
    message="1 of 2 tests failed",
    exit_code=1,
    signal="SIGTERM",
    duration_s=12.25,
    tests=(
        events.TestResult(
            id="a1b2",
            title="onboarding > shows the welcome page",
            file="tests/onboarding.spec.js",
            line=12,
            outcome="failed",
            tries=(
                Try(
                    status="failed",
                    duration_s=3.5,
                    error=events.TestError(
                        message="expected \u201cWelcome\u201d",
                        file="tests/onboarding.spec.js",
                        line=15,
                    ),
                ),
                Try(
                    status="timed_out",
                    duration_s=8.0,
                    error=events.TestError(message="Test timeout of 8000ms exceeded."),
                ),
            ),
        ),
        events.TestResult(
            id="c3d4",
            title="onboarding > can be skipped",
            outcome="passed",
            tries=(Try(status="passed", duration_s=0.75),),
        ),
    ),
    tests_omitted=3,
    artifacts=(
        Artifact(
            name="video.webm",
            content_type="video/webm",
            size=1048576,
            sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
    ),
)
STATE: dict[str, Any] = {
    "job_id": FULL_SPEC.job_id,
    "at": NOW,
    "ticket": 41,
    "attempt": 2,
    "retries_left": 3,
    "infra_retries_left": 1,
    "failures": 1,
    "suite_ids": FULL_SPEC.suite_ids,
    "by": "agent-7f",
}
WAITED_FOR: dict[str, Any] = {
    "attached": ("suite-3", "*"),
    "detached": ("suite-1",),
    "execution_timeout_s": 30.0,
}
STORED: tuple[Event, ...] = (
    Submitted(
        **STATE | {"ticket": 0, "attempt": 0, "failures": 0, "by": "ci@acme"},
        status=Status.QUEUED,
        spec=FULL_SPEC,
        replaces="c0ffee00-job",
    ),
    Requeued(
        **STATE | {"ticket": 0},
        status=Status.QUEUED,
        spec=FULL_SPEC,
        reason="reprioritised",
        retry_at=LATER,
    ),
    Started(**STATE, status=Status.RUNNING, agent="agent-7f", device="emulator-5554", warm=True),
    AttemptEnded(**STATE, status=Status.QUEUED, outcome=FULL_OUTCOME, retry_at=LATER),
    Released(
        **STATE,
        status=Status.QUEUED,
        reason="prepare_failed",
        message="no device came up",
        retry_at=LATER,
    ),
    AttemptLost(
        **STATE,
        status=Status.CANCELLED,
        cancel_requested=True,
        lost_agent="agent-7e",
        reason="agent_gone",
    ),
    Finished(**STATE, status=Status.FAILED, verdict=Verdict.FAILED, outcome=FULL_OUTCOME),
    CancelRequested(
        **STATE, status=Status.RUNNING, agent="agent-7f", cancel_requested=True, reason="obsolete"
    ),
    Attached(
        **STATE | WAITED_FOR,
        status=Status.QUEUED,
        tags={"branch": "main"},
        queue_timeout_s=60.0,
        retry_at=LATER,
    ),
    Detached(
        **STATE | WAITED_FOR,
        status=Status.RUNNING,
        agent="agent-7f",
        suite_id="suite-1",
        reason="interrupted",
    ),
    Cancelled(**STATE, status=Status.CANCELLED, cancel_requested=True, outcome=FULL_OUTCOME),
)

UNRESOLVED = {
    "failures": 2,
    "unresolved": (
        events.FailedTest(
            id="a1b2",
            title="onboarding > shows the welcome page",
            message="expected \u201cWelcome\u201d",
            attempt=1,
        ),
        events.FailedTest(id="e5f6", attempt=2),
    ),
    "unresolved_omitted": 3,
    "first_failure": events.FirstFailure(
        attempt=1, verdict=Verdict.FAILED, reason="tests_failed", message="1 of 2 tests failed"
    ),
}
NOT_PASSED_AGAIN = {
    "reason": "not_passed_again",
    "message": "onboarding > shows the welcome page: failed in attempt 1",
}
OVER_ATTEMPTS: dict[str, Event] = {
    "started": Started(
        **STATE | UNRESOLVED, status=Status.RUNNING, agent="agent-7f", device="emulator-5554"
    ),
    "attempt_ended": AttemptEnded(**STATE | UNRESOLVED, status=Status.QUEUED, outcome=FULL_OUTCOME),
    "finished": Finished(
        **STATE | UNRESOLVED,
        status=Status.FAILED,
        verdict=Verdict.FAILED,
        outcome=outcome("passed"),
        **NOT_PASSED_AGAIN,
    ),
    "final": Finished(
        **STATE,
        status=Status.FAILED,
        verdict=Verdict.FAILED,
        outcome=replace(outcome("failed"), final=True),
    ),
}
"""Shapes that came later, with verdicts over attempts: `tests/golden/over-attempts/`."""

# What was stored stays readable


@pytest.mark.parametrize("name", OVER_ATTEMPTS)
def test_what_is_stored_of_failures_over_attempts_is_read_and_written_as_it_was(name: str) -> None:
    stored = (GOLDEN / "over-attempts" / f"{name}.json").read_bytes()
    assert decode(stored) == OVER_ATTEMPTS[name]
    assert json.loads(encode(OVER_ATTEMPTS[name])) == json.loads(stored)


@pytest.mark.parametrize("event", STORED, ids=event_type)
def test_a_stored_event_is_read_as_it_was_meant(event: Event) -> None:
    assert decode((GOLDEN / f"{event_type(event)}.json").read_bytes()) == event


@pytest.mark.parametrize("event", STORED, ids=event_type)
def test_an_event_is_written_as_it_was_stored(event: Event) -> None:
    assert json.loads(encode(event)) == json.loads(
        (GOLDEN / f"{event_type(event)}.json").read_text(encoding="utf-8")
    )


def test_there_is_one_golden_file_for_each_event() -> None:
    assert {path.name for path in GOLDEN.glob("*.json")} == {
        f"{event_type(kind)}.json" for kind in EVENT_TYPES
    }
    assert {type(event) for event in STORED} == set(EVENT_TYPES)


@pytest.mark.parametrize("event", STORED, ids=event_type)
def test_an_event_without_what_later_versions_added_is_read_with_defaults(event: Event) -> None:
    required = {one.encode_name for one in msgspec.structs.fields(event) if one.required}
    stored = json.loads(encode(event))
    assert type(
        decode(_json({key: value for key, value in stored.items() if key in required | {"type"}}))
    ) is type(event)


# Round trip


@settings(max_examples=100)
@given(stored_events)
def test_every_event_comes_back_as_it_was_written(event: Event) -> None:
    assert decode(encode(event)) == event


@settings(max_examples=20)
@given(stored_events)
def test_an_event_is_json_with_its_type_in_it(event: Event) -> None:
    assert json.loads(encode(event))["type"] == event_type(event)


@given(
    stored_events,
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map("x_".__add__),
        st.integers() | st.text("ab") | st.none(),
        max_size=3,
    ),
)
def test_fields_of_a_newer_version_are_ignored(event: Event, newer: dict[str, Any]) -> None:
    assert decode(_json({**json.loads(encode(event)), **newer})) == event


FINISHED = Finished(
    job_id="job-1", at=NOW, status=Status.DONE, verdict=Verdict.PASSED, outcome=outcome("passed")
)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_hold_is_not_written(seconds: float) -> None:
    with pytest.raises(QgjetError):
        encode(replace(FINISHED, outcome=replace(FINISHED.outcome, duration_s=seconds)))


@pytest.mark.parametrize("field", ["job_id", "by"])
def test_half_a_surrogate_pair_is_not_written(field: str) -> None:
    with pytest.raises((QgjetError, UnicodeEncodeError)):
        encode(replace(FINISHED, **{field: "half an emoji \ud83d"}))


# What cannot be read


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _stored(**changes: Any) -> bytes:
    """A `started` event with fields changed; ... takes one away."""
    fields = {
        "type": "started",
        "job_id": "job-1",
        "at": "2026-01-02T03:04:05Z",
        "status": "running",
    } | changes
    return _json({key: value for key, value in fields.items() if value is not ...})


def test_the_smallest_event_can_be_read() -> None:
    assert decode(_stored()) == Started(job_id="job-1", at=NOW, status=Status.RUNNING)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'"started"',
        b"\xff\xfe",
        b'{"type":"started","job_id":"\xff"}',
        _stored(type="teleported"),
        _stored(type=1),
        _stored(type=...),
        _stored(job_id=...),
        _stored(job_id=7),
        _stored(status="paused"),
        _stored(status=None),
        _stored(attempt="1"),
        _stored(attempt=1.5),
        _stored(suite_ids="suite-1"),
        _stored(suite_ids=[1]),
        _stored(warm=1),
        _stored(at="2026-01-02T03:04:05"),
        _stored(at="2026-01-02"),
        _stored(at="2026-13-02T03:04:05Z"),
        _stored(at=1767322800),
        _stored(at=None),
        _stored(type="finished", verdict="passed"),
        _stored(type="finished", verdict="great", outcome={"verdict": "passed"}),
        _stored(
            type="finished", verdict="passed", outcome={"verdict": "passed", "duration_s": None}
        ),
        _stored(type="submitted", spec={"job_id": "job-1"}),
        _stored()[:-1],
        _stored() + b"}",
        b'{"type":"started","job_id":"\\ud800"}',
        b"[" * 100_000,
        _stored(newer=...)[:-1] + b',"newer":' + b"[" * 100_000,
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_no_event_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableEvent):
        decode(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_an_event_or_undecodable(data: bytes) -> None:
    _reads_or_refuses(data)


@given(stored_events.map(encode), st.data())
def test_a_damaged_event_is_an_event_or_undecodable(data: bytes, damage: st.DataObject) -> None:
    at = damage.draw(st.integers(0, len(data)))
    _reads_or_refuses(
        data[:at] + damage.draw(st.binary(max_size=2)) + data[at + damage.draw(st.integers(0, 3)) :]
    )


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.datetimes().map(str),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["verdict", "job_id", "tests", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(stored_events.map(encode).map(json.loads), _values, st.data())
@example({"type": "started"}, None, None)
def test_an_event_with_a_field_of_any_shape_is_an_event_or_undecodable(
    fields: dict[str, Any], value: Any, data: st.DataObject | None
) -> None:
    field = data.draw(st.sampled_from(sorted(fields))) if data else "type"
    _reads_or_refuses(_json(fields | {field: value}))


def _reads_or_refuses(data: bytes) -> None:
    try:
        event = decode(data)
    except UndecodableEvent:
        return
    assert type(event) in EVENT_TYPES
    assert event.at.tzinfo is not None
