"""What may happen to a job: every rule as one example, and as a property of any story."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from factories import NOW, spec
from qgjet.domain.attempts import MAX_DETAILED, MAX_UNRESOLVED_BYTES, first_failure_of
from qgjet.domain.codec import encode
from qgjet.domain.decide import (
    DRAINED,
    Cancel,
    Command,
    EndAttempt,
    Expire,
    Lose,
    NotYet,
    OnDuplicate,
    Release,
    Requeue,
    Start,
    Submit,
)
from qgjet.domain.events import (
    INCONCLUSIVE,
    PASSING,
    AttemptEnded,
    AttemptLost,
    Cancelled,
    CancelRequested,
    Event,
    FailedTest,
    Finished,
    FirstFailure,
    JobEvent,
    Outcome,
    Released,
    Requeued,
    Started,
    Status,
    Submitted,
    TestError,
    TestResult,
    Try,
    Verdict,
)
from qgjet.domain.job import Job, broken_rule, evolve, status_of
from qgjet.domain.retry import SPENDS_USER_RETRY
from qgjet.errors import Conflict, DuplicateJob, StaleDelivery
from strategies import Story, outcome, play, step, stories

WANTED = spec(job_id="job-1", suite_ids=("suite-1",), submitted_by="ci")
SUBMIT = Submit(WANTED)
START = Start(1, "agent-1", "emulator-5554", warm=True)
DRAIN = Release("agent-1", 1, 1, DRAINED)
GIVE_UP = Expire(1, "max_deliveries", "nothing delivers it any more", "janitor", even_started=True)
STATE: dict[str, Any] = {
    "job_id": "job-1",
    "at": NOW,
    "ticket": 1,
    "retries_left": 3,
    "infra_retries_left": 3,
    "suite_ids": ("suite-1",),
}
RAN = STATE | {"attempt": 1, "by": "agent-1"}
FAILED_ONCE: dict[str, Any] = {
    "retries_left": 2,
    "failures": 1,
    "first_failure": FirstFailure(attempt=1, verdict=Verdict.FAILED),
}
BAD = ("failed", "timed_out", "interrupted")


def end(verdict: str, retry_in_s: float = 0.0, attempt: int = 1) -> EndAttempt:
    return EndAttempt("agent-1", attempt, outcome(verdict), retry_in_s)


def event_of(*commands: Command) -> Event | None:
    """The event that the last command leads to."""
    return play(*commands).event


def refusal_of(*commands: Command) -> Conflict | None:
    return play(*commands).refusal


def jobs_of(story: Story) -> dict[str, list[Event]]:
    """The events of each job that was ever in the slot."""
    jobs: dict[str, list[Event]] = defaultdict(list)
    for one in story:
        if one.event is not None:
            jobs[one.event.job_id].append(one.event)
    return jobs


# Any story


@given(stories())
def test_every_decided_event_is_legal_and_is_the_state_that_follows(story: Story) -> None:
    for one in story:
        if one.event is not None:
            assert broken_rule(one.before, one.event) is None
            assert evolve(one.before, one.event, one.seq) == one.after


@given(stories(max_steps=8))
def test_deciding_twice_gives_the_same_event(story: Story) -> None:
    for one in story:
        assert step(one.command, one.before, one.now, one.seq).event == one.event


@given(stories())
def test_attempts_are_numbered_without_gaps(story: Story) -> None:
    for events in jobs_of(story).values():
        numbers = [event.attempt for event in events if isinstance(event, Started)]
        assert numbers == list(range(1, len(numbers) + 1))


@given(stories())
def test_an_event_spends_one_retry_at_most_and_never_gives_one_back(story: Story) -> None:
    for one in story:
        if one.event is None or one.before is None or isinstance(one.event, Submitted):
            continue
        spent = (
            one.before.retries_left - one.event.retries_left,
            one.before.infra_retries_left - one.event.infra_retries_left,
        )
        assert spent in {(0, 0), (1, 0), (0, 1)}
        assert min(one.event.retries_left, one.event.infra_retries_left) >= 0


@given(stories(max_steps=40))
def test_a_job_runs_no_more_often_than_its_budgets_and_drains_allow(story: Story) -> None:
    for events in jobs_of(story).values():
        asked_for = next(event.spec for event in events if isinstance(event, Submitted))
        drains = sum(isinstance(event, Released) and event.reason == DRAINED for event in events)
        started = sum(isinstance(event, Started) for event in events)
        assert started <= 1 + asked_for.max_retries + asked_for.infra_retries + drains


@given(
    st.integers(0, 10),
    st.integers(0, 10),
    st.lists(
        st.sampled_from(["failed", "timed_out", "infra_error", "lost"]), min_size=21, max_size=21
    ),
)
def test_a_job_that_never_passes_ends_when_a_budget_is_gone(
    retries: int, infra_retries: int, ways: list[str]
) -> None:
    job = play(Submit(spec(max_retries=retries, infra_retries=infra_retries))).after
    spent = {True: 0, False: 0}
    for attempt, way in enumerate(ways, 1):
        job = step(Start(1, "agent-1"), job, NOW, 2 * attempt).after
        job = step(
            Lose("agent-1", attempt, "agent-2") if way == "lost" else end(way, attempt=attempt),
            job,
            NOW,
            2 * attempt + 1,
        ).after
        spent[way in SPENDS_USER_RETRY] += 1
        assert job is not None
        assert job.live == (spent[True] <= retries and spent[False] <= infra_retries)
        if not job.live:
            return
    raise AssertionError("21 attempts and still alive")


@given(stories())
def test_the_status_follows_from_the_verdict(story: Story) -> None:
    for one in story:
        if isinstance(one.event, Finished):
            assert one.event.status is status_of(one.event.verdict)
            changed = one.event.outcome.verdict in PASSING and one.event.verdict in (
                Verdict.FLAKY,
                Verdict.FAILED,
            )
            changed |= (
                one.event.outcome.verdict in INCONCLUSIVE
                and one.event.verdict is Verdict.FAILED
                and one.event.failures > 0
            )
            assert one.event.outcome.verdict is one.event.verdict or changed


@given(stories())
def test_a_config_error_is_never_retried(story: Story) -> None:
    for one in story:
        if (
            isinstance(one.command, EndAttempt)
            and one.command.outcome.verdict is Verdict.CONFIG_ERROR
            and one.event is not None
        ):
            assert isinstance(one.event, Finished)
            verdict = Verdict.FAILED if one.event.failures else Verdict.CONFIG_ERROR
            assert (one.event.status, one.event.verdict) == (Status.FAILED, verdict)


@given(stories())
def test_flaky_is_what_passes_after_a_failed_attempt_or_says_so_itself(story: Story) -> None:
    for events in jobs_of(story).values():
        failed = any(
            isinstance(event, AttemptEnded) and event.outcome.verdict in SPENDS_USER_RETRY
            for event in events
        )
        last = events[-1]
        if isinstance(last, Finished) and last.outcome.verdict in {Verdict.PASSED, Verdict.FLAKY}:
            flaky = failed or last.outcome.verdict is Verdict.FLAKY
            assert last.verdict is (
                Verdict.FAILED
                if not_passed_since(events)
                else Verdict.FLAKY
                if flaky
                else Verdict.PASSED
            )


def not_passed_since(events: list[Event]) -> set[str]:
    """Test cases that failed in an attempt and passed in none after it, found without the code
    under test.
    """
    outcomes = [event.outcome for event in events if isinstance(event, AttemptEnded | Finished)]
    conclusive = [one for one in outcomes if one.verdict in PASSING | SPENDS_USER_RETRY]
    bad = [
        (at, test.id)
        for at, one in enumerate(conclusive)
        if one.verdict in SPENDS_USER_RETRY
        for test in one.tests
        if test.outcome in BAD
    ]
    passed = [
        (at, test.id)
        for at, one in enumerate(conclusive)
        for test in one.tests
        if test.outcome in ("passed", "flaky")
    ]
    return {
        test_id
        for failed_at, test_id in bad
        if not any(at > failed_at and test_id == same for at, same in passed)
    }


@given(stories(max_steps=40))
def test_a_job_is_passing_only_if_every_test_case_that_failed_has_passed_since(
    story: Story,
) -> None:
    for events in jobs_of(story).values():
        last = events[-1]
        assert {one.id for one in last.unresolved} == not_passed_since(events)
        if isinstance(last, Finished) and last.verdict in PASSING:
            assert not last.unresolved


@given(stories())
def test_the_first_failure_is_that_of_the_first_attempt_that_failed(story: Story) -> None:
    for events in jobs_of(story).values():
        first: FirstFailure | None = None
        for event in events:
            if (
                isinstance(event, AttemptEnded | Finished)
                and event.outcome.verdict in SPENDS_USER_RETRY
            ):
                first = first or first_failure_of(event.outcome, event.attempt)
            assert event.first_failure == first


@given(stories())
def test_a_job_has_a_reason_of_its_own_exactly_if_earlier_attempts_decide(story: Story) -> None:
    for one in story:
        if isinstance(one.event, Finished):
            decided = one.event.outcome.verdict in PASSING | INCONCLUSIVE and one.event.failures > 0
            assert bool(one.event.reason) == bool(one.event.message) == decided


@given(stories())
def test_a_final_outcome_ends_the_job_with_its_verdict(story: Story) -> None:
    for one in story:
        if (
            isinstance(one.command, EndAttempt)
            and one.command.outcome.final
            and one.event is not None
        ):
            assert isinstance(one.event, Finished)
            assert one.before is not None
            assert one.event.verdict is one.command.outcome.verdict
            assert (one.event.retries_left, one.event.infra_retries_left) == (
                one.before.retries_left,
                one.before.infra_retries_left,
            )


@given(stories())
def test_failures_count_the_attempts_that_failed_or_timed_out(story: Story) -> None:
    for events in jobs_of(story).values():
        failed = 0
        for event in events:
            failed += (
                isinstance(event, AttemptEnded | Finished)
                and event.outcome.verdict in SPENDS_USER_RETRY
            )
            assert event.failures == failed


@given(stories())
def test_draining_is_free(story: Story) -> None:
    for one in story:
        if (
            isinstance(one.command, Release)
            and one.command.reason == DRAINED
            and one.event is not None
        ):
            assert one.before is not None
            assert isinstance(one.event, Released | Cancelled)
            assert _budgets(one.event) == _budgets(one.before)


def _budgets(state: JobEvent | Job) -> tuple[int, int, int]:
    return state.retries_left, state.infra_retries_left, state.failures


@given(stories())
def test_a_cancelled_job_never_runs_again(story: Story) -> None:
    for events in jobs_of(story).values():
        asked = next(
            (at for at, event in enumerate(events) if isinstance(event, CancelRequested)),
            len(events),
        )
        assert not [
            event
            for event in events[asked:]
            if isinstance(event, Started) or event.status is Status.QUEUED
        ]


@given(stories())
def test_a_cancelled_job_was_asked_to_be(story: Story) -> None:
    for events in jobs_of(story).values():
        asked = any(isinstance(event, CancelRequested) for event in events)
        assert asked or all(event.status is not Status.CANCELLED for event in events)


@given(stories())
def test_a_stale_ticket_neither_starts_nor_ends_nor_releases_a_job(story: Story) -> None:
    for one in story:
        if (
            isinstance(one.command, Start | Expire | Release)
            and one.before is not None
            and one.command.ticket != one.before.ticket
        ):
            assert one.refusal is not None


@given(stories())
def test_only_the_agent_that_runs_an_attempt_ends_or_loses_it(story: Story) -> None:
    for one in story:
        if isinstance(one.command, EndAttempt | Lose) and one.event is not None:
            assert one.before is not None
            assert (one.before.agent, one.before.attempt) == (
                one.command.agent,
                one.command.attempt,
            )


@given(stories())
def test_nothing_but_a_submission_follows_the_end_of_a_job(story: Story) -> None:
    for one in story:
        if one.before is not None and not one.before.live:
            assert isinstance(one.event, Submitted) or isinstance(one.refusal, StaleDelivery)


@given(stories())
def test_no_attempt_starts_before_its_time(story: Story) -> None:
    for one in story:
        waits = (
            one.before is not None
            and one.before.retry_at is not None
            and one.before.retry_at > one.now
        )
        if isinstance(one.command, Start) and waits:
            assert one.refusal is not None


@given(stories())
def test_a_wait_ends_with_its_time_or_with_the_job_only(story: Story) -> None:
    for one in story:
        if (
            one.event is None
            or one.before is None
            or one.before.retry_at is None
            or isinstance(one.event, Submitted)
        ):
            continue
        if one.before.retry_at > one.now and one.after is not None and one.after.live:
            assert one.after.retry_at is not None
            assert one.after.retry_at >= one.before.retry_at


@given(stories())
def test_every_event_holds_the_suites_and_the_time_it_was_told(story: Story) -> None:
    for one in story:
        if (
            one.event is not None
            and one.before is not None
            and not isinstance(one.event, Submitted)
        ):
            assert (one.event.suite_ids, one.event.at) == (one.before.suite_ids, one.now)


@given(stories(max_steps=10), st.sampled_from(OnDuplicate))
def test_no_job_comes_twice_under_one_id(story: Story, on_duplicate: OnDuplicate) -> None:
    job = story[-1].after
    assert job is not None
    again = step(
        Submit(spec(job_id=job.job_id), on_duplicate), job, story[-1].now, story[-1].seq + 1
    )
    assert again.refusal is not None


# Submitting


def test_a_submission_to_an_empty_slot_is_queued_with_its_budgets() -> None:
    assert event_of(SUBMIT) == Submitted(
        **STATE | {"ticket": 0, "by": "ci"}, status=Status.QUEUED, spec=WANTED
    )


@pytest.mark.parametrize("on_duplicate", list(OnDuplicate))
def test_a_job_that_is_being_cancelled_holds_nothing_against_a_submission(
    on_duplicate: OnDuplicate,
) -> None:
    event = event_of(
        SUBMIT, START, Cancel(by="operator"), Submit(spec(job_id="job-2"), on_duplicate)
    )
    assert isinstance(event, Submitted)
    assert (event.job_id, event.replaces, event.status, event.cancel_requested) == (
        "job-2",
        "job-1",
        Status.QUEUED,
        False,
    )


@pytest.mark.parametrize("on_duplicate", [OnDuplicate.ATTACH, OnDuplicate.REJECT])
def test_a_duplicate_is_refused_and_names_the_live_job(on_duplicate: OnDuplicate) -> None:
    refusal = refusal_of(SUBMIT, Submit(spec(), on_duplicate))
    assert isinstance(refusal, DuplicateJob)
    assert refusal.job_id == "job-1"


def test_a_replacing_submission_takes_the_place_of_the_live_job() -> None:
    other = spec(job_id="job-2")
    event = event_of(SUBMIT, START, Submit(other, OnDuplicate.REPLACE))
    assert event == Submitted(
        job_id="job-2",
        at=NOW,
        status=Status.QUEUED,
        retries_left=3,
        infra_retries_left=3,
        spec=other,
        replaces="job-1",
    )


def test_a_finished_slot_takes_the_next_job_and_replaces_none() -> None:
    event = event_of(
        SUBMIT, START, end("passed"), Submit(spec(job_id="job-2"), OnDuplicate.REPLACE)
    )
    assert isinstance(event, Submitted)
    assert event.replaces == ""


# Queueing again


def test_a_requeued_job_keeps_its_past_and_gets_a_new_ticket() -> None:
    urgent = replace(WANTED, rank=0)
    event = event_of(SUBMIT, START, end("failed", 10), Requeue(urgent, "reprioritised", "operator"))
    expected = STATE | FAILED_ONCE | {"ticket": 0, "attempt": 1, "by": "operator"}
    assert event == Requeued(
        **expected,
        status=Status.QUEUED,
        spec=urgent,
        reason="reprioritised",
        retry_at=NOW + timedelta(seconds=10),
    )


def test_a_running_job_is_not_queued_again() -> None:
    refusal = refusal_of(SUBMIT, START, Requeue(WANTED, "reprioritised", "operator"))
    assert str(refusal) == "job job-1 is running: only a queued job can be queued again"


def test_a_job_that_left_the_slot_is_not_queued_again() -> None:
    refusal = refusal_of(
        SUBMIT,
        Submit(spec(job_id="job-2"), OnDuplicate.REPLACE),
        Requeue(WANTED, "reprioritised", "operator"),
    )
    assert str(refusal) == "the slot belongs to job job-2 now"


# Starting


def test_a_queued_job_starts_on_the_agent_that_claims_it() -> None:
    assert event_of(SUBMIT, START) == Started(
        **RAN, status=Status.RUNNING, agent="agent-1", device="emulator-5554", warm=True
    )


def test_a_running_job_is_not_started_by_another_agent() -> None:
    assert str(refusal_of(SUBMIT, START, Start(1, "agent-2"))) == "job job-1 is running on agent-1"


def test_a_replaced_message_starts_nothing() -> None:
    refusal = refusal_of(SUBMIT, Requeue(WANTED, "reprioritised", "operator"), Start(1, "agent-1"))
    assert isinstance(refusal, StaleDelivery)
    assert str(refusal) == "message 1 was replaced by 2"


def test_a_retry_waits_for_its_time() -> None:
    waiting = play(SUBMIT, START, end("failed", retry_in_s=10)).after
    early = step(START, waiting, NOW + timedelta(seconds=9), 4)
    on_time = step(START, waiting, NOW + timedelta(seconds=10), 4)
    assert isinstance(early.refusal, NotYet)
    assert early.refusal.at == NOW + timedelta(seconds=10)
    assert isinstance(on_time.event, Started)


@pytest.mark.parametrize(
    "command",
    [
        START,
        end("passed"),
        DRAIN,
        Lose("agent-1", 1, "janitor"),
        Cancel("ci"),
        GIVE_UP,
        Requeue(WANTED, "", ""),
    ],
)
def test_an_empty_slot_and_an_ended_job_refuse_everything(command: Command) -> None:
    assert str(step(command, None, NOW, 1).refusal) == "the slot is empty"
    ended = refusal_of(SUBMIT, START, end("passed"), command)
    assert isinstance(ended, StaleDelivery)
    assert str(ended) == "job job-1 has ended as done"


# Ending an attempt


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        ("passed", Status.DONE),
        ("flaky", Status.DONE),
        ("skipped", Status.DONE),
        ("config_error", Status.FAILED),
    ],
)
def test_an_attempt_with_a_final_verdict_finishes_the_job(verdict: str, status: Status) -> None:
    assert event_of(SUBMIT, START, end(verdict)) == Finished(
        **RAN, status=status, verdict=Verdict(verdict), outcome=outcome(verdict)
    )


@pytest.mark.parametrize("verdict", ["failed", "timed_out"])
def test_a_failed_attempt_spends_a_retry_and_waits(verdict: str) -> None:
    expected = (
        RAN | FAILED_ONCE | {"first_failure": FirstFailure(attempt=1, verdict=Verdict(verdict))}
    )
    event = AttemptEnded(
        **expected,
        status=Status.QUEUED,
        outcome=outcome(verdict),
        retry_at=NOW + timedelta(seconds=5),
    )
    assert event_of(SUBMIT, START, end(verdict, retry_in_s=5)) == event


def test_an_infra_error_spends_its_own_budget() -> None:
    event = AttemptEnded(
        **RAN | {"infra_retries_left": 2}, status=Status.QUEUED, outcome=outcome("infra_error")
    )
    assert event_of(SUBMIT, START, end("infra_error")) == event


@pytest.mark.parametrize("verdict", ["failed", "timed_out", "infra_error"])
def test_a_job_without_retries_ends_with_its_first_attempt(verdict: str) -> None:
    event = event_of(Submit(spec(max_retries=0, infra_retries=0)), START, end(verdict))
    assert isinstance(event, Finished)
    assert (event.status, event.verdict, event.attempt) == (Status.FAILED, Verdict(verdict), 1)


def test_a_job_that_passes_after_a_failed_attempt_is_flaky() -> None:
    event = event_of(SUBMIT, START, end("failed"), START, end("passed", attempt=2))
    expected = RAN | FAILED_ONCE | {"attempt": 2}
    said = {"reason": "flaky", "message": "attempt 1 failed"}
    assert event == Finished(
        **expected, status=Status.DONE, verdict=Verdict.FLAKY, outcome=outcome("passed"), **said
    )


def test_a_job_that_passes_after_an_infra_error_has_simply_passed() -> None:
    event = event_of(SUBMIT, START, end("infra_error"), START, end("passed", attempt=2))
    expected = RAN | {"attempt": 2, "infra_retries_left": 2}
    assert event == Finished(
        **expected, status=Status.DONE, verdict=Verdict.PASSED, outcome=outcome("passed")
    )


@pytest.mark.parametrize(
    "late",
    [EndAttempt("agent-2", 1, outcome("passed")), EndAttempt("agent-1", 2, outcome("passed"))],
)
def test_the_result_of_another_agent_or_attempt_is_refused(late: EndAttempt) -> None:
    assert (
        str(refusal_of(SUBMIT, START, late))
        == f"attempt {late.attempt} of job job-1 is no longer run by {late.agent}"
    )


def test_a_late_result_of_an_old_attempt_is_refused() -> None:
    refusal = refusal_of(
        SUBMIT, START, Lose("agent-1", 1, "agent-2"), Start(1, "agent-2"), end("passed")
    )
    assert str(refusal) == "attempt 1 of job job-1 is no longer run by agent-1"


# Verdicts over attempts, test case by test case


def attempts(*outcomes: Outcome, retries: int = 3) -> JobEvent:
    """The event that ends the last of these attempts."""
    commands: list[Command] = [Submit(replace(WANTED, max_retries=retries, infra_retries=retries))]
    for number, one in enumerate(outcomes, 1):
        commands += [START, EndAttempt("agent-1", number, one)]
    event = event_of(*commands)
    assert isinstance(event, AttemptEnded | Finished)
    return event


def ended(*outcomes: Outcome) -> Finished:
    event = attempts(*outcomes)
    assert isinstance(event, Finished)
    return event


def test_a_test_case_that_failed_and_passed_in_a_later_attempt_is_flaky_with_its_first_failure() -> (
    None
):
    event = ended(
        outcome("failed", a="failed", b="passed"), outcome("passed", a="passed", b="passed")
    )
    assert (event.status, event.verdict, event.reason, event.message) == (
        Status.DONE,
        Verdict.FLAKY,
        "flaky",
        "title of a: a is broken",
    )
    assert event.unresolved == ()
    assert event.first_failure == FirstFailure(
        attempt=1, verdict=Verdict.FAILED, message="title of a: a is broken"
    )


def test_the_message_of_the_first_failed_attempt_explains_a_flaky_job() -> None:
    first = replace(outcome("failed", a="failed"), reason="tests_failed", message="a: expected 3")
    event = ended(
        first,
        replace(outcome("timed_out", a="failed"), message="later"),
        outcome("flaky", a="flaky"),
    )
    assert (event.verdict, event.reason, event.message) == (Verdict.FLAKY, "flaky", "a: expected 3")
    assert event.first_failure == FirstFailure(
        attempt=1, verdict=Verdict.FAILED, reason="tests_failed", message="a: expected 3"
    )


@pytest.mark.parametrize(
    ("last", "fate"), [({"a": "skipped", "b": "passed"}, "skipped"), ({"b": "passed"}, "absent")]
)
@pytest.mark.parametrize("verdict", ["passed", "flaky"])
def test_a_test_case_that_failed_and_was_skipped_or_absent_later_leaves_the_job_failed(
    verdict: str, last: dict[str, str], fate: str
) -> None:
    event = ended(outcome("failed", a="failed", b="passed"), outcome(verdict, **last))
    assert (event.status, event.verdict, event.reason) == (
        Status.FAILED,
        Verdict.FAILED,
        "not_passed_again",
    )
    assert (
        event.message
        == f"title of a: failed in attempt 1 and did not pass in attempt 2 ({fate}): a is broken"
    )
    assert event.unresolved == (
        FailedTest(id="a", title="title of a", message="a is broken", attempt=1),
    )
    assert event.retries_left == 2, "there is no further retry: it would end the same way"


def test_further_test_cases_that_did_not_pass_again_are_counted() -> None:
    event = ended(
        outcome("failed", a="timed_out", b="failed", c="interrupted", d="passed"),
        outcome("passed", d="passed"),
    )
    assert event.message.startswith(
        "title of a: failed in attempt 1 and did not pass in attempt 2 (absent) (and 2 more): "
    )


def test_skipping_everything_after_a_failure_names_the_test_case_that_failed() -> None:
    event = ended(
        outcome("failed", a="failed"),
        replace(outcome("skipped", a="skipped"), reason="all_skipped"),
    )
    assert (event.verdict, event.reason) == (Verdict.FAILED, "not_passed_again")
    assert "(skipped)" in event.message
    bare = ended(replace(outcome("failed"), message="exit code 1"), outcome("skipped"))
    assert (bare.reason, bare.message) == (
        "not_passed_again",
        "attempt 2 skipped every test case after a failure: exit code 1",
    )


def test_an_attempt_without_test_cases_is_resolved_by_the_next_one_that_passes() -> None:
    event = ended(replace(outcome("timed_out"), reason="deadline"), outcome("passed"))
    assert (event.verdict, event.message) == (Verdict.FLAKY, "attempt 1 timed out (deadline)")


def test_a_test_case_that_passes_in_an_attempt_that_failed_is_resolved() -> None:
    event = ended(
        outcome("failed", a="failed"),
        outcome("failed", a="passed", b="failed"),
        outcome("passed", b="passed"),
    )
    assert event.verdict is Verdict.FLAKY


def test_a_test_case_that_fails_again_is_unresolved_again() -> None:
    first = outcome("failed", a="failed")
    event = ended(
        first,
        outcome("failed", a="passed", b="failed"),
        outcome("failed", a="failed", b="passed"),
        outcome("passed", b="passed"),
    )
    assert [(one.id, one.attempt) for one in event.unresolved] == [("a", 3)]


def test_the_earliest_failure_of_a_test_case_is_kept() -> None:
    second = Outcome(
        verdict=Verdict.FAILED,
        tests=(replace(outcome("failed", a="failed").tests[0], title="renamed"),),
    )
    assert attempts(outcome("failed", a="failed"), second).unresolved == (
        FailedTest(id="a", title="title of a", message="a is broken", attempt=1),
    )


@pytest.mark.parametrize("verdict", ["infra_error", "config_error"])
def test_an_inconclusive_attempt_neither_fails_nor_passes_a_test_case(verdict: str) -> None:
    before = attempts(outcome("failed", a="failed"))
    after = attempts(outcome("failed", a="failed"), outcome(verdict, a="passed", b="failed"))
    assert after.unresolved == before.unresolved
    assert after.first_failure == before.first_failure


def test_failures_survive_everything_that_may_happen_between_two_attempts() -> None:
    between = (
        Release("agent-1", 1, 1, DRAINED),
        START,
        Lose("agent-1", 2, "janitor"),
        Requeue(WANTED, "reprioritised", "operator"),
    )
    last = play(
        SUBMIT, START, EndAttempt("agent-1", 1, outcome("failed", a="failed")), *between
    ).after
    assert last is not None
    assert (
        [one.id for one in last.unresolved],
        last.first_failure and last.first_failure.attempt,
    ) == (["a"], 1)


def test_the_next_job_of_the_slot_starts_without_failures() -> None:
    over = (
        SUBMIT,
        START,
        EndAttempt("agent-1", 1, outcome("failed", a="failed")),
        START,
        end("passed", attempt=2),
    )
    event = event_of(*over, Submit(spec(job_id="job-2")))
    assert isinstance(event, Submitted)
    assert (event.unresolved, event.unresolved_omitted, event.first_failure) == ((), 0, None)


def test_a_job_that_failed_under_a_version_without_these_fields_can_still_be_flaky() -> None:
    running = play(SUBMIT, START).after
    assert running is not None
    event = step(end("passed"), replace(running, failures=1), NOW, 9).event
    assert isinstance(event, Finished)
    assert (event.verdict, event.message, event.first_failure) == (
        Verdict.FLAKY,
        "an earlier attempt failed",
        None,
    )


@pytest.mark.parametrize("verdict", ["failed", "timed_out", "infra_error"])
def test_a_final_failure_is_not_retried(verdict: str) -> None:
    event = ended(replace(outcome(verdict, a="failed"), final=True, reason="tests_failed"))
    assert (event.status, event.verdict, event.retries_left, event.infra_retries_left) == (
        Status.FAILED,
        Verdict(verdict),
        3,
        3,
    )
    assert (event.reason, event.message) == ("", "")


def many(number: int, size: int = 0) -> Outcome:
    error = TestError(message="\u00e4" * size or "no")
    tests = (
        TestResult(
            id=f"{one:040}",
            title="t" * size or "t",
            outcome="failed",
            tries=(Try(status="failed", error=error),),
        )
        for one in range(number)
    )
    return Outcome(
        verdict=Verdict.FAILED, message="m" * size, reason="r" * size, tests=tuple(tests)
    )


@pytest.mark.parametrize(
    ("number", "size"), [(50, 0), (250, 0), (250, 3000), (480, 3000), (5000, 30)]
)
def test_what_is_kept_of_failures_is_bounded_and_ids_have_precedence(
    number: int, size: int
) -> None:
    event = attempts(many(number, size))
    assert len(event.unresolved) + event.unresolved_omitted == number
    assert event.unresolved_omitted == 0 or number == 5000
    assert len(msgspec.json.encode(event.unresolved)) <= MAX_UNRESOLVED_BYTES
    assert sum(bool(one.message) for one in event.unresolved) <= MAX_DETAILED
    assert event.unresolved[0].message
    small = (
        len(encode(event))
        - len(msgspec.json.encode(event.outcome))
        - len(msgspec.json.encode(event.unresolved))
    )  # type: ignore[attr-defined]
    assert small < 5000


def test_a_job_with_more_failures_than_there_is_room_for_never_passes() -> None:
    event = ended(
        many(5000),
        replace(
            many(5000),
            verdict=Verdict.PASSED,
            tests=tuple(replace(one, outcome="passed") for one in many(5000).tests),
        ),
    )
    assert (event.verdict, event.reason, event.unresolved) == (
        Verdict.FAILED,
        "not_passed_again",
        (),
    )
    assert event.message.startswith(
        f"{event.unresolved_omitted} test cases failed and are not known to have passed since: "
    )


def test_texts_of_others_are_cut_at_characters_and_never_refused() -> None:
    event = ended(many(1, 9999), outcome("passed"))
    assert len(event.message.encode()) <= 2000
    assert event.unresolved[0].message.endswith("…")
    half = Outcome(
        verdict=Verdict.FAILED,
        message="\ud800",
        tests=(TestResult(id="\ud800", title="\ud800", outcome="failed"),),
    )
    assert attempts(half).unresolved[0].title == "?"


# Releasing and losing


def test_a_drained_job_goes_back_for_nothing() -> None:
    assert event_of(SUBMIT, START, DRAIN) == Released(**RAN, status=Status.QUEUED, reason="drained")


@pytest.mark.parametrize("before", [(SUBMIT,), (SUBMIT, START)], ids=["queued", "running"])
def test_a_failed_prepare_spends_an_infra_retry(before: tuple[Command, ...]) -> None:
    event = event_of(
        *before, Release("agent-1", 1, len(before) - 1, "prepare_failed", "no device", 5)
    )
    expected = STATE | {"attempt": len(before) - 1, "infra_retries_left": 2, "by": "agent-1"}
    later = NOW + timedelta(seconds=5)
    assert event == Released(
        **expected,
        status=Status.QUEUED,
        reason="prepare_failed",
        message="no device",
        retry_at=later,
    )


def test_a_failed_prepare_without_infra_retries_ends_the_job_without_a_verdict_on_the_app() -> None:
    wanted = replace(WANTED, infra_retries=0)
    event = event_of(Submit(wanted), Release("agent-1", 1, 0, "prepare_failed", "no device"))
    came_to = Outcome(verdict=Verdict.INFRA_ERROR, reason="prepare_failed", message="no device")
    expected = STATE | {"infra_retries_left": 0, "by": "agent-1"}
    assert event == Finished(
        **expected, status=Status.FAILED, verdict=Verdict.INFRA_ERROR, outcome=came_to
    )


@pytest.mark.parametrize("after", [(START,), (START, DRAIN)], ids=["running", "queued again"])
def test_a_job_that_was_started_has_not_waited_too_long(after: tuple[Command, ...]) -> None:
    refusal = refusal_of(SUBMIT, *after, Expire(1, "queue_timeout", "nobody started it", "janitor"))
    assert str(refusal) == "job job-1 has been started"


def test_a_job_that_is_being_cancelled_ends_as_cancelled_when_it_is_given_up() -> None:
    assert isinstance(event_of(SUBMIT, START, Cancel("ci"), GIVE_UP), Cancelled)


def test_skipping_everything_after_a_failure_leaves_the_failure() -> None:
    event = event_of(SUBMIT, START, end("failed"), Start(1, "agent-1"), end("skipped", attempt=2))
    assert isinstance(event, Finished)
    assert (event.verdict, event.status) == (Verdict.FAILED, Status.FAILED)


@pytest.mark.parametrize(
    "command",
    [
        Release("agent-2", 1, 1, DRAINED),
        Release("agent-1", 2, 1, DRAINED),
        Release("agent-1", 1, 2, DRAINED),
    ],
)
def test_a_job_is_not_released_by_another_agent_message_or_attempt(command: Release) -> None:
    assert str(refusal_of(SUBMIT, START, command)) == f"job job-1 is not held by {command.agent}"


@pytest.mark.parametrize("retry_in_s", [0.0, 3.0])
def test_a_released_job_keeps_waiting_for_its_retry(retry_in_s: float) -> None:
    event = event_of(
        SUBMIT,
        START,
        end("failed", retry_in_s=10),
        Release("agent-2", 1, 1, DRAINED, "", retry_in_s),
    )
    assert isinstance(event, Released)
    assert event.retry_at == NOW + timedelta(seconds=10)


def test_a_lost_attempt_spends_an_infra_retry() -> None:
    event = AttemptLost(
        **RAN | {"infra_retries_left": 2, "by": "agent-2"},
        status=Status.QUEUED,
        lost_agent="agent-1",
    )
    assert event_of(SUBMIT, START, Lose("agent-1", 1, "agent-2")) == event


def test_the_last_lost_attempt_ends_the_job_without_a_verdict_on_the_app() -> None:
    event = event_of(Submit(replace(WANTED, infra_retries=0)), START, Lose("agent-1", 1, "agent-2"))
    came_to = Outcome(
        verdict=Verdict.INFRA_ERROR,
        reason="attempt_lost",
        message="agent agent-1 was lost and no infra retry is left",
    )
    expected = RAN | {"infra_retries_left": 0, "by": "agent-2"}
    assert event == Finished(
        **expected, status=Status.FAILED, verdict=Verdict.INFRA_ERROR, outcome=came_to
    )


@pytest.mark.parametrize("command", [Lose("agent-2", 1, "janitor"), Lose("agent-1", 2, "janitor")])
def test_an_attempt_is_not_lost_by_who_does_not_run_it(command: Lose) -> None:
    assert (
        str(refusal_of(SUBMIT, START, command))
        == f"attempt {command.attempt} of job job-1 is not run by {command.agent}"
    )


# Cancelling and giving up


def test_a_queued_job_is_cancelled_at_once() -> None:
    event = CancelRequested(
        **STATE | {"by": "ci"}, status=Status.CANCELLED, cancel_requested=True, reason="obsolete"
    )
    assert event_of(SUBMIT, Cancel("ci", "obsolete")) == event


def test_a_running_job_runs_until_its_agent_has_stopped_it() -> None:
    asked = CancelRequested(
        **RAN | {"by": "ci"}, status=Status.RUNNING, cancel_requested=True, agent="agent-1"
    )
    stopped = Cancelled(
        **RAN, status=Status.CANCELLED, cancel_requested=True, outcome=outcome("cancelled")
    )
    assert event_of(SUBMIT, START, Cancel("ci")) == asked
    assert event_of(SUBMIT, START, Cancel("ci"), end("cancelled")) == stopped


def test_a_job_is_asked_to_stop_once() -> None:
    assert (
        str(refusal_of(SUBMIT, START, Cancel("ci"), Cancel("ci")))
        == "job job-1 is being cancelled already"
    )


def test_an_agent_cannot_cancel_what_nobody_asked_it_to() -> None:
    assert str(refusal_of(SUBMIT, START, end("cancelled"))) == "nobody asked to cancel job job-1"


def test_a_verdict_that_was_there_before_the_stop_signal_stands() -> None:
    event = event_of(SUBMIT, START, Cancel("ci"), end("passed"))
    assert event == Finished(
        **RAN,
        status=Status.DONE,
        cancel_requested=True,
        verdict=Verdict.PASSED,
        outcome=outcome("passed"),
    )


def test_a_failed_attempt_of_a_job_being_cancelled_is_not_retried() -> None:
    expected = RAN | FAILED_ONCE
    event = AttemptEnded(
        **expected, status=Status.CANCELLED, cancel_requested=True, outcome=outcome("failed")
    )
    assert event_of(SUBMIT, START, Cancel("ci"), end("failed")) == event


@pytest.mark.parametrize("infra_retries", [0, 3])
def test_a_lost_attempt_of_a_job_being_cancelled_ends_it(infra_retries: int) -> None:
    event = event_of(
        Submit(spec(infra_retries=infra_retries)),
        START,
        Cancel("ci"),
        Lose("agent-1", 1, "agent-2"),
    )
    assert isinstance(event, AttemptLost)
    assert event.status is Status.CANCELLED


def test_a_drained_job_that_is_being_cancelled_ends() -> None:
    assert event_of(SUBMIT, START, Cancel("ci"), DRAIN) == Cancelled(
        **RAN, status=Status.CANCELLED, cancel_requested=True
    )


@pytest.mark.parametrize("before", [(SUBMIT,), (SUBMIT, START)], ids=["queued", "running"])
def test_a_job_that_nothing_delivers_any_more_ends_without_a_verdict_on_the_app(
    before: tuple[Command, ...],
) -> None:
    came_to = Outcome(
        verdict=Verdict.INFRA_ERROR, reason="max_deliveries", message="nothing delivers it any more"
    )
    expected = STATE | {"attempt": len(before) - 1, "by": "janitor"}
    assert event_of(*before, GIVE_UP) == Finished(
        **expected, status=Status.FAILED, verdict=Verdict.INFRA_ERROR, outcome=came_to
    )


def test_an_advisory_about_a_replaced_message_ends_nothing() -> None:
    assert isinstance(
        refusal_of(SUBMIT, Requeue(WANTED, "reprioritised", "operator"), GIVE_UP), StaleDelivery
    )
