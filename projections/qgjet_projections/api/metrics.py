"""Prometheus metrics, counted in the read model at each scrape: every replica says the same, and a
restart loses nothing.

Jobs leave the counts when they are pruned, so all of them are gauges. No ids in labels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qgjet.domain.events import Status
from qgjet.errors import QgjetError
from qgjet.store import streams
from qgjet.store.agent_registry import AgentInfo
from qgjet.store.event_log import StreamState
from qgjet.version import __version__
from qgjet_projections.readmodel.projector import Lag
from qgjet_projections.readmodel.views import Counts, WaitingView
from qgjet_projections.service import Service
from qgjet_projections.usecases.pending import PendingReason, Surroundings, partition_reason

CONTENT_TYPE = CONTENT_TYPE_LATEST


async def render(service: Service, agents: Sequence[AgentInfo] | None) -> bytes:
    counts = await asyncio.to_thread(service.read_model.counts)
    around = Surroundings(
        now=service.clock(), agents=agents, pauses=await asyncio.to_thread(service.pauses)
    )
    waiting = await asyncio.to_thread(service.read_model.waiting, around.now)
    registry = CollectorRegistry()
    registry.register(_Store(await _store(service)))
    registry.register(_Snapshot(counts, waiting, service.lag, around, service.applied_seq))
    registry.register(
        _Consumers(service.projector.log_state if service.projector is not None else None)
    )
    return generate_latest(registry)


async def _store(service: Service) -> dict[str, tuple[int, int]]:
    """Empty while NATS is away."""
    with contextlib.suppress(QgjetError, TimeoutError):
        async with asyncio.timeout(1.0):
            return await streams.store_bytes(service.log.connection)
    return {}


class _Store(Collector):
    def __init__(self, streams: dict[str, tuple[int, int]]) -> None:
        self._streams = streams

    def collect(self) -> Iterable[Metric]:
        limits = [((name,), limit) for name, (_, limit) in self._streams.items() if limit]
        yield _gauge(
            "qgjet_store_bytes",
            "What a stream takes on the NATS server.",
            ("stream",),
            [((name,), held) for name, (held, _) in self._streams.items()],
        )
        yield _gauge(
            "qgjet_store_max_bytes",
            "What it may take, for streams with a limit of their own.",
            ("stream",),
            limits,
        )


class _Consumers(Collector):
    def __init__(self, state: StreamState | None) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        if self._state is not None:
            yield _gauge(
                "qgjet_consumers",
                "Partition queues and readers of the event log.",
                (),
                [((), self._state.consumers)],
            )
            yield _gauge(
                "qgjet_max_consumers",
                "How many of them the stream allows; 0: no limit.",
                (),
                [((), self._state.max_consumers)],
            )


class _Snapshot(Collector):
    def __init__(
        self,
        counts: Counts,
        waiting: Sequence[WaitingView],
        lag: Lag | None,
        around: Surroundings,
        applied_seq: int,
    ) -> None:
        self._counts = counts
        self._waiting = waiting
        self._lag = lag
        self._around = around
        self._applied_seq = applied_seq

    def collect(self) -> Iterable[Metric]:
        yield _gauge(
            "qgjet_build_info", "Version of this process.", ("version",), [((__version__,), 1)]
        )
        yield from self._jobs()
        yield from self._pending()
        yield from self._projection()
        if self._around.agents is not None:
            yield from _agents(self._around.agents)

    def _jobs(self) -> Iterable[Metric]:
        counts = self._counts
        targets = sorted({target for target, _ in counts.jobs})
        jobs = (
            ((target, status), counts.jobs.get((target, status), 0))
            for target in targets
            for status in Status
        )
        ages = (
            ((target,), max((self._around.now - since).total_seconds(), 0.0))
            for target, since in counts.oldest_queued_at.items()
        )
        yield _gauge("qgjet_jobs", "Jobs by status.", ("target", "status"), jobs)
        yield _gauge(
            "qgjet_jobs_finished",
            "Finished jobs that are kept, by verdict.",
            ("target", "verdict"),
            counts.finished.items(),
        )
        yield _gauge(
            "qgjet_job_attempts",
            "Attempts of the jobs that are kept.",
            ("target",),
            (((target,), n) for target, n in counts.attempts.items()),
        )
        yield _gauge(
            "qgjet_queue_oldest_age_seconds",
            "How long the longest waiting job waits.",
            ("target",),
            ages,
        )

        yield _gauge(
            "qgjet_dead_letters",
            "Dead letters that nobody has dealt with.",
            ("target",),
            (((t,), n) for t, n in counts.dead_letters.items()),
        )

    def _pending(self) -> Iterable[Metric]:
        pending: Counter[tuple[str, ...]] = Counter()
        for one in self._waiting:
            reason = partition_reason(one.partition, self._around)
            backoff = 0 if reason is PendingReason.PAUSED else one.in_backoff
            pending[one.partition.target, PendingReason.BACKOFF] += backoff
            pending[one.partition.target, reason or "none"] += one.queued - backoff
        paused = (
            ((pause.kind, pause.name), 1.0)
            for pause in self._around.pauses.in_force(self._around.now)
        )
        yield _gauge(
            "qgjet_jobs_pending",
            "Queued jobs by the reason why they wait; none: they may start now.",
            ("target", "reason"),
            (+pending).items(),
        )
        yield _gauge(
            "qgjet_queue_paused",
            "1 for a target or an org that is paused.",
            ("kind", "name"),
            paused,
        )

    def _projection(self) -> Iterable[Metric]:
        yield _gauge(
            "qgjet_projection_applied_seq",
            "Sequence of the log up to which the read model holds it.",
            (),
            [((), self._applied_seq)],
        )
        if self._lag is not None:
            yield _gauge(
                "qgjet_projection_lag_events",
                "Events of the log that the read model does not hold yet.",
                (),
                [((), self._lag.events)],
            )
            yield _gauge(
                "qgjet_projection_lag_seconds",
                "How long the read model has been behind without moving.",
                (),
                [((), self._lag.seconds)],
            )
        yield _gauge(
            "qgjet_projection_up",
            "1 while the read model follows the log.",
            (),
            [((), float(self._lag is not None))],
        )


def _agents(agents: Sequence[AgentInfo]) -> Iterable[Metric]:
    alive: Counter[tuple[str, ...]] = Counter()
    slots: Counter[tuple[str, ...]] = Counter()
    for agent in agents:
        for served in agent.targets:
            alive[served.target, "draining" if agent.draining else "serving"] += 1
            slots[served.target, "running"] += served.running
            slots[served.target, "free"] += max(served.slots - served.running, 0)
    yield _gauge(
        "qgjet_agents",
        "Agents that are alive, by target they serve.",
        ("target", "state"),
        alive.items(),
    )
    yield _gauge(
        "qgjet_agent_slots",
        "Slots of the agents that are alive.",
        ("target", "state"),
        slots.items(),
    )


def _gauge(
    name: str,
    documentation: str,
    labels: Sequence[str],
    values: Iterable[tuple[Sequence[str], float]],
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
