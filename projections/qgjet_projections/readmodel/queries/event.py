"""Events of the log, narrowed to an org, a job or a suite."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Sequence
from typing import Any

from qgjet_projections.readmodel.queries.reader import Reader, check_limit
from qgjet_projections.readmodel.views import EventView, maybe_instant

MAX_EVENTS = 1_000
MAX_PAGE_BYTES = 4 * 1024 * 1024
_NEAR = 1_000
"""This close to its end the log is looked through event by event; what is further back is found by
the jobs of the suite.
"""
_OF_JOB = """(events.submitted_seq IN (SELECT submitted_seq FROM jobs WHERE job_id = :job_id)
    OR events.seq IN (SELECT seq FROM jobs WHERE job_id = :job_id AND replaced_by <> ''))"""
_OF_SUITE = """(events.submitted_seq IN (SELECT submitted_seq FROM suite_jobs WHERE suite_id = :suite_id)
    OR events.seq IN (SELECT seq FROM suite_jobs CROSS JOIN jobs USING (submitted_seq) WHERE suite_id = :suite_id AND replaced_by <> ''))"""


class EventReads(Reader):
    def events(
        self,
        *,
        after_seq: int,
        job_id: str | None = None,
        org_id: str | None = None,
        suite_id: str | None = None,
        limit: int = MAX_EVENTS,
    ) -> list[EventView]:
        """Events after a sequence, in order. Those of a job, or a suite, include the submission
        that replaced the job: it is the job's end.
        """
        return self.event_page(
            after_seq=after_seq,
            job_id=job_id,
            org_id=org_id,
            suite_id=suite_id,
            limit=limit,
            max_bytes=sys.maxsize,
        )[0]

    def event_page(
        self,
        *,
        after_seq: int,
        job_id: str | None = None,
        org_id: str | None = None,
        suite_id: str | None = None,
        limit: int = MAX_EVENTS,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> tuple[list[EventView], bool]:
        """The same, bounded in bytes of payload but for its first event; and whether more may
        follow.
        """
        check_limit(limit, MAX_EVENTS)
        page: list[EventView] = []
        room = max_bytes
        with self._snapshot() as connection:
            (applied_seq,) = connection.execute("SELECT applied_seq FROM position").fetchone()
            near = applied_seq - after_seq <= _NEAR
            found = []
            for org in self._asked(org_id):
                sql = _select_events(near=near, job_id=job_id, org_id=org, suite_id=suite_id)
                values = {
                    "after_seq": after_seq,
                    "job_id": job_id,
                    "org_id": org,
                    "suite_id": suite_id,
                    "limit": limit,
                }
                found.append(connection.execute(sql, values))
            for one in map(_event_view, heapq.merge(*found, key=lambda one: int(one[0]))):
                room -= len(one.payload)
                if page and room < 0:
                    return page, True
                page.append(one)
                if len(page) == limit:
                    return page, True
        return page, False


def _select_events(
    *, near: bool, job_id: str | None, org_id: str | None, suite_id: str | None
) -> str:
    narrower = job_id is not None or suite_id is not None
    of_org = f"{'+' if narrower else ''}events.org_id = :org_id"  # the plus: look for the job, and not through all events of its org
    wanted = ((_OF_JOB, job_id), (_OF_SUITE, suite_id), (of_org, org_id))
    conditions = [
        "events.seq > :after_seq",
        *(condition for condition, value in wanted if value is not None),
    ]
    return f"""SELECT events.seq, at, type, coalesce(job_id, ''), events.org_id, legal, data
        FROM events {"NOT INDEXED" if near else ""} LEFT JOIN jobs USING (submitted_seq)
        WHERE {" AND ".join(conditions)} ORDER BY events.seq LIMIT :limit"""


def _event_view(found: Sequence[Any]) -> EventView:
    seq, at, name, job_id, org_id, legal, data = found
    return EventView(
        seq=seq,
        at=maybe_instant(at),
        type=name,
        job_id=job_id,
        org_id=org_id,
        legal=bool(legal),
        payload=data,
    )
