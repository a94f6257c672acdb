"""What maintenance asks for: jobs that are due for something, and partition queues in use. Each
question reads what it answers with, not all active jobs.

Times are those at which the server stored an event, so an answer does not depend on the clock of a
client or an agent.
"""

from __future__ import annotations

from datetime import datetime

from qgjet.domain.events import Partition, Slot, Status
from qgjet.domain.subjects import Lane
from qgjet_projections.readmodel.apply import Row
from qgjet_projections.readmodel.queries.reader import BY_STATUS, COLUMNS, Reader
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.views import Activity, LiveJob, maybe_instant

MAX_DUE = 1_000
"""Jobs in one answer. The next question finds the others: what was acted on is not due any more."""


class MaintenanceReads(Reader):
    def activity(self) -> Activity:
        """Which partition queues are in use, at one moment: a job that an agent gives back
        meanwhile is in one of both lists.
        """
        queued = """
            SELECT org_id, app_version_id, target, rank FROM jobs INDEXED BY jobs_by_queue WHERE status = 'queued'
            GROUP BY 1, 2, 3, 4 ORDER BY min(changed_at)"""
        running = f"SELECT {COLUMNS} FROM {BY_STATUS} WHERE status <> 'done' AND status = 'running' ORDER BY submitted_seq"
        with self._snapshot() as connection:
            (applied_seq,) = connection.execute("SELECT applied_seq FROM position").fetchone()
            return Activity(
                applied_seq=applied_seq,
                queued=[
                    Lane(Partition(*tokens), rank) for *tokens, rank in connection.execute(queued)
                ],
                running=[_live_job(Row(*found)) for found in connection.execute(running)],
            )

    def queued_in(self, lane: Lane, before: datetime) -> list[LiveJob]:
        """Queued jobs of a partition queue that nothing has happened to since `before`, and whose
        retry was due then.
        """
        sql = f"""
            SELECT {COLUMNS} FROM jobs INDEXED BY jobs_by_queue
            WHERE status = 'queued' AND (org_id, app_version_id, target, rank) = (:org_id, :app_version_id, :target, :rank) AND changed_at < :before
            AND coalesce(retry_at, 0) < :before ORDER BY changed_at LIMIT {MAX_DUE}"""
        partition = lane.partition
        return self._live(
            sql,
            org_id=partition.org_id,
            app_version_id=partition.app_version_id,
            target=partition.target,
            rank=lane.rank,
            before=micros(before),
        )

    def waited_too_long(self, now: datetime) -> list[LiveJob]:
        """Jobs that no agent has started within their queue timeout."""
        sql = f"""
            SELECT {COLUMNS} FROM jobs INDEXED BY jobs_by_start_deadline
            WHERE status = 'queued' AND attempt = 0 AND queue_timeout_s IS NOT NULL AND accepted_at + queue_timeout_s * 1e6 < :now
            ORDER BY accepted_at + queue_timeout_s * 1e6 LIMIT {MAX_DUE}"""
        return self._live(sql, now=micros(now))

    def incomplete_submissions(self, before: datetime) -> list[tuple[str, str, str]]:
        """(org, suite, submission) of large submissions of which the server has stored nothing
        since `before`.
        """
        sql = """
            SELECT org_id, suite_id, submission FROM openings AS last INDEXED BY openings_unfinished
            WHERE to_come > 0 AND stored_at < ? AND NOT EXISTS (
                SELECT * FROM openings AS later
                WHERE (later.suite_id, later.org_id, later.submission) = (last.suite_id, last.org_id, last.submission) AND later.seq > last.seq
            ) ORDER BY seq"""
        with self._snapshot() as connection:
            return connection.execute(sql, (micros(before),)).fetchall()

    def _live(self, sql: str, **values: str | int) -> list[LiveJob]:
        with self._snapshot() as connection:
            return [_live_job(Row(*found)) for found in connection.execute(sql, values)]


def _live_job(row: Row) -> LiveJob:
    return LiveJob(
        job_id=row.job_id,
        slot=Slot(row.org_id, row.app_version_id, row.target, row.test),
        ticket=row.ticket,
        rank=row.rank,
        agent=row.agent if row.status == Status.RUNNING else "",
        attempt=row.attempt,
        changed_at=instant(row.changed_at),
        retry_at=maybe_instant(row.retry_at),
        queue_timeout_s=row.queue_timeout_s,
        seq=row.seq,
    )
