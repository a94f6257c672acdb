"""Why a queued job does not run. Pure: the agents, the pauses and the time are passed in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from qgjet.domain.control import Pauses
from qgjet.domain.events import Partition, Status
from qgjet.store.agent_registry import AgentInfo
from qgjet_projections.readmodel.views import JobView


class PendingReason(StrEnum):
    PAUSED = "paused"
    """Its target, or its org, was told to wait."""
    BACKOFF = "backoff"
    """It waits for its retry."""
    NO_AGENT = "no_agent"
    """No agent that takes new jobs serves its target and app version."""
    NO_SLOT = "no_slot"
    """All slots of those agents are taken."""


class Surroundings(Struct, frozen=True, kw_only=True):
    """What decides whether a queued job can start now."""

    now: datetime
    agents: Sequence[AgentInfo] | None
    """None: nobody knows, because NATS does not answer."""
    pauses: Pauses


def pending_reason(job: JobView, around: Surroundings) -> PendingReason | None:
    """None for a job that is not queued, that may start at any moment, or when the agents are not
    known.
    """
    if job.status is not Status.QUEUED:
        return None
    partition = Partition(job.org_id, job.app_version_id, job.target)
    if around.pauses.of(partition, around.now) is not None:
        return PendingReason.PAUSED
    if job.retry_at is not None and job.retry_at > around.now:
        return PendingReason.BACKOFF
    return partition_reason(partition, around)


def partition_reason(partition: Partition, around: Surroundings) -> PendingReason | None:
    """Why no queued job of the partition can start now; None when one may at any moment, or when
    the agents are not known.
    """
    if around.pauses.of(partition, around.now) is not None:
        return PendingReason.PAUSED
    if around.agents is None:
        return None
    able = [agent for agent in around.agents if _serves(agent, partition)]
    if not able:
        return PendingReason.NO_AGENT
    return (
        None if any(_has_room(agent, partition.target) for agent in able) else PendingReason.NO_SLOT
    )


def _serves(agent: AgentInfo, partition: Partition) -> bool:
    serves_version = agent.app_version_id in ("", "all", partition.app_version_id)
    return (
        not agent.draining
        and serves_version
        and any(served.target == partition.target for served in agent.targets)
    )


def _has_room(agent: AgentInfo, target: str) -> bool:
    free = any(
        served.target == target and served.running < served.slots for served in agent.targets
    )
    return free and len(agent.running) < agent.slots
