"""A read model that is bound to orgs is the same as one that holds nothing else. No server."""

from __future__ import annotations

import itertools
import random
import sqlite3
from typing import Any

import pytest
from histories import Author, apply
from msgspec.structs import replace

from factories import NOW
from qgjet.domain.events import Status, Verdict
from qgjet_projections.readmodel import JobQuery, ReadModel, schema
from qgjet_projections.readmodel.queries import event
from qgjet_projections.readmodel.queries.job import _select_jobs
from qgjet_projections.readmodel.views import DeadQuery

ORGS = ("acme", "acme.x", "globex", "initech")


@pytest.fixture
def filled(read_model: ReadModel) -> ReadModel:
    """Jobs of four orgs that look alike: same tests, tags, suites and versions; some live, some
    ended, some replaced.
    """
    author, rng = Author(seed=3), random.Random(3)
    for number in range(60):
        org = rng.choice(ORGS[:3])
        fields: dict[str, Any] = {
            "org_id": org,
            "job_id": f"{org}-{number}",
            "suite_ids": ("s",) if number % 3 else (),
            "tags": {"branch": "main"},
        }
        if number % 4:
            author.run(
                rng.choice([Verdict.PASSED, Verdict.FAILED, Verdict.CONFIG_ERROR]),
                test=f"t{number % 5}",
                **fields,
            )
        else:
            author.submit(test=f"live{number}", **fields)
    apply(read_model.path, author.messages)
    return read_model


def pages(reads: ReadModel, query: JobQuery) -> list[str]:
    """The job ids of all pages, of two jobs each."""
    found, cursor = [], None
    while True:
        page = reads.jobs(replace(query, cursor=cursor, limit=2))
        found += [job.job_id for job in page.items]
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


QUERIES = (
    JobQuery(),
    JobQuery(org_id="acme"),
    JobQuery(org_id="globex", app_version_id="1.0.0"),
    JobQuery(status=Status.QUEUED),
    JobQuery(status=Status.DONE),
    JobQuery(verdict=Verdict.FAILED, target="emulator"),
    JobQuery(suite_id="s"),
    JobQuery(suite_id="s", created=True),
    JobQuery(tags={"branch": "main"}),
)


@pytest.mark.parametrize("size", [0, 1, 2, 4])
def test_every_question_is_answered_as_if_there_were_no_other_orgs(
    filled: ReadModel, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [job for query in (JobQuery(),) for job in filled.all_jobs(query)]
    all_events = filled.events(after_seq=0)
    assert filled.dead_letters(DeadQuery()).items
    assert filled.waiting(NOW)
    for orgs in map(frozenset, itertools.combinations(ORGS, size)):
        reads = filled.seen_by(orgs)
        for query in QUERIES:
            wanted = [
                job_id for job_id in pages(filled, query) if job_id.rpartition("-")[0] in orgs
            ]
            assert pages(reads, query) == wanted, (orgs, query)
        for job in everything:
            own = job.org_id in orgs
            assert reads.job(job.job_id) == (job if own else None)
            assert reads.attempts(job.job_id) == (filled.attempts(job.job_id) if own else [])
            assert reads.spec(job.job_id) == (filled.spec(job.job_id) if own else None)
        for near, after in ((0, 0), (1_000, 0), (1_000, 37)):
            monkeypatch.setattr(event, "_NEAR", near)
            assert reads.events(after_seq=after) == [
                one for one in all_events if one.seq > after and one.org_id in orgs
            ]
            assert (
                reads.events(after_seq=after, limit=3)
                == [one for one in all_events if one.seq > after and one.org_id in orgs][:3]
            )
            assert reads.events(after_seq=after, suite_id="s") == [
                one for one in filled.events(after_seq=after, suite_id="s") if one.org_id in orgs
            ]
            for job in everything[:9]:
                assert reads.events(after_seq=after, job_id=job.job_id) == (
                    filled.events(after_seq=after, job_id=job.job_id) if job.org_id in orgs else []
                )
        assert reads.suites().items == [
            suite for suite in filled.suites().items if suite.org_id in orgs
        ]
        assert reads.suites("acme").items == [
            suite for suite in filled.suites("acme").items if suite.org_id in orgs
        ]
        assert reads.partitions() == [one for one in filled.partitions() if one.org_id in orgs]
        assert reads.waiting(NOW) == [
            one for one in filled.waiting(NOW) if one.partition.org_id in orgs
        ]
        assert reads.dead_letters(DeadQuery()).items == [
            one for one in filled.dead_letters(DeadQuery()).items if one.job.org_id in orgs
        ]
        first = min(orgs & set(ORGS[:3]), default=None)
        assert reads.suite("s") == (filled.suite("s", first) if first else None)
        for org in ORGS:
            assert reads.suite("s", org) == (filled.suite("s", org) if org in orgs else None)
            assert reads.durations(org, "emulator") == (
                filled.durations(org, "emulator") if org in orgs else {}
            )


def test_a_view_of_a_view_sees_what_both_see_and_closes_with_the_whole(filled: ReadModel) -> None:
    both = filled.seen_by(frozenset({"acme", "globex"})).seen_by(frozenset({"acme", "initech"}))
    assert {job.org_id for job in both.all_jobs(JobQuery())} == {"acme"}
    assert filled.seen_by(None) is filled
    filled.close()
    with pytest.raises(RuntimeError, match="is closed"):
        both.jobs(JobQuery())


@pytest.mark.parametrize(
    "query",
    [JobQuery(org_id="acme"), JobQuery(org_id="acme", target="emulator", verdict=Verdict.PASSED)],
)
def test_the_jobs_of_an_org_are_found_by_its_index_and_come_in_order(
    filled: ReadModel, query: JobQuery
) -> None:
    sql, values = _select_jobs(query)
    connection: sqlite3.Connection = schema.connect(filled.path)
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))
    connection.close()
    assert "jobs_of_org (org_id=? AND rowid<?)" in plan
    assert "TEMP B-TREE" not in plan
