"""The queue: what waits and runs where, what is paused, and how much of everything there is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from qgjet.domain.control import Kind, Paused
from qgjet.domain.events import ACTIVE, Partition, Status, Verdict
from qgjet.support.text import shortened
from qgjet_projections.readmodel.queries.reader import BY_STATUS, Reader
from qgjet_projections.readmodel.schema import instant, micros
from qgjet_projections.readmodel.views import Counts, PartitionView, WaitingView, maybe_instant

_OF_PARTITION = "(org_id, app_version_id, target) = (:org_id, :app_version_id, :target)"
_LIVE = ", ".join(f"'{status.value}'" for status in sorted(ACTIVE))


class QueueReads(Reader):
    def partitions(self) -> list[PartitionView]:
        """Partitions with live jobs."""
        sql = f"""
            SELECT org_id, app_version_id, target, status, rank, count(*), min(queued_at) FROM {BY_STATUS}
            WHERE status <> 'done' AND status IN ({_LIVE}) AND {self._seen("jobs")} GROUP BY 1, 2, 3, 4, 5"""
        with self._snapshot() as connection:
            found = connection.execute(sql, {"orgs": self._orgs_json}).fetchall()
        partitions: dict[Partition, list[Sequence[Any]]] = {}
        for org_id, app_version_id, target, *lane in found:
            partitions.setdefault(Partition(org_id, app_version_id, target), []).append(lane)
        return [
            _partition_view(partition, lanes) for partition, lanes in sorted(partitions.items())
        ]

    def is_active(self, partition: Partition) -> bool:
        """Whether a job of the partition is queued or running."""
        values = {
            "org_id": partition.org_id,
            "app_version_id": partition.app_version_id,
            "target": partition.target,
        }
        queued = f"SELECT 1 FROM jobs INDEXED BY jobs_by_queue WHERE status = 'queued' AND {_OF_PARTITION} LIMIT 1"
        running = f"SELECT 1 FROM {BY_STATUS} WHERE status <> 'done' AND status = 'running' AND {_OF_PARTITION} LIMIT 1"
        with self._snapshot() as connection:
            return any(
                connection.execute(sql, values).fetchone() is not None for sql in (queued, running)
            )

    def active_partitions(self, org_id: str, limit: int) -> set[Partition]:
        """Partitions of an org with queued or running jobs, `limit` and more only as far as they
        have running ones. One step of the index for each.
        """
        running = f"SELECT DISTINCT app_version_id, target FROM {BY_STATUS} WHERE status <> 'done' AND status = 'running' AND org_id = ?"
        following = """
            SELECT app_version_id, target FROM jobs INDEXED BY jobs_by_queue
            WHERE status = 'queued' AND org_id = ? AND (app_version_id, target) > (?, ?) ORDER BY app_version_id, target LIMIT 1"""
        last: tuple[str, str] | None = ("", "")
        with self._snapshot() as connection:
            found = {
                Partition(org_id, *tokens) for tokens in connection.execute(running, (org_id,))
            }
            while last is not None and len(found) < limit:
                last = connection.execute(following, (org_id, *last)).fetchone()
                if last is not None:
                    found.add(Partition(org_id, *last))
        return found

    def waiting(self, now: datetime) -> list[WaitingView]:
        """Queued jobs, counted by partition."""
        sql = f"""
            SELECT org_id, app_version_id, target, count(*), coalesce(sum(retry_at > :now), 0) FROM {BY_STATUS}
            WHERE status <> 'done' AND status = 'queued' AND {self._seen("jobs")} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
        with self._snapshot() as connection:
            found = connection.execute(
                sql, {"now": micros(now), "orgs": self._orgs_json}
            ).fetchall()
        return [
            WaitingView(partition=Partition(*tokens), queued=queued, in_backoff=backoff)
            for *tokens, queued, backoff in found
        ]

    def pauses(self) -> list[Paused]:
        """What was told to wait; `until` may be over."""
        sql = "SELECT kind, name, at, until, reason, by FROM pauses WHERE kind <> 'org' OR :orgs IS NULL OR name IN (SELECT value FROM json_each(:orgs))"
        with self._snapshot() as connection:
            found = connection.execute(
                f"{sql} ORDER BY kind, name", {"orgs": self._orgs_json}
            ).fetchall()
        return [
            Paused(
                kind=Kind(kind),
                name=name,
                at=instant(at),
                until=maybe_instant(until),
                reason=shortened(reason),
                by=by,
            )
            for kind, name, at, until, reason, by in found
        ]

    def counts(self) -> Counts:
        with self._snapshot() as connection:
            dead = connection.execute(
                "SELECT target, count(*) FROM dead_letters WHERE settled = '' GROUP BY target"
            ).fetchall()
            tallies = connection.execute(
                "SELECT target, status, verdict, jobs, attempts FROM tallies"
            ).fetchall()
            oldest = connection.execute(
                f"SELECT target, min(queued_at) FROM {BY_STATUS} WHERE status <> 'done' AND status = 'queued' GROUP BY target"
            ).fetchall()
        jobs: dict[tuple[str, Status], int] = {}
        finished: dict[tuple[str, Verdict], int] = {}
        attempts: dict[str, int] = {}
        for target, status, verdict, count, started in tallies:
            jobs[target, Status(status)] = jobs.get((target, Status(status)), 0) + count
            attempts[target] = attempts.get(target, 0) + started
            if verdict:
                finished[target, Verdict(verdict)] = (
                    finished.get((target, Verdict(verdict)), 0) + count
                )
        return Counts(
            jobs=jobs,
            finished=finished,
            attempts=attempts,
            oldest_queued_at={target: instant(at) for target, at in oldest},
            dead_letters=dict(dead),
        )


def _partition_view(partition: Partition, lanes: list[Sequence[Any]]) -> PartitionView:
    queued = [
        (rank, count, oldest) for status, rank, count, oldest in lanes if status == Status.QUEUED
    ]
    return PartitionView(
        org_id=partition.org_id,
        app_version_id=partition.app_version_id,
        target=partition.target,
        queued=sum(count for _, count, _ in queued),
        queued_by_rank={rank: count for rank, count, _ in queued},
        running=sum(count for status, _, count, _ in lanes if status == Status.RUNNING),
        oldest_queued_at=maybe_instant(min((oldest for _, _, oldest in queued), default=None)),
    )
