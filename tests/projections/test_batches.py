"""The rows of the read model against the rules of `qgjet.domain.job`, however the log is cut into
batches. No server.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from random import Random

import msgspec
import pytest
from histories import HOSTILE, Author, apply, apply_with, content, message, started_by_nobody
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies  # noqa: F401 - its profile
from factories import NOW, spec
from qgjet.domain import suite
from qgjet.domain.decide import Cancel, OnDuplicate
from qgjet.domain.events import INCONCLUSIVE, Slot, Status, Submitted, Verdict
from qgjet.domain.job import evolve
from qgjet.domain.suite import SuiteOpened
from qgjet.errors import UndecodableEvent
from qgjet.store.event_log import Recorded
from qgjet_projections.readmodel import ReadModel, schema
from qgjet_projections.readmodel import apply as batches
from qgjet_projections.readmodel.apply import DAY, Row, slot_key
from qgjet_projections.readmodel.schema import instant
from qgjet_projections.readmodel.views import TestQuery
from qgjet_projections.readmodel.writer import Writer

histories = st.builds(
    lambda seed, steps: Author(seed).history(steps), st.integers(0, 2**32), st.integers(0, 150)
)


def empty(directory: str, name: str) -> Path:
    path = Path(directory) / name
    schema.prepare(path)
    return path


@settings(max_examples=30)
@given(histories, st.data())
def test_any_division_into_batches_with_any_restarts_gives_the_same_content(
    history: list[Recorded], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        whole, pieces = empty(directory, "whole"), empty(directory, "pieces")
        apply(whole, history)
        rest = history
        while rest:
            now, rest = _split(rest, data.draw(st.integers(1, len(rest))))
            apply(pieces, now, batch=data.draw(st.integers(1, 40)))
        assert content(pieces) == content(whole)


def _split(messages: list[Recorded], at: int) -> tuple[list[Recorded], list[Recorded]]:
    return messages[:at], messages[at:]


@given(histories)
def test_the_latest_row_of_a_slot_is_the_fold_of_its_history(history: list[Recorded]) -> None:
    keys = {key for one in history if (key := slot_key(one.subject)) is not None}
    with tempfile.TemporaryDirectory() as directory:
        path = empty(directory, "read-model")
        apply(path, history, batch=7)
        rows = {row.slot: row for row in all_rows(path)}  # later submissions last
        for key in keys:
            job = None
            for one in history:
                if slot_key(one.subject) == key:
                    event = None if "%FF" in key else one.event
                    job = (
                        evolve(job, event, one.seq)
                        if event
                        else job and msgspec.structs.replace(job, version=one.seq)
                    )
            kept = job and msgspec.structs.replace(
                job, unresolved=(), unresolved_omitted=0, first_failure=None
            )
            assert (batches.standing_of(rows[key]).job if key in rows else None) == kept


@given(histories)
def test_what_is_repeated_for_queries_agrees_with_the_rows(history: list[Recorded]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = empty(directory, "read-model")
        apply(path, history, batch=5)
        rows, tables = all_rows(path), content(path)
        tallies: Counter[tuple[str, str, str]] = Counter(
            (row.target, row.status, row.verdict or "") for row in rows
        )
        attempts: Counter[tuple[str, str, str]] = Counter()
        for row in rows:
            attempts[row.target, row.status, row.verdict or ""] += row.attempt
        assert {(one[:3], one[3], one[4]) for one in tables["tallies"]} == {
            (key, count, attempts[key]) for key, count in tallies.items()
        }
        created = {
            (suite_id, row.org_id, row.submitted_seq, 0)
            for row in rows
            for suite_id in msgspec.json.decode(row.suite_ids)
        }
        assert {one for one in tables["suite_jobs"] if not one[3]} == created
        assert {one for one in tables["suite_jobs"] if one[3]} == attached_to_suites(
            history, rows
        ) - {(*one[:3], 1) for one in created}
        assert len(tables["openings"]) == len(openings_in(history))
        tags = {
            (*tag, row.submitted_seq)
            for row in rows
            for tag in msgspec.json.decode(row.tags).items()
        }
        assert set(tables["job_tags"]) == tags
        assert [one[0] for one in sorted(tables["events"])] == [one.seq for one in history]


@given(histories, st.randoms(use_true_random=False))
def test_statistics_and_suites_follow_from_what_is_there_before_and_after_pruning(
    history: list[Recorded], random: Random
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = empty(directory, "read-model")
        apply(path, history, batch=6)
        assert_sums(path)
        ended = [row.submitted_seq for row in all_rows(path) if row.finished_at is not None]
        others = [one[0] for one in content(path)["events"] if one[3] == 0]
        with contextlib.closing(Writer(path)) as writer:
            for _ in range(3):
                jobs, events = (
                    random.sample(found, random.randint(0, len(found))) for found in (ended, others)
                )
                writer.forget(jobs, events, writer.position().stream_created)
                assert_sums(path)
            writer.forget(ended, others, writer.position().stream_created)
        assert [content(path)[table] for table in ("hours", "tests", "test_days", "openings")] == [
            [],
            [],
            [],
            [],
        ]
        assert_sums(path)


ends = st.tuples(
    st.integers(0, 6),
    st.sampled_from(list(Verdict)[:5]),
    st.sampled_from(["a", "b"]),
    st.sampled_from([0.0, 1.5]),
)


@given(st.lists(ends, max_size=25), st.integers(1, 40), st.randoms(use_true_random=False))
def test_tests_are_added_up_by_day_in_whatever_order_the_days_come(
    found: list[tuple[int, Verdict, str, float]], batch: int, random: Random
) -> None:
    """Clocks of agents differ, and what is pruned comes first."""
    author = Author()
    for day, verdict, test, duration_s in found:
        author.now = NOW + timedelta(days=day)
        author.run(verdict, test=test, duration_s=duration_s)
    with tempfile.TemporaryDirectory() as directory:
        path = empty(directory, "read-model")
        apply(path, author.messages, batch=batch)
        assert_sums(path)
        with contextlib.closing(Writer(path)) as writer:
            old = [row.submitted_seq for row in all_rows(path)]
            writer.forget(
                random.sample(old, random.randint(0, len(old))),
                [],
                writer.position().stream_created,
            )
        assert_sums(path)


def assert_sums(path: Path) -> None:
    rows, tables = [row for row in all_rows(path) if row.finished_at is not None], content(path)
    hour = 3_600_000_000
    assert {one[:4]: one[4] for one in tables["hours"]} == Counter(
        (row.finished_at // hour, row.org_id, row.target, row.verdict) for row in rows
    )  # type: ignore[operator]
    tests: dict[tuple[str, str, str], dict[int, Counter[str]]] = {}
    for row in rows:
        days = tests.setdefault((row.test, row.target, row.org_id), {})
        sums = days.setdefault(row.finished_at // (24 * hour), Counter())  # type: ignore[operator]
        sums.update(
            {
                "jobs": 1,
                str(row.verdict): 1,
                "timed": int(row.duration_s is not None),
                "duration_ms": round((row.duration_s or 0) * 1000),
            }
        )
    totals, before = set(), set()
    for key, days in tests.items():
        so_far: Counter[str] = Counter()
        for day, sums in sorted(days.items()):
            before.add((*key, day, sums["jobs"], *(so_far[name] for name in batches.TEST_SUMS)))
            so_far.update(sums)
        totals.add((*key, *(so_far[name] for name in batches.TEST_SUMS)))
    assert (set(tables["tests"]), set(tables["test_days"])) == (totals, before)
    assert_days(path, tests)
    begun: dict[tuple[str, str], int] = {}
    for suite_id, org_id, seq in [one[:3] for one in tables["suite_jobs"] if not one[3]] + [
        (one[1], one[2], one[0]) for one in tables["openings"]
    ]:
        begun[suite_id, org_id] = min(seq, begun.get((suite_id, org_id), seq))
    assert {one[:2]: one[2] for one in tables["suites"]} == begun


def assert_days(path: Path, tests: dict[tuple[str, str, str], dict[int, Counter[str]]]) -> None:
    """What is answered about tests since each of their days, and day by day."""
    each = {
        (*key, instant(day * DAY)): verdicts_in(sums)
        for key, days in tests.items()
        for day, sums in days.items()
    }
    with contextlib.closing(ReadModel(path)) as model:
        for since in {instant(0)} | {day for *_, day in each}:
            wanted = {
                key: sum(
                    (sums for day, sums in days.items() if instant(day * DAY) >= since),
                    Counter[str](),
                )
                for key, days in tests.items()
            }
            shown = {
                (one.test, one.target, one.org_id): one
                for one in model.tests(TestQuery(since=since)).items
            }
            assert {key: one.verdicts for key, one in shown.items()} == {
                key: verdicts_in(sums) for key, sums in wanted.items() if sums
            }
            assert all(
                one.mean_s
                == (
                    wanted[key]["duration_ms"] / timed / 1000
                    if (timed := wanted[key]["timed"])
                    else None
                )
                for key, one in shown.items()
            )
            by_day = {
                (one.test, one.target, one.org_id, one.day): one.verdicts
                for one in model.test_days(TestQuery(since=since))
            }
            assert by_day == {key: verdicts for key, verdicts in each.items() if key[-1] >= since}


def verdicts_in(sums: Counter[str]) -> dict[str, int]:
    return {verdict.value: sums[verdict] for verdict in Verdict if sums[verdict]}


@given(histories)
def test_dead_letters_are_the_jobs_without_a_verdict_until_somebody_deals_with_them(
    history: list[Recorded],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = empty(directory, "read-model")
        apply(path, history, batch=9)
        rows, tables = all_rows(path), content(path)

    def latest(job_id: str, org_id: str, before: int) -> int | None:
        return max(
            (
                row.submitted_seq
                for row in rows
                if (row.job_id, row.org_id) == (job_id, org_id) and row.submitted_seq < before
            ),
            default=None,
        )

    expected: dict[int | None, str] = {}
    for seq, _, name, submitted_seq, org_id, legal, data in sorted(tables["events"]):
        said = msgspec.json.decode(data) if legal else {}
        if name == "finished" and said.get("verdict") in INCONCLUSIVE:
            expected[submitted_seq] = ""
        subject = (
            said.get("spec", {}).get("rerun_of")
            if name == "submitted"
            else said.get("name")
            if name == "discarded"
            else None
        )
        about = latest(subject, org_id, seq) if subject else None
        if expected.get(about) == "":
            expected[about] = "redriven" if name == "submitted" else "discarded"
    assert {seq: settled for seq, _, _, settled, *_ in tables["dead_letters"]} == expected


def openings_in(history: list[Recorded]) -> list[tuple[int, SuiteOpened]]:
    found = []
    for one in history:
        with contextlib.suppress(UndecodableEvent):
            found += (
                [(one.seq, suite.decode(one.data))] if one.subject.startswith("qg.suite.") else []
            )
    return found


def attached_to_suites(history: list[Recorded], rows: list[Row]) -> set[tuple[str, str, int, int]]:
    """By the job's last submission before the suite's event."""
    found = set()
    for seq, event in openings_in(history):
        for member in event.jobs:
            earlier = [
                row.submitted_seq
                for row in rows
                if row.job_id == member.job_id and row.submitted_seq < seq
            ]
            if member.attached and earlier:
                found.add((event.suite_id, event.org_id, max(earlier), 1))
    return found


def all_rows(path: Path) -> list[Row]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [
            Row(*found) for found in connection.execute("SELECT * FROM jobs ORDER BY submitted_seq")
        ]


def test_the_row_has_the_columns_of_the_table_in_their_order(tmp_path: Path) -> None:
    path = empty(str(tmp_path), "read-model")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        columns = tuple(name for _, name, *_ in connection.execute("PRAGMA table_info(jobs)"))
    assert Row.__struct_fields__ == columns


def test_a_batch_that_was_applied_is_not_applied_again(read_model: ReadModel) -> None:
    history = Author(1).history(60)
    apply(read_model.path, history)
    before = content(read_model.path)
    apply(read_model.path, history)
    apply(read_model.path, history[30:])
    assert content(read_model.path) == before


def test_two_writers_on_one_file_apply_every_event_once(
    read_model: ReadModel, tmp_path: Path
) -> None:
    history = Author(2).history(200)
    with (
        contextlib.closing(Writer(read_model.path)) as one,
        contextlib.closing(Writer(read_model.path)) as other,
    ):
        at_one, at_other = one.position(), other.position()
        for start in range(0, len(history), 10):
            at_one, _ = one.apply(history[start : start + 10], at_one)
            at_other, _ = other.apply(history[start : start + 15], at_other)
    alone = empty(str(tmp_path), "alone")
    apply(alone, history)
    assert content(read_model.path) == content(alone)


def test_a_writer_stops_when_another_one_has_emptied_the_file(read_model: ReadModel) -> None:
    history = Author(3).history(50)
    with (
        contextlib.closing(Writer(read_model.path)) as one,
        contextlib.closing(Writer(read_model.path)) as other,
    ):
        position = apply_with(one, history[:20])
        other.reset("another log")
        found, _ = one.apply(history[20:], position)
        assert found.applied_seq == 0
        assert found.stream_created == "another log"
    assert content(read_model.path)["events"] == []


def test_a_transaction_that_fails_leaves_nothing_behind(
    read_model: ReadModel, tmp_path: Path
) -> None:
    history = Author(4).history(80)
    bad = Recorded(history[39].seq, history[39].subject, history[39].event, None)  # type: ignore[arg-type]
    with contextlib.closing(Writer(read_model.path)) as writer:
        position = apply_with(writer, history[:30])
        with contextlib.suppress(sqlite3.IntegrityError, TypeError):
            writer.apply([*history[30:39], bad], position)
        assert writer.position() == position
        apply_with(writer, history[30:])
    alone = empty(str(tmp_path), "alone")
    apply(alone, history)
    assert content(read_model.path) == content(alone)


def test_more_slots_than_are_kept_in_memory_make_no_difference(
    read_model: ReadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = Author(5).history(300)
    alone = empty(str(tmp_path), "alone")
    apply(alone, history, batch=3)
    monkeypatch.setattr("qgjet_projections.readmodel.writer.KNOWN_SLOTS", 1)
    monkeypatch.setattr("qgjet_projections.readmodel.writer._KEYS_PER_STATEMENT", (1, 2))
    apply(read_model.path, history, batch=3)
    assert content(read_model.path) == content(alone)


def test_an_illegal_event_stays_in_the_history_and_moves_only_the_version(
    read_model: ReadModel,
) -> None:
    author = Author()
    wanted = author.submit()
    author.append(wanted.slot, started_by_nobody("somebody else"))
    apply(read_model.path, author.messages[:1])
    before = read_model.job(wanted.job_id)
    apply(read_model.path, author.messages[1:])
    after = read_model.job(wanted.job_id)
    assert before is not None
    assert after == msgspec.structs.replace(before, seq=2)
    assert [
        (one.type, one.legal) for one in read_model.events(after_seq=0, job_id=wanted.job_id)
    ] == [("submitted", True), ("started", False)]
    assert read_model.attempts(wanted.job_id) == []


def test_an_event_of_an_unknown_type_stays_in_the_history_of_its_job(read_model: ReadModel) -> None:
    author = Author()
    wanted = author.submit()
    subject = author.messages[0].subject.replace("submitted.p5", "paused_for_lunch")
    apply(read_model.path, [*author.messages, Recorded(2, subject, None, b"\xff\x00")])
    unknown, job = (
        read_model.events(after_seq=1, job_id=wanted.job_id)[0],
        read_model.job(wanted.job_id),
    )
    assert (unknown.type, unknown.at, unknown.legal, unknown.payload, unknown.org_id) == (
        "paused_for_lunch",
        None,
        False,
        b"\xff\x00",
        "acme",
    )
    assert job is not None
    assert job.seq == 2


def test_a_replaced_job_ends_cancelled_and_its_history_shows_by_what(read_model: ReadModel) -> None:
    author = Author()
    old = author.submit(suite_ids=("suite-1",))
    author.start(old)
    new = author.submit(OnDuplicate.REPLACE)
    apply(read_model.path, author.messages)
    job, attempt = read_model.job(old.job_id), read_model.attempts(old.job_id)[0]
    assert job is not None
    assert (job.status, job.verdict, job.reason, job.replaced_by, job.seq) == (
        Status.CANCELLED,
        Verdict.CANCELLED,
        "replaced",
        new.job_id,
        3,
    )
    assert (attempt.ended_by, attempt.verdict, attempt.ended_at) == (
        "replaced",
        Verdict.CANCELLED,
        job.finished_at,
    )
    for history in (
        read_model.events(after_seq=0, job_id=old.job_id),
        read_model.events(after_seq=0, suite_id="suite-1"),
    ):
        assert [(one.type, one.job_id) for one in history] == [
            ("submitted", old.job_id),
            ("started", old.job_id),
            ("submitted", new.job_id),
        ]


def test_numbers_that_no_column_holds_are_kept_in_the_history_only(read_model: ReadModel) -> None:
    wanted = spec(max_retries=2**64)
    event = Submitted(
        job_id=wanted.job_id, at=NOW, status=Status.QUEUED, retries_left=2**64, spec=wanted
    )
    apply(read_model.path, [message(1, wanted.slot, event)])
    assert read_model.job(wanted.job_id) is None
    assert [one.legal for one in read_model.events(after_seq=0)] == [False]


def test_hostile_text_is_data(read_model: ReadModel) -> None:
    author = Author()
    long = HOSTILE * 250
    wanted = author.submit(
        job_id=HOSTILE,
        org_id="'",
        test="';--",
        suite_ids=(HOSTILE,),
        tags={HOSTILE: long},
        submitted_by=long,
    )
    author.start(wanted, agent=HOSTILE)
    author.end(wanted, Verdict.CONFIG_ERROR, message=long)
    apply(read_model.path, author.messages)
    job, suite = read_model.job(HOSTILE), read_model.suite(HOSTILE)
    assert job is not None
    assert suite is not None
    assert (job.message, job.tags, job.suite_ids, job.agent, job.test) == (
        long,
        {HOSTILE: long},
        (HOSTILE,),
        HOSTILE,
        "';--",
    )


def test_one_job_id_on_two_slots_is_two_rows_and_the_last_answers(read_model: ReadModel) -> None:
    author = Author()
    author.submit(job_id="same", test="a")
    author.submit(job_id="same", test="b")
    author.tell(Slot("acme", "1.0.0", "emulator", "a"), Cancel("me"))
    apply(read_model.path, author.messages)
    job = read_model.job("same")
    assert job is not None
    assert (job.test, job.status) == ("b", Status.QUEUED)
    assert len(all_rows(read_model.path)) == 2
