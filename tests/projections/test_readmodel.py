"""What can be asked of a read model. No server."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from histories import Author, apply, apply_with, content
from msgspec.structs import replace

from factories import NOW
from qgjet.domain import events
from qgjet.domain.decide import Cancel, EndAttempt, Lose, Release, Requeue
from qgjet.domain.events import Artifact, Outcome, Status, TestError, TestResult, Try, Verdict
from qgjet.domain.subjects import Lane
from qgjet.errors import InvalidInput, SchemaMismatch
from qgjet.store.event_log import Recorded
from qgjet_projections.readmodel import JobQuery, JobView, Page, ReadModel, schema
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.writer import Writer


@pytest.fixture
def author() -> Author:
    return Author()


def ids(page: Page[JobView]) -> list[str]:
    return [job.job_id for job in page.items]


# -- one job -------------------------------------------------------------------------------------------------------------------


def test_a_job_tells_its_story(read_model: ReadModel, author: Author) -> None:
    wanted = author.submit(
        priority=2,
        rank=7,
        tags={"branch": "main"},
        suite_ids=("suite-1",),
        submitted_by="ci",
        execution_timeout_s=60.0,
    )
    author.start(wanted)
    author.end(wanted, Verdict.FAILED, reason="tests_failed", message="expected 1", duration_s=3.5)
    author.start(wanted, "agent-2")
    author.end(wanted, Verdict.PASSED)
    apply(read_model.path, author.messages)
    seconds = [NOW + timedelta(seconds=n) for n in range(5)]
    assert read_model.job(wanted.job_id) == JobView(
        job_id=wanted.job_id,
        org_id="acme",
        app_version_id="1.0.0",
        target="emulator",
        test="tests/onboarding.spec.js",
        status=Status.DONE,
        verdict=Verdict.FLAKY,
        priority=2,
        rank=7,
        attempt=2,
        retries=1,
        max_retries=3,
        infra_retries=3,
        retries_left=2,
        infra_retries_left=3,
        created_at=NOW,
        queued_at=seconds[2],
        pending_since=None,
        started_at=seconds[3],
        finished_at=seconds[4],
        retry_at=None,
        duration_s=1.0,
        agent="agent-2",
        reason="flaky",
        message="expected 1",
        cancel_requested=False,
        submitted_by="ci",
        suite_ids=("suite-1",),
        tags={"branch": "main"},
        execution_timeout_s=60.0,
        queue_timeout_s=None,
        request_hash="",
        rerun_of="",
        replaces="",
        replaced_by="",
        ticket=1,
        seq=5,
        submitted_seq=1,
    )


def _failed(test_id: str) -> TestResult:
    return TestResult(
        id=test_id,
        title="pays",
        outcome="failed",
        tries=(Try(status="failed", error=TestError(message="expected 3")),),
    )


def test_a_job_that_earlier_attempts_decide_has_a_reason_of_its_own(
    read_model: ReadModel, author: Author
) -> None:
    wanted = author.submit()
    author.start(wanted)
    author.end(
        wanted,
        Verdict.FAILED,
        reason="tests_failed",
        message="pays: expected 3",
        tests=(_failed("1"),),
    )
    author.start(wanted)
    author.end(wanted, Verdict.PASSED, tests=(TestResult(id="1", title="pays", outcome="skipped"),))
    apply(read_model.path, author.messages)
    job = read_model.job(wanted.job_id)
    assert job is not None
    assert (job.verdict, job.reason, job.retries_left) == (Verdict.FAILED, "not_passed_again", 2)
    assert (
        job.message
        == "pays: failed in attempt 1 and did not pass in attempt 2 (skipped): expected 3"
    )
    assert [
        (one.verdict, one.reason, one.message) for one in read_model.attempts(wanted.job_id)
    ] == [
        (Verdict.FAILED, "tests_failed", "pays: expected 3"),
        (Verdict.PASSED, "", ""),
    ]


def test_a_queued_job_says_since_when_and_until_when_it_waits(
    read_model: ReadModel, author: Author
) -> None:
    wanted = author.submit()
    author.start(wanted)
    author.tell(
        wanted.slot, EndAttempt("agent-1", 1, Outcome(verdict=Verdict.FAILED), retry_in_s=10.0)
    )
    apply(read_model.path, author.messages)
    job = read_model.job(wanted.job_id)
    assert job is not None
    assert (job.status, job.pending_since, job.retry_at, job.duration_s) == (
        "queued",
        NOW + timedelta(seconds=2),
        NOW + timedelta(seconds=12),
        1.0,
    )


def test_a_requeued_job_has_its_new_rank_and_keeps_its_place_in_time(
    read_model: ReadModel, author: Author
) -> None:
    wanted = author.submit()
    changed = wanted.__class__(
        **{
            **{name: getattr(wanted, name) for name in wanted.__struct_fields__},
            "priority": 0,
            "rank": 0,
        }
    )
    author.tell(wanted.slot, Requeue(changed, "urgent", "operator"))
    apply(read_model.path, author.messages)
    job = read_model.job(wanted.job_id)
    assert job is not None
    assert (job.rank, job.priority, job.reason, job.ticket, job.queued_at) == (
        0,
        0,
        "urgent",
        2,
        NOW,
    )
    assert read_model.spec(wanted.job_id) == changed


def test_nothing_is_known_of_an_unknown_job(read_model: ReadModel) -> None:
    assert read_model.job("none") is None
    assert read_model.spec("none") is None
    assert read_model.attempts("none") == []
    assert read_model.events(after_seq=0, job_id="none") == []
    assert read_model.suite("none") is None


def test_attempts_come_with_tests_and_artifacts_and_how_they_ended(
    read_model: ReadModel, author: Author
) -> None:
    tests = (events.TestResult(id="1", title="logs in", outcome="failed"),)
    artifacts = (Artifact(name="video.webm", content_type="video/webm", size=1, sha256="00"),)
    wanted = author.submit()
    author.start(wanted)
    author.end(
        wanted,
        Verdict.FAILED,
        reason="tests_failed",
        exit_code=1,
        tests=tests,
        artifacts=artifacts,
        duration_s=0.5,
    )
    author.start(wanted)
    author.tell(wanted.slot, Lose("agent-1", 2, "janitor"))
    author.start(wanted)
    author.tell(wanted.slot, Release("agent-1", 1, 3, "drained", "going home"))
    author.start(wanted)
    author.tell(wanted.slot, Cancel("me"))
    author.end(wanted, Verdict.CANCELLED, signal="SIGTERM")
    wanted_again = author.submit()
    author.start(wanted_again)
    apply(read_model.path, author.messages)
    first, lost, released, cancelled = read_model.attempts(wanted.job_id)
    assert (
        first.attempt,
        first.verdict,
        first.exit_code,
        first.tests,
        first.artifacts,
        first.duration_s,
    ) == (1, "failed", 1, tests, artifacts, 0.5)
    assert (first.device, first.warm, first.agent, first.ended_by) == (
        "Pixel 8",
        True,
        "agent-1",
        "attempt_ended",
    )
    assert (lost.verdict, lost.reason, lost.ended_by) == (
        Verdict.INFRA_ERROR,
        "lease_expired",
        "attempt_lost",
    )
    assert (released.verdict, released.reason, released.message, released.ended_by) == (
        None,
        "drained",
        "going home",
        "released",
    )
    assert (cancelled.verdict, cancelled.signal, cancelled.ended_by) == (
        Verdict.CANCELLED,
        "SIGTERM",
        "cancelled",
    )
    (running,) = read_model.attempts(wanted_again.job_id)
    assert (running.ended_at, running.ended_by, running.verdict, running.duration_s) == (
        None,
        "",
        None,
        None,
    )


# -- many jobs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (JobQuery(), ["waits", "other-org", "broken", "flaky", "fine"]),
        (JobQuery(org_id="acme"), ["waits", "broken", "flaky", "fine"]),
        (JobQuery(org_id="acme", app_version_id="2"), ["waits", "broken"]),
        (
            JobQuery(org_id="acme", app_version_id="2", target="device", test="tests/b.js"),
            ["broken"],
        ),
        (JobQuery(app_version_id="1"), ["flaky", "fine"]),
        (JobQuery(target="device"), ["other-org", "broken"]),
        (JobQuery(test="tests/a.js"), ["other-org", "fine"]),
        (JobQuery(status=Status.QUEUED), ["waits"]),
        (JobQuery(status=Status.DONE), ["other-org", "flaky", "fine"]),
        (JobQuery(status=Status.FAILED, org_id="acme"), ["broken"]),
        (JobQuery(verdict=Verdict.FLAKY), ["flaky"]),
        (JobQuery(verdict=Verdict.CONFIG_ERROR), ["broken"]),
        (JobQuery(verdict=Verdict.PASSED, status=Status.FAILED), []),
        (JobQuery(suite_id="nightly"), ["waits", "flaky"]),
        (JobQuery(suite_id="nightly", status=Status.QUEUED, tags={"branch": "main"}), ["waits"]),
        (JobQuery(tags={"branch": "main"}), ["waits", "broken"]),
        (JobQuery(tags={"branch": "main", "commit": "1"}), ["broken"]),
        (JobQuery(tags={"branch": "main", "commit": "2"}), []),
        (JobQuery(tags={"branch": "'; --"}), []),
        (JobQuery(org_id="%", app_version_id="_"), []),
    ],
)
def test_jobs_are_found_by_what_is_asked_for_last_submitted_first(
    read_model: ReadModel, author: Author, query: JobQuery, expected: list[str]
) -> None:
    author.run(job_id="fine", app_version_id="1", test="tests/a.js")
    flaky = author.submit(
        job_id="flaky", app_version_id="1", test="tests/c.js", suite_ids=("nightly",)
    )
    for verdict in (Verdict.FAILED, Verdict.PASSED):
        author.start(flaky)
        author.end(flaky, verdict)
    author.run(
        Verdict.CONFIG_ERROR,
        job_id="broken",
        app_version_id="2",
        target="device",
        test="tests/b.js",
        tags={"branch": "main", "commit": "1"},
    )
    author.run(
        job_id="other-org", org_id="other", app_version_id="2", target="device", test="tests/a.js"
    )
    author.submit(
        job_id="waits",
        app_version_id="2",
        test="tests/d.js",
        suite_ids=("nightly", "daily"),
        tags={"branch": "main"},
    )
    apply(read_model.path, author.messages)
    assert ids(read_model.jobs(query)) == expected


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"org_id": "acme", "app_version_id": "1.0.0"},
        {"suite_id": "s"},
        {"tags": {"a": "b"}},
        {"status": Status.QUEUED},
    ],
)
def test_pages_together_hold_every_job_once_while_new_ones_come(
    read_model: ReadModel, author: Author, query: dict[str, object]
) -> None:
    for number in range(11):
        author.submit(
            job_id=f"job-{number:02}", test=f"{number}", suite_ids=("s",), tags={"a": "b"}
        )
    apply(read_model.path, author.messages)
    found, cursor = [], None
    while True:
        page = read_model.jobs(JobQuery(**query, limit=4, cursor=cursor))  # type: ignore[arg-type]
        found += ids(page)
        author.submit(test=f"late {len(found)}", suite_ids=("s",), tags={"a": "b"})
        apply(read_model.path, author.messages)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [f"job-{number:02}" for number in reversed(range(11))]


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "bnVsbA",
        "W10",
        "WzEsMl0",
        "WyJhIl0",
        "Wy0xXQ",
        "WzFlNDBd",
        "WzE4NDQ2NzQ0MDczNzA5NTUxNjE2XQ",
    ],
)
def test_a_cursor_that_no_page_ended_with_is_refused(read_model: ReadModel, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        read_model.jobs(JobQuery(cursor=cursor))


@pytest.mark.parametrize("limit", [0, -1, 501])
def test_a_limit_out_of_bounds_is_refused(read_model: ReadModel, limit: int) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        read_model.jobs(JobQuery(limit=limit))
    with pytest.raises(InvalidInput, match="limit"):
        read_model.suites(limit=limit)


# -- events --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("near", [0, 1_000])
def test_events_follow_a_sequence_for_all_an_org_a_suite_or_a_job(
    read_model: ReadModel, author: Author, near: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qgjet_projections.readmodel.queries.event._NEAR", near)
    mine = author.run(job_id="mine", suite_ids=("s",))
    author.run(job_id="other", org_id="other", suite_ids=("s",))
    author.run(job_id="none", test="none")
    apply(read_model.path, author.messages)

    def seqs(after_seq: int = 0, **wanted: str) -> list[int]:
        return [one.seq for one in read_model.events(after_seq=after_seq, **wanted)]  # type: ignore[arg-type]

    assert seqs() == list(range(1, 10))
    assert seqs(after_seq=7) == [8, 9]
    assert seqs(org_id="other") == [4, 5, 6]
    assert seqs(suite_id="s") == [1, 2, 3, 4, 5, 6]
    assert seqs(suite_id="s", org_id="acme", after_seq=1) == [2, 3]
    assert seqs(job_id="mine") == [1, 2, 3]
    assert seqs(job_id="mine", org_id="other") == []
    first = read_model.events(after_seq=0, limit=1)[0]
    assert (first.type, first.at, first.job_id, first.payload) == (
        "submitted",
        NOW,
        mine.job_id,
        author.messages[0].data,
    )


# -- suites, partitions, counts ------------------------------------------------------------------------------------------------


def test_a_suite_counts_its_jobs_and_ends_with_the_last(
    read_model: ReadModel, author: Author
) -> None:
    author.run(test="a", suite_ids=("s",))
    author.run(Verdict.FAILED, test="b", suite_ids=("s",))
    last = author.submit(test="c", suite_ids=("s",))
    apply(read_model.path, author.messages)
    suite = read_model.suite("s")
    assert suite is not None
    assert (suite.jobs, suite.live, suite.finished_at, suite.created_at, suite.org_id) == (
        3,
        1,
        None,
        NOW,
        "acme",
    )
    author.tell(last.slot, Cancel("me"))
    apply(read_model.path, author.messages)
    suite = read_model.suite("s", "acme")
    assert suite is not None
    assert (suite.live, suite.finished_at, suite.seq) == (0, NOW + timedelta(seconds=7), 8)
    assert suite.statuses == {"done": 1, "failed": 1, "cancelled": 1}
    assert suite.verdicts == {"passed": 1, "failed": 1, "cancelled": 1}
    assert read_model.suite("s", "other") is None


def test_suites_come_newest_first_page_by_page(read_model: ReadModel, author: Author) -> None:
    for number in range(5):
        author.submit(test=f"{number}", suite_ids=(f"s{number}", f"t{number}"))
    author.submit(org_id="other", suite_ids=("s9",))
    author.submit(test="late", suite_ids=("s0",))
    apply(read_model.path, author.messages)
    found, cursor = [], None
    while True:
        page = read_model.suites("acme", limit=3, cursor=cursor)
        found += [suite.suite_id for suite in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == ["t4", "s4", "t3", "s3", "t2", "s2", "t1", "s1", "t0", "s0"]
    assert [suite.suite_id for suite in read_model.suites(limit=1).items] == ["s9"]


def test_partitions_show_what_waits_and_runs(read_model: ReadModel, author: Author) -> None:
    author.submit(test="a", rank=1)
    author.submit(test="b", rank=1)
    author.submit(test="c", rank=9)
    author.start(author.submit(test="d", target="device"))
    author.run(test="e", target="browserstack")
    apply(read_model.path, author.messages)
    device, emulator = read_model.partitions()
    assert (device.target, device.queued, device.running, device.oldest_queued_at) == (
        "device",
        0,
        1,
        None,
    )
    assert (
        emulator.queued,
        emulator.queued_by_rank,
        emulator.running,
        emulator.oldest_queued_at,
    ) == (3, {1: 2, 9: 1}, 0, NOW)


def test_counts_for_metrics(read_model: ReadModel, author: Author) -> None:
    assert read_model.counts().jobs == {}
    author.run(test="a")
    author.run(Verdict.SKIPPED, test="b")
    author.submit(test="c", target="device")
    apply(read_model.path, author.messages)
    counts = read_model.counts()
    assert counts.jobs == {("emulator", Status.DONE): 2, ("device", Status.QUEUED): 1}
    assert counts.finished == {("emulator", Verdict.PASSED): 1, ("emulator", Verdict.SKIPPED): 1}
    assert counts.attempts == {"emulator": 2, "device": 0}
    assert counts.oldest_queued_at == {"device": NOW + timedelta(seconds=6)}


def test_maintenance_sees_partition_queues_in_use_and_jobs_that_are_due(
    read_model: ReadModel, author: Author
) -> None:
    """By the times at which the server stored an event, whatever its writer's clock showed."""
    late, early = NOW + timedelta(days=100), NOW - timedelta(days=100)
    author.now = late
    first = author.submit(job_id="first", test="1", queue_timeout_s=1.5)
    author.now = early
    urgent = author.submit(job_id="urgent", test="2", rank=0, queue_timeout_s=100.0)
    running = author.submit(job_id="running", test="3", target="device", queue_timeout_s=0.5)
    author.start(running)
    author.run(test="finished", app_version_id="2")
    apply(read_model.path, stored(author.messages, NOW))
    activity = read_model.activity()
    lane = Lane(first.partition, first.rank)
    assert activity.applied_seq == author.seq
    assert activity.queued == [lane, Lane(urgent.partition, 0)]
    assert [
        (job.job_id, job.agent, job.slot, job.attempt, job.seq) for job in activity.running
    ] == [("running", "agent-1", running.slot, 1, 4)]
    assert activity.running[0].changed_at == NOW + timedelta(seconds=3)
    assert read_model.waited_too_long(NOW + timedelta(seconds=1)) == []
    assert [job.job_id for job in read_model.waited_too_long(NOW + timedelta(seconds=2))] == [
        "first"
    ]
    assert [job.job_id for job in read_model.queued_in(lane, NOW + timedelta(seconds=1))] == [
        "first"
    ]
    assert read_model.queued_in(lane, NOW) == []


def stored(messages: list[Recorded], at: datetime) -> list[Recorded]:
    """As if the server had stored them a second after each other from `at` on."""
    return [
        replace(one, stored_at=micros(at + timedelta(seconds=number)))
        for number, one in enumerate(messages)
    ]


def test_durations_are_those_of_the_last_runs_of_a_test(
    read_model: ReadModel, author: Author
) -> None:
    for number, duration_s in enumerate([100.0, *[2.0] * 5, *[4.0] * 4, 3.0]):
        author.run(test="a", app_version_id=f"{number}", duration_s=duration_s)
    author.run(Verdict.INFRA_ERROR, test="b", duration_s=1.0)
    author.run(test="c", target="device", duration_s=1.0)
    apply(read_model.path, author.messages)
    durations = read_model.durations("acme", "emulator")
    assert list(durations) == ["a"]
    assert (durations["a"].median_s, durations["a"].last_s, durations["a"].runs) == (2.5, 3.0, 11)


def test_durations_are_found_without_looking_through_everything(
    read_model: ReadModel, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither through the jobs of other orgs, nor through all those on other targets."""
    author.run(org_id="small", test="a", duration_s=1.0)
    author.run(test="old", target="device", duration_s=1.0)
    for number in range(500):
        author.run(test=f"{number}", duration_s=1.0)
    author.run(test="a", target="device", duration_s=1.0)
    apply(read_model.path, author.messages)
    monkeypatch.setattr("qgjet_projections.readmodel.queries.job._RECENT_JOBS", 20)
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    with read_model._snapshot() as connection:
        connection.set_progress_handler(step, 1)
    for org, target in (("small", "emulator"), ("acme", "device")):
        steps = 0
        assert list(read_model.durations(org, target)) == ["a"]
        assert 0 < steps < 700, (org, target, steps)


# -- pruning -------------------------------------------------------------------------------------------------------------------


def test_pruning_leaves_what_was_never_there_and_all_that_lives(
    read_model: ReadModel, tmp_path: Path
) -> None:
    author, young = Author(), Author()
    for number in range(5):
        author.run(test=f"old {number}", suite_ids=("old",), tags={"a": "b"})
    waiting = author.submit(test="waits for long")
    horizon = author.now
    kept = author.messages[-1:]
    young.jobs, young.now, young.messages = dict(author.jobs), author.now, list(kept)
    young.run(test="old 1", suite_ids=("new",))
    young.run(Verdict.FAILED, test="new")
    apply(read_model.path, author.messages + young.messages[1:])
    with contextlib.closing(Writer(read_model.path)) as writer:
        assert _prune(writer, horizon, limit=2) == 5
        assert _prune(writer, horizon, limit=2) == 0
    assert [job.test for job in read_model.jobs(JobQuery()).items] == [
        "new",
        "old 1",
        "waits for long",
    ]
    assert read_model.job(waiting.job_id) is not None
    expected = tmp_path / "expected"
    schema.prepare(expected)
    apply(expected, young.messages)
    assert content(read_model.path) == content(expected)


def _prune(writer: Writer, before: datetime, limit: int) -> int:
    """As if the log had forgotten all that it may."""
    deleted = 0
    after_seq: int | None = 0
    while after_seq is not None:
        jobs, others, after_seq = writer.old(before, after_seq, limit)
        writer.forget(jobs, others, writer.position().stream_created)
        deleted += len(jobs)
    return deleted


# -- the file ------------------------------------------------------------------------------------------------------------------


def test_a_file_is_kept_when_it_is_opened_again(tmp_path: Path, author: Author) -> None:
    path = tmp_path / "new" / "directory" / "read-model.sqlite"
    wanted = author.submit()
    ReadModel.open(path).close()
    apply(path, author.messages)
    again = ReadModel.open(path)
    assert again.job(wanted.job_id) is not None
    assert again.applied_seq == 1
    again.close()
    again.close()
    with pytest.raises(RuntimeError, match="closed"):
        again.job("any")


def _scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(30_000))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda path: path.write_bytes(b"this is not a database, it is a letter to you" * 100),
            "damaged",
        ),
        (_scribble, "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:20_000]), "damaged"),
        (lambda path: _run(path, "PRAGMA user_version = 999"), "another version"),
    ],
)
def test_a_file_that_cannot_be_used_is_made_anew(
    tmp_path: Path,
    author: Author,
    harm: Callable[[Path], object],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "read-model.sqlite"
    ReadModel.open(path).close()
    for number in range(200):
        author.submit(test=f"{number}")
    apply(path, author.messages)
    harm(path)
    opened = ReadModel.open(path)
    assert opened.applied_seq == 0
    assert said in caplog.text
    apply(path, author.messages)
    assert len(opened.jobs(JobQuery(limit=500)).items) == 200
    opened.close()


def _run(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)


def test_a_database_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "payroll.sqlite"
    _run(path, "CREATE TABLE salaries (name TEXT)")
    with pytest.raises(SchemaMismatch, match="payroll"):
        ReadModel.open(path)
    _run(path, "INSERT INTO salaries VALUES ('me')")


def test_processes_may_open_a_new_file_at_the_same_moment(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from qgjet_projections.readmodel import ReadModel; ReadModel.open(Path(sys.argv[1])).close()"
    path = tmp_path / "read-model.sqlite"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]


def test_readers_in_many_threads_see_whole_transactions(
    read_model: ReadModel, author: Author
) -> None:
    for number in range(300):
        author.run(test=f"{number}", suite_ids=("s",))
    wrong: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            counts = read_model.counts()
            if sum(counts.finished.values()) != counts.jobs.get(("emulator", Status.DONE), 0):
                wrong.append(counts)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    with contextlib.closing(Writer(read_model.path)) as writer:
        apply_with(writer, author.messages, batch=7)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_times_are_exact_and_never_out_of_range() -> None:
    for at in (
        NOW,
        NOW.replace(microsecond=999_999),
        NOW.replace(year=1, microsecond=1),
        NOW.replace(year=9999),
    ):
        assert instant(micros(at)) == at
    assert instant(-(10**18)).year == 1
    assert instant(10**18).year == 9999
