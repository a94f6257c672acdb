"""What may happen to a job: every rule as one example, and as a property of any story."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from factories import NOW, spec
from qgjet.decide import (
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
from qgjet.errors import DuplicateJob, Refused, StaleTicket
from qgjet.events import (
    AttemptEnded,
    AttemptLost,
    Cancelled,
    CancelRequested,
    Event,
    Finished,
    JobEvent,
    Outcome,
    Released,
    Requeued,
    Started,
    Status,
    Submitted,
    Verdict,
)
from qgjet.job import Job, broken_rule, evolve, status_of
from qgjet.retry import SPENDS_USER_RETRY
from strategies import Story, outcome, play, step, stories

WANTED = spec(job_id="job-1", suite_ids=("suite-1",), submitted_by="ci")
SUBMIT = Submit(WANTED)
START = Start(1, "agent-1", "emulator-5554", warm=True)
DRAIN = Release("agent-1", 1, 1, DRAINED)
GIVE_UP = Expire(1, "max_deliveries", "nothing delivers it any more", "janitor", even_started=True)
STATE: dict[str, Any] = {"job_id": "job-1", "at": NOW, "ticket": 1, "retries_left": 3, "infra_retries_left": 3, "suite_ids": ("suite-1",)}
RAN = STATE | {"attempt": 1, "by": "agent-1"}


def end(verdict: str, retry_in_s: float = 0.0, attempt: int = 1) -> EndAttempt:
    return EndAttempt("agent-1", attempt, outcome(verdict), retry_in_s)


def event_of(*commands: Command) -> Event | None:
    """The event that the last command leads to."""
    return play(*commands).event


def refusal_of(*commands: Command) -> Refused | None:
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
        spent = (one.before.retries_left - one.event.retries_left, one.before.infra_retries_left - one.event.infra_retries_left)
        assert spent in {(0, 0), (1, 0), (0, 1)}
        assert min(one.event.retries_left, one.event.infra_retries_left) >= 0


@given(stories(max_steps=40))
def test_a_job_runs_no_more_often_than_its_budgets_and_drains_allow(story: Story) -> None:
    for events in jobs_of(story).values():
        asked_for = next(event.spec for event in events if isinstance(event, Submitted))
        drains = sum(isinstance(event, Released) and event.reason == DRAINED for event in events)
        started = sum(isinstance(event, Started) for event in events)
        assert started <= 1 + asked_for.max_retries + asked_for.infra_retries + drains


@given(st.integers(0, 10), st.integers(0, 10), st.lists(st.sampled_from(["failed", "timed_out", "infra_error", "lost"]), min_size=21, max_size=21))
def test_a_job_that_never_passes_ends_when_a_budget_is_gone(retries: int, infra_retries: int, ways: list[str]) -> None:
    job = play(Submit(spec(max_retries=retries, infra_retries=infra_retries))).after
    spent = {True: 0, False: 0}
    for attempt, way in enumerate(ways, 1):
        job = step(Start(1, "agent-1"), job, NOW, 2 * attempt).after
        job = step(Lose("agent-1", attempt, "agent-2") if way == "lost" else end(way, attempt=attempt), job, NOW, 2 * attempt + 1).after
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
            changed = (one.event.outcome.verdict, one.event.verdict) in ((Verdict.PASSED, Verdict.FLAKY), (Verdict.SKIPPED, Verdict.FAILED))
            assert one.event.outcome.verdict is one.event.verdict or changed


@given(stories())
def test_a_config_error_is_never_retried(story: Story) -> None:
    for one in story:
        if isinstance(one.command, EndAttempt) and one.command.outcome.verdict is Verdict.CONFIG_ERROR and one.event is not None:
            assert isinstance(one.event, Finished)
            assert (one.event.status, one.event.verdict) == (Status.FAILED, Verdict.CONFIG_ERROR)


@given(stories())
def test_flaky_is_what_passes_after_a_failed_attempt_or_says_so_itself(story: Story) -> None:
    for events in jobs_of(story).values():
        failed = any(isinstance(event, AttemptEnded) and event.outcome.verdict in SPENDS_USER_RETRY for event in events)
        last = events[-1]
        if isinstance(last, Finished) and last.outcome.verdict in {Verdict.PASSED, Verdict.FLAKY}:
            flaky = failed or last.outcome.verdict is Verdict.FLAKY
            assert last.verdict is (Verdict.FLAKY if flaky else Verdict.PASSED)


@given(stories())
def test_failures_count_the_attempts_that_failed_or_timed_out(story: Story) -> None:
    for events in jobs_of(story).values():
        failed = 0
        for event in events:
            failed += isinstance(event, AttemptEnded | Finished) and event.outcome.verdict in SPENDS_USER_RETRY
            assert event.failures == failed


@given(stories())
def test_draining_is_free(story: Story) -> None:
    for one in story:
        if isinstance(one.command, Release) and one.command.reason == DRAINED and one.event is not None:
            assert one.before is not None
            assert isinstance(one.event, Released | Cancelled)
            assert _budgets(one.event) == _budgets(one.before)


def _budgets(state: JobEvent | Job) -> tuple[int, int, int]:
    return state.retries_left, state.infra_retries_left, state.failures


@given(stories())
def test_a_cancelled_job_never_runs_again(story: Story) -> None:
    for events in jobs_of(story).values():
        asked = next((at for at, event in enumerate(events) if isinstance(event, CancelRequested)), len(events))
        assert not [event for event in events[asked:] if isinstance(event, Started) or event.status is Status.QUEUED]


@given(stories())
def test_a_cancelled_job_was_asked_to_be(story: Story) -> None:
    for events in jobs_of(story).values():
        asked = any(isinstance(event, CancelRequested) for event in events)
        assert asked or all(event.status is not Status.CANCELLED for event in events)


@given(stories())
def test_a_stale_ticket_neither_starts_nor_ends_nor_releases_a_job(story: Story) -> None:
    for one in story:
        if isinstance(one.command, Start | Expire | Release) and one.before is not None and one.command.ticket != one.before.ticket:
            assert one.refusal is not None


@given(stories())
def test_only_the_agent_that_runs_an_attempt_ends_or_loses_it(story: Story) -> None:
    for one in story:
        if isinstance(one.command, EndAttempt | Lose) and one.event is not None:
            assert one.before is not None
            assert (one.before.agent, one.before.attempt) == (one.command.agent, one.command.attempt)


@given(stories())
def test_nothing_but_a_submission_follows_the_end_of_a_job(story: Story) -> None:
    for one in story:
        if one.before is not None and not one.before.live:
            assert isinstance(one.event, Submitted) or isinstance(one.refusal, StaleTicket)


@given(stories())
def test_no_attempt_starts_before_its_time(story: Story) -> None:
    for one in story:
        waits = one.before is not None and one.before.retry_at is not None and one.before.retry_at > one.now
        if isinstance(one.command, Start) and waits:
            assert one.refusal is not None


@given(stories())
def test_a_wait_ends_with_its_time_or_with_the_job_only(story: Story) -> None:
    for one in story:
        if one.event is None or one.before is None or one.before.retry_at is None or isinstance(one.event, Submitted):
            continue
        if one.before.retry_at > one.now and one.after is not None and one.after.live:
            assert one.after.retry_at is not None
            assert one.after.retry_at >= one.before.retry_at


@given(stories())
def test_every_event_holds_the_suites_and_the_time_it_was_told(story: Story) -> None:
    for one in story:
        if one.event is not None and one.before is not None and not isinstance(one.event, Submitted):
            assert (one.event.suite_ids, one.event.at) == (one.before.suite_ids, one.now)


@given(stories(max_steps=10), st.sampled_from(OnDuplicate))
def test_no_job_comes_twice_under_one_id(story: Story, on_duplicate: OnDuplicate) -> None:
    job = story[-1].after
    assert job is not None
    again = step(Submit(spec(job_id=job.job_id), on_duplicate), job, story[-1].now, story[-1].seq + 1)
    assert again.refusal is not None


# Submitting


def test_a_submission_to_an_empty_slot_is_queued_with_its_budgets() -> None:
    assert event_of(SUBMIT) == Submitted(**STATE | {"ticket": 0, "by": "ci"}, status=Status.QUEUED, spec=WANTED)


@pytest.mark.parametrize("on_duplicate", [OnDuplicate.ATTACH, OnDuplicate.REJECT])
def test_a_duplicate_is_refused_and_names_the_live_job(on_duplicate: OnDuplicate) -> None:
    refusal = refusal_of(SUBMIT, Submit(spec(), on_duplicate))
    assert isinstance(refusal, DuplicateJob)
    assert refusal.job_id == "job-1"


def test_a_replacing_submission_takes_the_place_of_the_live_job() -> None:
    other = spec(job_id="job-2")
    event = event_of(SUBMIT, START, Submit(other, OnDuplicate.REPLACE))
    assert event == Submitted(job_id="job-2", at=NOW, status=Status.QUEUED, retries_left=3, infra_retries_left=3, spec=other, replaces="job-1")


def test_a_finished_slot_takes_the_next_job_and_replaces_none() -> None:
    event = event_of(SUBMIT, START, end("passed"), Submit(spec(job_id="job-2"), OnDuplicate.REPLACE))
    assert isinstance(event, Submitted)
    assert event.replaces == ""


# Queueing again


def test_a_requeued_job_keeps_its_past_and_gets_a_new_ticket() -> None:
    urgent = replace(WANTED, rank=0)
    event = event_of(SUBMIT, START, end("failed", 10), Requeue(urgent, "reprioritised", "operator"))
    expected = STATE | {"ticket": 0, "attempt": 1, "retries_left": 2, "failures": 1, "by": "operator"}
    assert event == Requeued(**expected, status=Status.QUEUED, spec=urgent, reason="reprioritised", retry_at=NOW + timedelta(seconds=10))


def test_a_running_job_is_not_queued_again() -> None:
    refusal = refusal_of(SUBMIT, START, Requeue(WANTED, "reprioritised", "operator"))
    assert str(refusal) == "job job-1 is running: only a queued job can be queued again"


def test_a_job_that_left_the_slot_is_not_queued_again() -> None:
    refusal = refusal_of(SUBMIT, Submit(spec(job_id="job-2"), OnDuplicate.REPLACE), Requeue(WANTED, "reprioritised", "operator"))
    assert str(refusal) == "the slot belongs to job job-2 now"


# Starting


def test_a_queued_job_starts_on_the_agent_that_claims_it() -> None:
    assert event_of(SUBMIT, START) == Started(**RAN, status=Status.RUNNING, agent="agent-1", device="emulator-5554", warm=True)


def test_a_running_job_is_not_started_by_another_agent() -> None:
    assert str(refusal_of(SUBMIT, START, Start(1, "agent-2"))) == "job job-1 is running on agent-1"


def test_a_replaced_message_starts_nothing() -> None:
    refusal = refusal_of(SUBMIT, Requeue(WANTED, "reprioritised", "operator"), Start(1, "agent-1"))
    assert isinstance(refusal, StaleTicket)
    assert str(refusal) == "message 1 was replaced by 2"


def test_a_retry_waits_for_its_time() -> None:
    waiting = play(SUBMIT, START, end("failed", retry_in_s=10)).after
    early = step(START, waiting, NOW + timedelta(seconds=9), 4)
    on_time = step(START, waiting, NOW + timedelta(seconds=10), 4)
    assert isinstance(early.refusal, NotYet)
    assert early.refusal.at == NOW + timedelta(seconds=10)
    assert isinstance(on_time.event, Started)


@pytest.mark.parametrize("command", [START, end("passed"), DRAIN, Lose("agent-1", 1, "janitor"), Cancel("ci"), GIVE_UP, Requeue(WANTED, "", "")])
def test_an_empty_slot_and_an_ended_job_refuse_everything(command: Command) -> None:
    assert str(step(command, None, NOW, 1).refusal) == "the slot is empty"
    ended = refusal_of(SUBMIT, START, end("passed"), command)
    assert isinstance(ended, StaleTicket)
    assert str(ended) == "job job-1 has ended as done"


# Ending an attempt


@pytest.mark.parametrize(
    ("verdict", "status"),
    [("passed", Status.DONE), ("flaky", Status.DONE), ("skipped", Status.DONE), ("config_error", Status.FAILED)],
)
def test_an_attempt_with_a_final_verdict_finishes_the_job(verdict: str, status: Status) -> None:
    assert event_of(SUBMIT, START, end(verdict)) == Finished(**RAN, status=status, verdict=Verdict(verdict), outcome=outcome(verdict))


@pytest.mark.parametrize("verdict", ["failed", "timed_out"])
def test_a_failed_attempt_spends_a_retry_and_waits(verdict: str) -> None:
    expected = RAN | {"retries_left": 2, "failures": 1}
    event = AttemptEnded(**expected, status=Status.QUEUED, outcome=outcome(verdict), retry_at=NOW + timedelta(seconds=5))
    assert event_of(SUBMIT, START, end(verdict, retry_in_s=5)) == event


def test_an_infra_error_spends_its_own_budget() -> None:
    event = AttemptEnded(**RAN | {"infra_retries_left": 2}, status=Status.QUEUED, outcome=outcome("infra_error"))
    assert event_of(SUBMIT, START, end("infra_error")) == event


@pytest.mark.parametrize("verdict", ["failed", "timed_out", "infra_error"])
def test_a_job_without_retries_ends_with_its_first_attempt(verdict: str) -> None:
    event = event_of(Submit(spec(max_retries=0, infra_retries=0)), START, end(verdict))
    assert isinstance(event, Finished)
    assert (event.status, event.verdict, event.attempt) == (Status.FAILED, Verdict(verdict), 1)


def test_a_job_that_passes_after_a_failed_attempt_is_flaky() -> None:
    event = event_of(SUBMIT, START, end("failed"), START, end("passed", attempt=2))
    expected = RAN | {"attempt": 2, "retries_left": 2, "failures": 1}
    assert event == Finished(**expected, status=Status.DONE, verdict=Verdict.FLAKY, outcome=outcome("passed"))


def test_a_job_that_passes_after_an_infra_error_has_simply_passed() -> None:
    event = event_of(SUBMIT, START, end("infra_error"), START, end("passed", attempt=2))
    expected = RAN | {"attempt": 2, "infra_retries_left": 2}
    assert event == Finished(**expected, status=Status.DONE, verdict=Verdict.PASSED, outcome=outcome("passed"))


@pytest.mark.parametrize("late", [EndAttempt("agent-2", 1, outcome("passed")), EndAttempt("agent-1", 2, outcome("passed"))])
def test_the_result_of_another_agent_or_attempt_is_refused(late: EndAttempt) -> None:
    assert str(refusal_of(SUBMIT, START, late)) == f"attempt {late.attempt} of job job-1 is no longer run by {late.agent}"


def test_a_late_result_of_an_old_attempt_is_refused() -> None:
    refusal = refusal_of(SUBMIT, START, Lose("agent-1", 1, "agent-2"), Start(1, "agent-2"), end("passed"))
    assert str(refusal) == "attempt 1 of job job-1 is no longer run by agent-1"


# Releasing and losing


def test_a_drained_job_goes_back_for_nothing() -> None:
    assert event_of(SUBMIT, START, DRAIN) == Released(**RAN, status=Status.QUEUED, reason="drained")


@pytest.mark.parametrize("before", [(SUBMIT,), (SUBMIT, START)], ids=["queued", "running"])
def test_a_failed_prepare_spends_an_infra_retry(before: tuple[Command, ...]) -> None:
    event = event_of(*before, Release("agent-1", 1, len(before) - 1, "prepare_failed", "no device", 5))
    expected = STATE | {"attempt": len(before) - 1, "infra_retries_left": 2, "by": "agent-1"}
    later = NOW + timedelta(seconds=5)
    assert event == Released(**expected, status=Status.QUEUED, reason="prepare_failed", message="no device", retry_at=later)


def test_a_failed_prepare_without_infra_retries_ends_the_job_without_a_verdict_on_the_app() -> None:
    wanted = replace(WANTED, infra_retries=0)
    event = event_of(Submit(wanted), Release("agent-1", 1, 0, "prepare_failed", "no device"))
    came_to = Outcome(verdict=Verdict.INFRA_ERROR, reason="prepare_failed", message="no device")
    expected = STATE | {"infra_retries_left": 0, "by": "agent-1"}
    assert event == Finished(**expected, status=Status.FAILED, verdict=Verdict.INFRA_ERROR, outcome=came_to)


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


@pytest.mark.parametrize("command", [Release("agent-2", 1, 1, DRAINED), Release("agent-1", 2, 1, DRAINED), Release("agent-1", 1, 2, DRAINED)])
def test_a_job_is_not_released_by_another_agent_message_or_attempt(command: Release) -> None:
    assert str(refusal_of(SUBMIT, START, command)) == f"job job-1 is not held by {command.agent}"


@pytest.mark.parametrize("retry_in_s", [0.0, 3.0])
def test_a_released_job_keeps_waiting_for_its_retry(retry_in_s: float) -> None:
    event = event_of(SUBMIT, START, end("failed", retry_in_s=10), Release("agent-2", 1, 1, DRAINED, "", retry_in_s))
    assert isinstance(event, Released)
    assert event.retry_at == NOW + timedelta(seconds=10)


def test_a_lost_attempt_spends_an_infra_retry() -> None:
    event = AttemptLost(**RAN | {"infra_retries_left": 2, "by": "agent-2"}, status=Status.QUEUED, lost_agent="agent-1")
    assert event_of(SUBMIT, START, Lose("agent-1", 1, "agent-2")) == event


def test_the_last_lost_attempt_ends_the_job_without_a_verdict_on_the_app() -> None:
    event = event_of(Submit(replace(WANTED, infra_retries=0)), START, Lose("agent-1", 1, "agent-2"))
    came_to = Outcome(verdict=Verdict.INFRA_ERROR, reason="attempt_lost", message="agent agent-1 was lost and no infra retry is left")
    expected = RAN | {"infra_retries_left": 0, "by": "agent-2"}
    assert event == Finished(**expected, status=Status.FAILED, verdict=Verdict.INFRA_ERROR, outcome=came_to)


@pytest.mark.parametrize("command", [Lose("agent-2", 1, "janitor"), Lose("agent-1", 2, "janitor")])
def test_an_attempt_is_not_lost_by_who_does_not_run_it(command: Lose) -> None:
    assert str(refusal_of(SUBMIT, START, command)) == f"attempt {command.attempt} of job job-1 is not run by {command.agent}"


# Cancelling and giving up


def test_a_queued_job_is_cancelled_at_once() -> None:
    event = CancelRequested(**STATE | {"by": "ci"}, status=Status.CANCELLED, cancel_requested=True, reason="obsolete")
    assert event_of(SUBMIT, Cancel("ci", "obsolete")) == event


def test_a_running_job_runs_until_its_agent_has_stopped_it() -> None:
    asked = CancelRequested(**RAN | {"by": "ci"}, status=Status.RUNNING, cancel_requested=True, agent="agent-1")
    stopped = Cancelled(**RAN, status=Status.CANCELLED, cancel_requested=True, outcome=outcome("cancelled"))
    assert event_of(SUBMIT, START, Cancel("ci")) == asked
    assert event_of(SUBMIT, START, Cancel("ci"), end("cancelled")) == stopped


def test_a_job_is_asked_to_stop_once() -> None:
    assert str(refusal_of(SUBMIT, START, Cancel("ci"), Cancel("ci"))) == "job job-1 is being cancelled already"


def test_an_agent_cannot_cancel_what_nobody_asked_it_to() -> None:
    assert str(refusal_of(SUBMIT, START, end("cancelled"))) == "nobody asked to cancel job job-1"


def test_a_verdict_that_was_there_before_the_stop_signal_stands() -> None:
    event = event_of(SUBMIT, START, Cancel("ci"), end("passed"))
    assert event == Finished(**RAN, status=Status.DONE, cancel_requested=True, verdict=Verdict.PASSED, outcome=outcome("passed"))


def test_a_failed_attempt_of_a_job_being_cancelled_is_not_retried() -> None:
    expected = RAN | {"retries_left": 2, "failures": 1}
    event = AttemptEnded(**expected, status=Status.CANCELLED, cancel_requested=True, outcome=outcome("failed"))
    assert event_of(SUBMIT, START, Cancel("ci"), end("failed")) == event


@pytest.mark.parametrize("infra_retries", [0, 3])
def test_a_lost_attempt_of_a_job_being_cancelled_ends_it(infra_retries: int) -> None:
    event = event_of(Submit(spec(infra_retries=infra_retries)), START, Cancel("ci"), Lose("agent-1", 1, "agent-2"))
    assert isinstance(event, AttemptLost)
    assert event.status is Status.CANCELLED


def test_a_drained_job_that_is_being_cancelled_ends() -> None:
    assert event_of(SUBMIT, START, Cancel("ci"), DRAIN) == Cancelled(**RAN, status=Status.CANCELLED, cancel_requested=True)


@pytest.mark.parametrize("before", [(SUBMIT,), (SUBMIT, START)], ids=["queued", "running"])
def test_a_job_that_nothing_delivers_any_more_ends_without_a_verdict_on_the_app(before: tuple[Command, ...]) -> None:
    came_to = Outcome(verdict=Verdict.INFRA_ERROR, reason="max_deliveries", message="nothing delivers it any more")
    expected = STATE | {"attempt": len(before) - 1, "by": "janitor"}
    assert event_of(*before, GIVE_UP) == Finished(**expected, status=Status.FAILED, verdict=Verdict.INFRA_ERROR, outcome=came_to)


def test_an_advisory_about_a_replaced_message_ends_nothing() -> None:
    assert isinstance(refusal_of(SUBMIT, Requeue(WANTED, "reprioritised", "operator"), GIVE_UP), StaleTicket)
