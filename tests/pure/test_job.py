"""The fold: what the events of a slot add up to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from factories import NOW, spec
from qgjet.domain.decide import Cancel, EndAttempt, Requeue, Start, Submit
from qgjet.domain.events import (
    TERMINAL,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    CancelRequested,
    Event,
    FailedTest,
    Finished,
    FirstFailure,
    Outcome,
    Released,
    Requeued,
    Started,
    Status,
    Submitted,
    Verdict,
    event_type,
)
from qgjet.domain.job import (
    TRANSITIONS,
    Job,
    broken_rule,
    evolve,
    explanation_of,
    fold,
    state_of,
    status_of,
    verdict_of,
)
from strategies import Story, any_events, events_of, outcome, play, stories

WANTED = spec(job_id="job-1", suite_ids=("suite-1",))
SUBMIT = Submit(WANTED)
FRESH: dict[str, Any] = {
    "job_id": "job-1",
    "at": NOW,
    "ticket": 1,
    "retries_left": 3,
    "infra_retries_left": 3,
    "suite_ids": ("suite-1",),
}


def job_after(*commands: Any) -> Job:
    job = play(*commands).after
    assert job is not None
    return job


QUEUED = job_after(SUBMIT)
RUNNING = job_after(SUBMIT, Start(1, "agent-1"))
CANCELLING = job_after(SUBMIT, Start(1, "agent-1"), Cancel("operator"))
DONE = job_after(SUBMIT, Start(1, "agent-1"), EndAttempt("agent-1", 1, outcome("passed")))
FAILED = job_after(SUBMIT, Start(1, "agent-1"), EndAttempt("agent-1", 1, outcome("config_error")))
CANCELLED = job_after(SUBMIT, Cancel("operator"))
jobs = st.sampled_from([None, QUEUED, RUNNING, CANCELLING, DONE, FAILED, CANCELLED])


@st.composite
def nearly_legal_steps(draw: st.DrawFn) -> tuple[Job | None, Event]:
    """A state out of a real story, and the event that followed with one field changed."""
    accepted = [one for one in draw(stories(max_steps=10)) if one.event is not None]
    step = draw(st.sampled_from(accepted))
    changes = {
        "job_id": st.sampled_from(["job-1", "job-2", "job-9"]),
        "status": st.sampled_from(Status),
        "ticket": st.integers(0, 5),
        "attempt": st.integers(-1, 4),
        "retries_left": st.integers(-1, 4),
        "infra_retries_left": st.integers(-1, 4),
        "failures": st.integers(-1, 4),
        "agent": st.sampled_from(["", "agent-1", "agent-9"]),
        "cancel_requested": st.booleans(),
    }
    field = draw(st.sampled_from(sorted(changes)))
    assert step.event is not None
    return step.before, replace(step.event, **{field: draw(changes[field])})


# Any events


@given(st.lists(any_events, max_size=12))
def test_any_events_in_any_order_fold_without_error_and_always_alike(events: list[Event]) -> None:
    history = list(enumerate(events, 1))
    assert fold(history) == fold(history)


@given(st.lists(any_events, max_size=12), st.integers(0, 12))
def test_a_fold_may_stop_anywhere_and_go_on(events: list[Event], stop: int) -> None:
    history = list(enumerate(events, 1))
    assert fold(history[stop:], fold(history[:stop])) == fold(history)


@settings(max_examples=150)
@given(jobs, any_events)
def test_an_event_is_the_new_state_or_moves_only_the_version(job: Job | None, event: Event) -> None:
    ignored = None if job is None else replace(job, version=99)
    legal = broken_rule(job, event) is None
    assert evolve(job, event, 99) == (state_of(event, 99) if legal else ignored)


@settings(max_examples=150)
@given(nearly_legal_steps())
def test_only_legal_steps_move_a_job(step: tuple[Job | None, Event]) -> None:
    job, event = step
    if broken_rule(job, event) is not None:
        return
    assert event.status in TRANSITIONS[event_type(event)][job and job.status]
    if isinstance(event, Submitted):
        assert event.replaces == (job.job_id if job and job.live else "")
        assert (
            event.ticket,
            event.attempt,
            event.failures,
            event.agent,
            event.cancel_requested,
        ) == (0, 0, 0, "", False)
        return
    assert job is not None
    assert job.live
    assert event.job_id == job.job_id
    assert event.ticket == (0 if isinstance(event, Requeued) else job.ticket)
    assert event.attempt == job.attempt + isinstance(event, Started)
    assert 0 <= event.retries_left <= job.retries_left
    assert 0 <= event.infra_retries_left <= job.infra_retries_left
    assert event.failures >= job.failures
    assert bool(event.agent) == (event.status is Status.RUNNING)


@given(
    st.sampled_from([DONE, FAILED, CANCELLED]),
    st.lists(any_events.filter(lambda event: not isinstance(event, Submitted)), max_size=8),
)
def test_a_finished_job_stays_finished_until_the_next_submission(
    job: Job, events: list[Event]
) -> None:
    assert fold(enumerate(events, 10), job) == replace(
        job, version=9 + len(events) if events else job.version
    )


@given(st.lists(any_events, max_size=12))
def test_nothing_stands_in_a_slot_before_its_first_submission(events: list[Event]) -> None:
    started = any(isinstance(event, Submitted) for event in events)
    assert started or fold(enumerate(events, 1)) is None


# Real histories


@given(stories())
def test_the_last_event_of_a_history_is_its_whole_state(story: Story) -> None:
    history = events_of(story)
    for length in range(1, len(history) + 1):
        seq, event = history[length - 1]
        assert fold(history[:length]) == state_of(event, seq)


@given(stories())
def test_status_and_verdict_agree(story: Story) -> None:
    for one in story:
        job = one.after
        assert job is not None
        assert (job.verdict is None) == job.live
        assert job.verdict is None or status_of(job.verdict) is job.status


@given(stories(), any_events)
def test_an_event_about_another_job_is_stepped_over(story: Story, event: Event) -> None:
    history = events_of(story)
    job = fold(history)
    assert job is not None
    foreign = replace(
        event, job_id="another", **({"replaces": "another"} if isinstance(event, Submitted) else {})
    )
    assert evolve(job, foreign, job.version + 1) == replace(job, version=job.version + 1)


# One example per rule


def test_a_submission_fills_an_empty_slot() -> None:
    event = Submitted(**FRESH | {"ticket": 0}, status=Status.QUEUED, spec=WANTED)
    assert fold([(7, event)]) == Job(
        job_id="job-1",
        status=Status.QUEUED,
        verdict=None,
        ticket=7,
        version=7,
        attempt=0,
        retries_left=3,
        infra_retries_left=3,
        failures=0,
        suite_ids=("suite-1",),
        agent="",
        cancel_requested=False,
        retry_at=None,
    )


def test_a_requeued_job_has_a_new_ticket() -> None:
    event = Requeued(
        **FRESH | {"ticket": 0}, status=Status.QUEUED, spec=WANTED, reason="reprioritised"
    )
    assert evolve(QUEUED, event, 8) == replace(QUEUED, ticket=8, version=8)


def test_a_started_job_runs_on_its_agent() -> None:
    event = Started(**FRESH, status=Status.RUNNING, attempt=1, agent="agent-1")
    assert evolve(QUEUED, event, 8) == replace(
        QUEUED, status=Status.RUNNING, attempt=1, agent="agent-1", version=8
    )


def test_an_ended_attempt_goes_back_to_the_queue_and_waits() -> None:
    later = NOW + timedelta(seconds=2)
    event = AttemptEnded(
        **FRESH | {"retries_left": 2},
        status=Status.QUEUED,
        attempt=1,
        failures=1,
        outcome=outcome("failed"),
        retry_at=later,
    )
    assert evolve(RUNNING, event, 8) == replace(
        RUNNING,
        status=Status.QUEUED,
        agent="",
        retries_left=2,
        failures=1,
        retry_at=later,
        version=8,
    )


def test_a_finished_job_has_its_verdict() -> None:
    event = Finished(
        **FRESH, status=Status.DONE, attempt=1, verdict=Verdict.FLAKY, outcome=outcome("passed")
    )
    assert evolve(RUNNING, event, 8) == replace(
        RUNNING, status=Status.DONE, agent="", verdict=Verdict.FLAKY, version=8
    )


def test_a_replacing_submission_ends_the_live_job() -> None:
    event = Submitted(
        **FRESH | {"ticket": 0, "job_id": "job-2"},
        status=Status.QUEUED,
        spec=spec(job_id="job-2"),
        replaces="job-1",
    )
    assert evolve(RUNNING, event, 8) == replace(QUEUED, job_id="job-2", ticket=8, version=8)


SUBMITTED: dict[str, Any] = {**FRESH, "ticket": 0, "status": Status.QUEUED, "spec": WANTED}
STARTED: dict[str, Any] = {**FRESH, "status": Status.RUNNING, "attempt": 1, "agent": "agent-1"}


@pytest.mark.parametrize(
    ("job", "event", "rule"),
    [
        (None, Started(**STARTED), "started cannot lead from an empty slot to running"),
        (DONE, Started(**STARTED), "started cannot lead from done to running"),
        (RUNNING, Started(**STARTED), "started cannot lead from running to running"),
        (
            QUEUED,
            Submitted(**SUBMITTED | {"job_id": "job-2"}),
            "submitted replaces '', the live job is 'job-1'",
        ),
        (
            QUEUED,
            Submitted(**SUBMITTED | {"job_id": "job-2"}, replaces="job-3"),
            "submitted replaces 'job-3', the live job is 'job-1'",
        ),
        (
            DONE,
            Submitted(**SUBMITTED | {"job_id": "job-2"}, replaces="job-1"),
            "submitted replaces 'job-1', the live job is ''",
        ),
        (DONE, Submitted(**SUBMITTED), "submitted twice under one id"),
        (None, Submitted(**SUBMITTED, attempt=1), "submitted with a past"),
        (None, Submitted(**SUBMITTED, unresolved=(FailedTest(id="a"),)), "submitted with a past"),
        (None, Submitted(**SUBMITTED, unresolved_omitted=1), "submitted with a past"),
        (
            None,
            Submitted(**SUBMITTED, first_failure=FirstFailure(attempt=1, verdict=Verdict.FAILED)),
            "submitted with a past",
        ),
        (QUEUED, Started(**STARTED | {"unresolved_omitted": -1}), "it counts below zero"),
        (QUEUED, Started(**STARTED | {"job_id": "job-2"}), "it is about another job"),
        (QUEUED, Started(**STARTED | {"ticket": 5}), "it holds another ticket"),
        (QUEUED, Requeued(**SUBMITTED | {"ticket": 1}, reason="x"), "it holds another ticket"),
        (QUEUED, Started(**STARTED | {"attempt": 2}), "it is about attempt 2, not 1"),
        (QUEUED, Started(**STARTED | {"retries_left": 4}), "retries can only be spent"),
        (QUEUED, Started(**STARTED | {"retries_left": -1}), "retries can only be spent"),
        (QUEUED, Started(**STARTED | {"infra_retries_left": 4}), "infra retries can only be spent"),
        (
            QUEUED,
            Started(**STARTED | {"infra_retries_left": -1}),
            "infra retries can only be spent",
        ),
        (QUEUED, Started(**STARTED | {"failures": -1}), "failures are not forgotten"),
        (
            QUEUED,
            Started(**STARTED | {"agent": ""}),
            "an agent stands on running jobs, and only there",
        ),
        (
            RUNNING,
            Finished(
                **STARTED | {"status": Status.DONE},
                verdict=Verdict.PASSED,
                outcome=outcome("passed"),
            ),
            "an agent stands on running jobs, and only there",
        ),
        (
            RUNNING,
            Finished(
                **STARTED | {"status": Status.DONE, "agent": ""},
                verdict=Verdict.FAILED,
                outcome=outcome("failed"),
            ),
            "status and verdict disagree",
        ),
    ],
)
def test_an_illegal_event_breaks_a_rule_and_moves_only_the_version(
    job: Job | None, event: Event, rule: str
) -> None:
    assert broken_rule(job, event) == rule
    assert evolve(job, event, 50) == (None if job is None else replace(job, version=50))


@pytest.mark.parametrize(
    ("job", "event"),
    [
        (
            RUNNING,
            AttemptEnded(**FRESH, attempt=1, status=Status.CANCELLED, outcome=outcome("failed")),
        ),
        (RUNNING, AttemptLost(**FRESH, attempt=1, status=Status.CANCELLED, lost_agent="agent-1")),
    ],
    ids=["attempt_ended", "attempt_lost"],
)
def test_an_attempt_that_nobody_asked_to_cancel_cannot_end_the_job_as_cancelled(
    job: Job, event: Event
) -> None:
    assert evolve(job, event, 50) == replace(job, version=50)


@pytest.mark.parametrize(
    "event",
    [
        AttemptEnded(**FRESH, attempt=1, status=Status.QUEUED, outcome=outcome("failed")),
        AttemptLost(**FRESH, attempt=1, status=Status.QUEUED, lost_agent="agent-1"),
        Released(**FRESH, attempt=1, status=Status.QUEUED, reason="drained"),
    ],
    ids=event_type,
)
def test_a_job_being_cancelled_cannot_go_back_to_the_queue(event: Event) -> None:
    for forgotten in (event, replace(event, cancel_requested=True)):
        assert evolve(CANCELLING, forgotten, 50) == replace(CANCELLING, version=50)


def test_a_request_to_cancel_says_so_and_leaves_the_agent() -> None:
    asked = CancelRequested(**STARTED, cancel_requested=True)
    assert evolve(RUNNING, asked, 50) == replace(RUNNING, cancel_requested=True, version=50)
    for foreign in (replace(asked, cancel_requested=False), replace(asked, agent="agent-9")):
        assert evolve(RUNNING, foreign, 50) == replace(RUNNING, version=50)


@pytest.mark.parametrize("budget", ["retries_left", "infra_retries_left"])
def test_a_submission_cannot_start_in_debt(budget: str) -> None:
    assert evolve(None, Submitted(**SUBMITTED | {budget: -1}), 1) is None


@pytest.mark.parametrize(
    ("commands", "repeated"),
    [
        ((SUBMIT,), Submitted),
        ((SUBMIT, Start(1, "agent-1")), Started),
        ((SUBMIT, Start(1, "agent-1"), EndAttempt("agent-1", 1, outcome("failed"))), AttemptEnded),
        ((SUBMIT, Start(1, "agent-1"), EndAttempt("agent-1", 1, outcome("passed"))), Finished),
        ((SUBMIT, Cancel("operator")), CancelRequested),
        (
            (
                SUBMIT,
                Start(1, "agent-1"),
                Cancel("operator"),
                EndAttempt("agent-1", 1, outcome("cancelled")),
            ),
            Cancelled,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_event_told_twice_changes_nothing(
    commands: tuple[Any, ...], repeated: type[Event]
) -> None:
    last = play(*commands)
    assert isinstance(last.event, repeated)
    assert last.after is not None
    assert evolve(last.after, last.event, 50) == replace(last.after, version=50)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_leads_to_a_final_status(verdict: Verdict) -> None:
    assert status_of(verdict) in TERMINAL


def test_a_job_cancelled_in_any_way_has_the_verdict_cancelled() -> None:
    ended = AttemptEnded(**FRESH, status=Status.CANCELLED, attempt=1, outcome=outcome("failed"))
    assert verdict_of(ended) is Verdict.CANCELLED
    assert verdict_of(replace(ended, status=Status.QUEUED)) is None


def test_the_ticket_of_a_requeued_job_is_the_new_message() -> None:
    requeued = play(SUBMIT, Requeue(WANTED, "nothing delivers it", "janitor"))
    assert requeued.after == replace(QUEUED, ticket=2, version=2)


OUTCOME = Outcome(verdict=Verdict.PASSED, reason="all_skipped", message="of the attempt")


@pytest.mark.parametrize(
    ("event", "explanation"),
    [
        (Submitted(**SUBMITTED), ("", "")),
        (Started(**STARTED), ("", "")),
        (
            AttemptEnded(**FRESH, status=Status.QUEUED, outcome=OUTCOME),
            ("all_skipped", "of the attempt"),
        ),
        (
            Finished(**FRESH, status=Status.DONE, verdict=Verdict.PASSED, outcome=OUTCOME),
            ("all_skipped", "of the attempt"),
        ),
        (
            Finished(
                **FRESH,
                status=Status.DONE,
                verdict=Verdict.FLAKY,
                outcome=OUTCOME,
                reason="flaky",
                message="first",
            ),
            ("flaky", "first"),
        ),
        (
            Finished(
                **FRESH, status=Status.DONE, verdict=Verdict.FLAKY, outcome=OUTCOME, reason="flaky"
            ),
            ("flaky", ""),
        ),
        (
            Released(**FRESH, status=Status.QUEUED, reason="prepare_failed", message="no device"),
            ("prepare_failed", "no device"),
        ),
        (AttemptLost(**FRESH, status=Status.QUEUED, lost_agent="a"), ("lease_expired", "")),
        (CancelRequested(**FRESH, status=Status.CANCELLED, reason="obsolete"), ("obsolete", "")),
        (Requeued(**SUBMITTED, reason="reprioritised"), ("reprioritised", "")),
        (
            Cancelled(**FRESH, status=Status.CANCELLED, outcome=OUTCOME),
            ("all_skipped", "of the attempt"),
        ),
        (Cancelled(**FRESH, status=Status.CANCELLED), None),
    ],
    ids=lambda value: event_type(value) if isinstance(value, Event) else "",
)
def test_the_reason_of_a_job_is_that_of_its_last_event_or_of_the_outcome_in_it(
    event: Event, explanation: tuple[str, str] | None
) -> None:
    assert explanation_of(event) == explanation
