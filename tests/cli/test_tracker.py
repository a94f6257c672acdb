"""The fold that the CLI waits by."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from factories import NOW, spec
from qgjet.client.tracker import JobFailure, JobTracker, TrackedJob
from qgjet.domain.decide import (
    Cancel,
    Command,
    EndAttempt,
    Lose,
    OnDuplicate,
    Start,
    Submit,
    decide,
)
from qgjet.domain.events import Event, JobSpec, Outcome, Status, TestResult, Verdict
from qgjet.domain.job import fold
from qgjet_cli.tracking.progress import described
from qgjet_cli.tracking.result import _row, of_track

JOB = spec(job_id="j1", suite_ids=("s1",))


def story(*commands: Command, job: JobSpec = JOB, first: int = 10) -> list[tuple[int, Event]]:
    """What the commands make of a submission, ten sequences apart."""
    events: list[tuple[int, Event]] = []
    for command in (Submit(job), *commands):
        events.append((first + 10 * len(events), decide(command, fold(events), NOW)))
    return events


def end(attempt: int, verdict: Verdict, reason: str = "") -> EndAttempt:
    return EndAttempt(
        agent="a",
        attempt=attempt,
        outcome=Outcome(
            verdict=verdict, reason=reason, message=f"message {attempt}", duration_s=float(attempt)
        ),
    )


def tracker(*, suite_id: str = "", grows: bool = False) -> JobTracker:
    return JobTracker([TrackedJob(job_id="j1", slot=JOB.slot, seq=9)], suite_id, grows=grows)


def told(on: JobTracker, events: list[tuple[int, Event]]) -> list[Status]:
    return [change.job.status for seq, event in events for change in on.apply(seq, event)]


def test_a_job_is_followed_to_its_verdict_and_its_first_failure_is_kept() -> None:
    watched = tracker()
    events = story(
        Start(10, "a"),
        end(1, Verdict.FAILED, "tests_failed"),
        Start(10, "a"),
        end(2, Verdict.PASSED),
    )
    assert told(watched, events) == [Status.RUNNING, Status.QUEUED, Status.RUNNING, Status.DONE]
    track = watched.tracks["j1"]
    assert (track.verdict, track.attempt, track.duration_s, track.live) == (
        Verdict.FLAKY,
        2,
        2.0,
        False,
    )
    assert track.first_failure == JobFailure(
        attempt=1, verdict=Verdict.FAILED, reason="tests_failed", message="message 1"
    )
    assert (track.reason, track.message) == ("flaky", "message 1")


def test_the_same_events_again_change_nothing() -> None:
    watched = tracker()
    events = story(Start(10, "a"), Lose(agent="a", attempt=1, by="b"))
    assert len(told(watched, events)) == 2
    assert told(watched, events) == []
    assert watched.tracks["j1"].first_failure == JobFailure(
        attempt=1, verdict=None, reason="lease_expired", message="agent a was lost"
    )


def test_following_may_begin_in_the_middle() -> None:
    watched = tracker()
    events = story(Start(10, "a"), end(1, Verdict.FAILED), Start(10, "a"), end(2, Verdict.PASSED))
    assert told(watched, events[3:]) == [Status.RUNNING, Status.DONE]
    track = watched.tracks["j1"]
    assert (track.verdict, track.message) == (Verdict.FLAKY, "message 1")
    assert track.first_failure == JobFailure(
        attempt=1, verdict=Verdict.FAILED, reason="", message="message 1"
    )


@pytest.mark.parametrize(
    ("last", "verdict", "reason", "shown"),
    [
        (
            Verdict.PASSED,
            Verdict.FAILED,
            "not_passed_again",
            "not_passed_again: pays: failed in attempt 2 and did not pass in attempt 3 (absent): failed",
        ),
        (Verdict.FAILED, Verdict.FAILED, "end", "lease_expired: agent a was lost"),
    ],
)
def test_reason_and_message_are_those_of_the_job_where_earlier_attempts_decide(
    last: Verdict, verdict: Verdict, reason: str, shown: str
) -> None:
    watched = tracker()
    failed = Outcome(
        verdict=Verdict.FAILED, tests=(TestResult(id="1", title="pays", outcome="failed"),)
    )
    attempts = (
        Start(10, "a"),
        Lose(agent="a", attempt=1, by="b"),
        Start(10, "a"),
        EndAttempt(agent="a", attempt=2, outcome=failed),
        Start(10, "a"),
    )
    events = story(*attempts, end(3, last, "end"), job=replace(JOB, max_retries=1))
    change = [change for seq, event in events for change in watched.apply(seq, event)][-1]
    assert described(change).endswith(f" · {verdict} ({reason}) in 3.0s")
    assert _row(of_track(change.job))[-1] == shown


def test_a_job_that_passed_on_a_retry_shows_the_failure_and_not_the_loss_before_it() -> None:
    watched = tracker()
    events = story(
        Start(10, "a"),
        Lose(agent="a", attempt=1, by="b"),
        Start(10, "a"),
        end(2, Verdict.FAILED),
        Start(10, "a"),
        end(3, Verdict.PASSED),
    )
    told(watched, events)
    assert _row(of_track(watched.tracks["j1"]))[-1] == "flaky: message 2"


def test_an_event_that_breaks_a_rule_changes_nothing() -> None:
    watched = tracker()
    (_, submitted), (_, started) = story(Start(10, "a"))
    forged = replace(started, attempt=7)
    assert told(watched, [(10, submitted), (15, forged)]) == []
    assert told(watched, [(20, started)]) == [Status.RUNNING]


def test_a_replaced_job_has_ended_and_the_next_one_is_not_ours() -> None:
    watched = tracker()
    events = story(Start(10, "a"))
    other = decide(Submit(spec(job_id="j2"), OnDuplicate.REPLACE), fold(events), NOW)
    assert told(watched, [*events, (40, other)]) == [Status.RUNNING, Status.CANCELLED]
    track = watched.tracks["j1"]
    assert (track.verdict, track.reason, track.message) == (
        Verdict.CANCELLED,
        "replaced",
        "replaced by job j2",
    )
    assert list(watched.tracks) == ["j1"]


def test_a_running_job_that_is_asked_to_stop_is_told_once_more() -> None:
    watched = tracker()
    assert told(watched, story(Start(10, "a"), Cancel("me"))) == [Status.RUNNING, Status.RUNNING]
    assert watched.tracks["j1"].cancel_requested


def test_only_a_board_that_grows_takes_in_jobs_of_its_suite() -> None:
    late = story(Start(100, "a"), job=spec(job_id="j2", test="b", suite_ids=("s1",)), first=100)
    fixed, grows, other = (
        tracker(suite_id="s1"),
        tracker(suite_id="s1", grows=True),
        tracker(suite_id="s2", grows=True),
    )
    for one in (fixed, grows, other):
        told(one, late)
    assert [list(one.tracks) for one in (fixed, grows, other)] == [["j1"], ["j1", "j2"], ["j1"]]
    assert grows.tracks["j2"].status is Status.RUNNING


def test_following_begins_before_the_first_live_job_and_counts_say_where_all_are() -> None:
    watched = tracker()
    assert watched.next_seq == 10
    told(watched, story(Start(10, "a")))
    assert (watched.next_seq, watched.counts()) == (21, {"running": 1})
    told(watched, story(Start(10, "a"), end(1, Verdict.PASSED)))
    assert (watched.live, watched.counts()) == ([], {"passed": 1})
