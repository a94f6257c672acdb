"""Why a queued job does not run. Pure: the agents and the time are passed in."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from qgjet.events import Status
from qgjet.presence import AgentInfo
from qgjet_projections.views import JobView


class PendingReason(StrEnum):
    BACKOFF = "backoff"
    """It waits for its retry."""
    NO_AGENT = "no_agent"
    """No agent that takes new jobs serves its target and app version."""
    NO_SLOT = "no_slot"
    """All slots of those agents are taken."""


def pending_reason(job: JobView, agents: Sequence[AgentInfo] | None, now: datetime) -> PendingReason | None:
    """None for a job that is not queued, that may start at any moment, or when `agents` are not known."""
    if job.status is not Status.QUEUED:
        return None
    if job.retry_at is not None and job.retry_at > now:
        return PendingReason.BACKOFF
    if agents is None:
        return None
    able = [agent for agent in agents if _serves(agent, job)]
    if not able:
        return PendingReason.NO_AGENT
    return None if any(_has_room(agent, job.target) for agent in able) else PendingReason.NO_SLOT


def _serves(agent: AgentInfo, job: JobView) -> bool:
    return not agent.draining and agent.app_version_id in ("", "all", job.app_version_id) and any(served.target == job.target for served in agent.targets)


def _has_room(agent: AgentInfo, target: str) -> bool:
    free = any(served.target == target and served.running < served.slots for served in agent.targets)
    return free and len(agent.running) < agent.slots
