"""What people decide about the queue: pause, resume, drain, another priority, and what becomes of
dead letters. Each is an event in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain.control import Control, Discarded, DrainRequested, Kind, Paused, Resumed
from qgjet.domain.decide import Requeue
from qgjet.errors import Conflict, InvalidInput, JobNotFound, QgjetError
from qgjet.store import control_log
from qgjet.support.text import check_short
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.readmodel.views import DeadLetter, DeadQuery, JobView
from qgjet_projections.service import Service
from qgjet_projections.usecases import commands
from qgjet_projections.usecases.caller import Caller
from qgjet_projections.usecases.commands import CATCH_UP_S
from qgjet_projections.usecases.errors import AgentNotFound, OrgForbidden

WINDOW = 32
MOST_AT_ONCE = 500


class Scope(Struct, frozen=True):
    """A target or an org."""

    kind: Kind
    name: str


class Settled(Struct, frozen=True):
    """What became of one dead letter: the id of the new job (empty: discarded), or the error."""

    job_id: str
    new_job_id: str = ""
    error: QgjetError | None = None


def scope_of(target: str, org_id: str) -> Scope:
    """Raises InvalidInput unless exactly one of them is given."""
    if bool(target) == bool(org_id):
        raise InvalidInput("target", "give a target or an org_id, one of them")
    return Scope(Kind.TARGET, target) if target else Scope(Kind.ORG, org_id)


async def pause(
    service: Service, caller: Caller, scope: Scope, *, until: datetime | None, reason: str
) -> int:
    """Start nothing of the scope any more; gives the event's sequence. A second call replaces
    `until` and `reason`. Raises OrgForbidden.
    """
    _check_scope(caller, scope)
    now = service.clock()
    if until is not None and until <= now:
        raise InvalidInput("until", "is over already")
    return await _write(
        service,
        Paused(kind=scope.kind, name=scope.name, at=now, by=caller.by, reason=reason, until=until),
    )


async def resume(service: Service, caller: Caller, scope: Scope, *, reason: str) -> int:
    """Gives the event's sequence. Harmless for what is not paused. Raises OrgForbidden."""
    _check_scope(caller, scope)
    return await _write(
        service,
        Resumed(kind=scope.kind, name=scope.name, at=service.clock(), by=caller.by, reason=reason),
    )


def _check_scope(caller: Caller, scope: Scope) -> None:
    """A target is everybody's: whoever is bound to some orgs may stop these, and nothing of the
    others.
    """
    if scope.kind is Kind.ORG:
        caller.check_orgs([scope.name])
    else:
        check_every_org(caller, "a target")


def check_every_org(caller: Caller, what: str) -> None:
    """Raises OrgForbidden for a caller who is bound to some."""
    if caller.orgs is not None:
        raise OrgForbidden(
            f"{what} works for all orgs: this needs a token for every org (`--org '*'`)"
        )


async def drain(service: Service, caller: Caller, instance: str, *, reason: str) -> int:
    """Ask an agent, by its instance or its name, to finish what it runs and to end. Raises
    AgentNotFound when none is alive, InvalidInput for several.
    """
    check_every_org(caller, "an agent")
    found = [
        agent.instance
        for agent in await service.agents()
        if instance in (agent.instance, agent.name)
    ]
    if not found:
        raise AgentNotFound(f"no agent {instance} is alive")
    if len(found) > 1:
        raise InvalidInput(
            "agent",
            f"{len(found)} agents are called {instance}: {', '.join(found)}; name one of these",
        )
    return await _write(
        service,
        DrainRequested(
            kind=Kind.AGENT, name=found[0], at=service.clock(), by=caller.by, reason=reason
        ),
    )


async def _write(service: Service, event: Control) -> int:
    seq = await control_log.append(service.log.connection, event)
    await shown(service, seq)
    return seq


async def shown(service: Service, seq: int) -> None:
    """Wait a moment for the read model of this process to hold `seq`: who asks next expects to see
    it.
    """
    await service.applied(seq, CATCH_UP_S)


async def reprioritize(
    service: Service, caller: Caller, job_id: str, priority: int
) -> tuple[JobView, int]:
    """Give a queued job another place; gives the job as it was, and the sequence. Raises Conflict
    when it is not queued any more.
    """
    if not 0 <= priority <= 9:
        raise InvalidInput("priority", "must be an integer from 0 to 9")
    await commands.catch_up(
        service
    )  # the priority that it has is known from the read model only, and another process may have changed it a moment ago
    job = await commands.known_job(service, service.read_model.seen_by(caller.orgs), job_id)
    spec = service.read_model.spec(job_id)
    if spec is None:
        raise JobNotFound(job_id)
    state = await service.log.load(spec.slot)
    if state is None or state.job_id != job_id or not state.live:
        raise Conflict(f"job {job_id} has ended")
    if spec.priority == priority:
        return job, state.version
    wanted = replace(spec, priority=priority, rank=service.deployment.rank(priority))
    _, seq = await service.log.execute(
        spec.slot, Requeue(spec=wanted, reason="priority", by=caller.by), state
    )
    await shown(service, seq)
    return job, seq


# -- dead letters --------------------------------------------------------------------------------------------------------


async def known_letter(service: Service, reads: ReadModel, job_id: str) -> DeadLetter:
    """Raises JobNotFound, or Conflict for a job that is no dead letter."""
    job = await commands.known_job(service, reads, job_id)
    letter = reads.dead_letter(job_id)
    if letter is not None:
        return letter
    raise Conflict(f"job {job_id} is {job.verdict or job.status}: no dead letter")


async def redrive(
    service: Service, caller: Caller, job_id: str, *, priority: int | None = None
) -> Settled:
    """Run a dead letter's work again as a new job. Raises Conflict when it was dealt with already,
    DuplicateJob while a live job holds its slot.
    """
    await commands.catch_up(service)
    await _check_open(service, caller, job_id)
    answer = await commands.rerun(service, caller, job_id, priority=priority, suite_id="")
    await shown(service, answer.seq)
    return Settled(job_id, answer.job_id)


async def discard(service: Service, caller: Caller, job_id: str, reason: str) -> Settled:
    """Say that nobody has to look at a dead letter any more. Raises Conflict when it was dealt with
    already.
    """
    await commands.catch_up(service)
    letter = await _check_open(service, caller, job_id)
    await _write(
        service,
        Discarded(
            kind=Kind.JOB,
            name=job_id,
            org_id=letter.job.org_id,
            at=service.clock(),
            by=caller.by,
            reason=reason,
        ),
    )
    return Settled(job_id)


async def _check_open(service: Service, caller: Caller, job_id: str) -> DeadLetter:
    letter = await known_letter(service, service.read_model.seen_by(caller.orgs), job_id)
    if letter.settlement is not None:
        done = letter.settlement
        what = (
            f"redriven as job {done.note}"
            if done.how == "redriven"
            else "discarded; `rerun` runs it again all the same"
        )
        raise Conflict(f"dead letter {job_id} was {what}")
    return letter


async def redrive_all(
    service: Service, caller: Caller, query: DeadQuery
) -> tuple[list[Settled], int]:
    """Redrive what the query finds, at most MOST_AT_ONCE, oldest first: what became of each, and
    how many are left.
    """
    return await _settle_all(
        service, caller, query, lambda job_id: redrive(service, caller, job_id)
    )


async def discard_all(
    service: Service, caller: Caller, query: DeadQuery, reason: str
) -> tuple[list[Settled], int]:
    """Like `redrive_all`. Raises InvalidInput for a reason that is too long."""
    check_short("because", reason)
    return await _settle_all(
        service, caller, query, lambda job_id: discard(service, caller, job_id, reason)
    )


async def _settle_all(
    service: Service, caller: Caller, query: DeadQuery, settle: Callable[[str], Awaitable[Settled]]
) -> tuple[list[Settled], int]:
    await commands.catch_up(service)
    reads = service.read_model.seen_by(caller.orgs)
    found, count = await asyncio.to_thread(reads.oldest_dead, query, MOST_AT_ONCE)
    return await _each(found, settle), count - len(found)


async def _each(
    job_ids: Iterable[str], settle: Callable[[str], Awaitable[Settled]]
) -> list[Settled]:
    gate = asyncio.Semaphore(WINDOW)

    async def one(job_id: str) -> Settled:
        async with gate:
            try:
                return await settle(job_id)
            except QgjetError as error:
                return Settled(job_id, error=error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(job_id)) for job_id in job_ids]
    return [task.result() for task in tasks]
