"""Checks of what is elsewhere: NATS server, streams, queue, agents, API. For `qgjet doctor`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import httpx
import msgspec
from msgspec import Struct

from qgjet.client.transport import Bearer
from qgjet.config import files
from qgjet.config.settings import Settings
from qgjet.domain.deployment import Deployment
from qgjet.domain.events import Partition
from qgjet.domain.subjects import AGENTS_BUCKET, STREAM, Lane
from qgjet.errors import IncompatibleServer, InvalidSettings, NatsUnavailable, PermissionDenied
from qgjet.jetstream.connection import SERVER_FLOOR, Connection, connect
from qgjet.store import agent_registry, streams
from qgjet.store.agent_registry import AgentInfo
from qgjet.store.event_log import EventLog, StreamState
from qgjet.store.job_queue import Queue, QueueState
from qgjet.support.addresses import without_password
from qgjet.version import __version__
from qgjet_cli.doctor.check import Check, dotted, fail, ok, warn
from qgjet_cli.options.flags import DEFAULT_NATS_URL
from qgjet_cli.output.console import counted

TIMEOUT_S = 2.0
_LOOKS = {
    "agents": f"$JS.API.DIRECT.GET.KV_{AGENTS_BUCKET}",
    "queue": f"$JS.API.CONSUMER.LIST.{STREAM}",
}
"""What not every role may ask for."""


async def look_at_server(settings: Settings) -> list[Check]:
    url = settings.nats_url or DEFAULT_NATS_URL
    try:
        async with connect(
            url, name="qgjet-doctor", login=settings.nats, timeout_s=TIMEOUT_S
        ) as connection:
            version = connection.client.connected_server_version
            user = (await connection.identity()).user
            found = (
                f"{dotted((version.major, version.minor, version.patch))} at {connection.url}, "
                + (f"as {user}" if user else "without a user")
            )
            return [ok("NATS server", found), *await _look_inside(connection, settings)]
    except InvalidSettings as error:
        what = (
            "nats_url (QGJET_NATS_URL, --nats)"
            if error.field == "nats_url"
            else f"{error.field} (docs/settings.md)"
        )
        return [fail("NATS server", str(error), f"correct {what}", server=True)]
    except PermissionDenied as error:
        return [
            fail(
                "NATS server",
                str(error),
                "correct [nats]: user, password or another secret, ca (docs/security.md)",
                server=True,
            )
        ]
    except IncompatibleServer as error:
        return [
            fail(
                "NATS server",
                str(error),
                f"run nats-server {dotted(SERVER_FLOOR)} with the nats.conf of qgjet",
                server=True,
            )
        ]
    except NatsUnavailable as error:
        if not settings.nats_url:
            return [
                warn(
                    "NATS server",
                    f"none configured, and none at {url}",
                    "`qgjet up` starts one, `qgjet run` brings its own; else set QGJET_NATS_URL",
                )
            ]
        return [
            fail(
                "NATS server",
                str(error),
                "start it, or correct nats_url (QGJET_NATS_URL, --nats)",
                server=True,
            )
        ]


async def _look_inside(connection: Connection, settings: Settings) -> list[Check]:
    events = await streams.stream_config(connection, STREAM)
    if events is None:
        return [
            warn(
                "streams",
                f"there is no {STREAM} yet",
                "nothing to do: the first agent, API or submission makes it",
            )
        ]
    try:
        deployment = streams.deployment_of(events)
    except IncompatibleServer as error:
        return [
            fail(
                "streams",
                str(error),
                "use another server or account: qgjet cannot share this stream",
                server=True,
            )
        ]
    missing = [
        name
        for name in streams.OTHER_STREAMS
        if await streams.stream_config(connection, name) is None
    ]
    found = [_look_at_streams(deployment, settings, missing)]
    for what, subject in _LOOKS.items():
        if not await connection.may_publish(subject):
            return [
                *found,
                warn(
                    what,
                    f"the NATS user {connection.user!r} may not look at it",
                    "look as operator, janitor or through the API (`qgjet agent list`, `qgjet job list`)",
                ),
            ]
    agents = [] if f"KV_{AGENTS_BUCKET}" in missing else await agent_registry.agents(connection)
    lanes = await Queue(connection, settings.queue).lanes()
    return [
        *found,
        *_look_at_room(await streams.why_full(connection)),
        _look_at_lanes(lanes, agents),
        *_look_at_consumers(await EventLog(connection).state()),
        *await _look_for_lanes(lanes, settings),
        *_look_at_agents(agents, settings),
    ]


def _look_at_streams(deployment: Deployment, settings: Settings, missing: Sequence[str]) -> Check:
    found = f"priority order {deployment.priority_order}, {counted(deployment.replicas, 'replica')}"
    if missing:
        return warn(
            "streams",
            f"missing: {', '.join(missing)}",
            "nothing to do: the next agent or API that starts makes them",
        )
    if deployment.priority_order != settings.queue.priority_order:
        return fail(
            "streams",
            f"{found}; the settings say {settings.queue.priority_order}",
            f"set queue.priority_order to {deployment.priority_order}: it is fixed",
        )
    if deployment.replicas != settings.queue.replicas:
        return warn(
            "streams",
            f"{found}; the settings say {settings.queue.replicas}",
            f"nats stream edit {STREAM} --replicas {settings.queue.replicas}, and so for the others; or correct queue.replicas",
        )
    if deployment.lease_timeout_s != settings.queue.visibility_timeout_s:
        return warn(
            "streams",
            f"{found}, visibility timeout {deployment.lease_timeout_s:g}s; the settings say {settings.queue.visibility_timeout_s:g}s",
            "start the API with these settings; or correct queue.visibility_timeout",
        )
    return ok("streams", found)


def _look_at_room(full: str) -> list[Check]:
    if not full:
        return []
    fix = "a shorter queue.retention, `nats stream purge OBJ_qg-artifacts`, or a higher max_file_store; docs/operations.md says what each one costs"
    return [fail("store", full, fix, server=True)]


def _look_at_lanes(lanes: Sequence[QueueState], agents: Sequence[AgentInfo]) -> Check:
    waiting: Counter[str] = Counter()
    for state in lanes:
        waiting[state.lane.partition.target] += state.pending
    served = {slots.target for agent in agents if not agent.draining for slots in agent.targets}
    unserved = sorted(
        target for target, pending in waiting.items() if pending and target not in served
    )
    found = f"{sum(waiting.values())} waiting, {sum(state.unacknowledged for state in lanes)} with agents, in {counted(len(lanes), 'consumer')}"
    if unserved:
        return warn(
            "queue",
            f"{found}; nobody serves {', '.join(unserved)}",
            " ".join(["qgjet agent", *(f"--target {target}" for target in unserved)]),
        )
    return ok("queue", found)


def _look_at_consumers(state: StreamState) -> list[Check]:
    """The limit of partition queues, before it is reached."""
    if not state.is_crowded:
        return []
    found = f"{state.consumers} of {state.max_consumers} consumers of {STREAM} are in use"
    fix = "wait for app versions to finish, lower api.max_partitions_per_org, or create the stream with a higher max_consumers; api.janitor removes idle ones"
    if state.consumers < state.max_consumers:
        return [warn("partition queues", found, fix)]
    return [fail("partition queues", f"{found}: jobs of other partitions wait", fix, server=True)]


async def _look_for_lanes(lanes: Sequence[QueueState], settings: Settings) -> list[Check]:
    """Queued work that no consumer delivers. Only the API knows all queued work; without it there
    is nothing to say.
    """
    answer = await _get(settings, "/partitions")
    if answer is None or answer.status_code != httpx.codes.OK:
        return []
    queued = msgspec.json.decode(answer.content, type=_Partitions).partitions
    wanted = {
        Lane(Partition(one.org_id, one.app_version_id, one.target), rank)
        for one in queued
        for rank, jobs in one.queued_by_rank.items()
        if jobs
    }
    lost = wanted - {state.lane for state in lanes}
    if not lost:
        return []
    return [
        warn(
            "queue",
            f"{len(lost)} partitions with queued jobs have no consumer",
            "a janitor makes it within seconds: is api.janitor on?",
        )
    ]


def _look_at_agents(agents: Sequence[AgentInfo], settings: Settings) -> list[Check]:
    alive = ", ".join(
        f"{agent.name} ({'drains' if agent.draining else f'{len(agent.running)} of {agent.slots} busy'})"
        for agent in agents
    )
    idle = [
        name
        for name in settings.targets
        if not any(slots.target == name for agent in agents for slots in agent.targets)
    ]
    found = [
        warn(
            "agents",
            f"{agent.name} is version {agent.version}, this is {__version__}",
            "update the older one",
        )
        for agent in agents
        if agent.version != __version__
    ]
    found += [
        warn(
            "agents",
            f"{agent.name} takes no jobs: {agent.problem}",
            "repair its host; it tries again by itself",
        )
        for agent in agents
        if agent.problem
    ]
    if idle:
        found.append(
            warn(
                "agents",
                f"none for {', '.join(idle)}" + (f"; alive: {alive}" if alive else ""),
                "qgjet agent --target " + " --target ".join(idle),
            )
        )
    return found or [ok("agents", alive or "none, and no targets are declared here")]


class _Queued(Struct):
    """What matters here of a partition in the API's answer."""

    org_id: str
    app_version_id: str
    target: str
    queued_by_rank: dict[int, int]


class _Partitions(Struct):
    partitions: list[_Queued]


async def look_at_api(settings: Settings) -> list[Check]:
    """Nothing to say where none is configured: agents, `run` and `submit` do without."""
    if not settings.api_url:
        return []
    try:
        files.api_token(settings)
    except InvalidSettings as error:
        return [fail("API", str(error), "correct api_token_file (QGJET_API_TOKEN_FILE)")]
    answer = await _get(settings, "/readyz")
    if answer is None:
        fix = "start it with `qgjet serve`, or correct api_url (QGJET_API_URL, --api)"
        return [
            fail("API", f"{without_password(settings.api_url)} does not answer", fix, server=True)
        ]
    if answer.status_code == httpx.codes.OK:
        return [await _look_at_token(settings)]
    found = f"{without_password(settings.api_url)} is not ready ({answer.status_code}): {_reason(answer)}"
    return [fail("API", found, "see its log; it mends itself once NATS is there", server=True)]


async def _look_at_token(settings: Settings) -> Check:
    """Whether the ready API lets us in."""
    answer = await _get(settings, "/partitions")
    if answer is None or answer.status_code not in (
        httpx.codes.UNAUTHORIZED,
        httpx.codes.FORBIDDEN,
        httpx.codes.TOO_MANY_REQUESTS,
    ):
        return ok("API", f"{without_password(settings.api_url)} is ready")
    fix = "set QGJET_API_TOKEN, or api_token_file; `qgjet token create` makes one beside the server"
    return fail(
        "API",
        f"{without_password(settings.api_url)} is ready, but: {_reason(answer)}",
        fix,
        server=True,
    )


async def _get(settings: Settings, path: str) -> httpx.Response | None:
    if not settings.api_url:
        return None
    try:
        token = files.api_token(settings)
        async with httpx.AsyncClient(
            timeout=TIMEOUT_S, trust_env=False, auth=Bearer(token) if token else None
        ) as client:
            return await client.get(settings.api_url.rstrip("/") + path)
    except (httpx.HTTPError, httpx.InvalidURL, InvalidSettings):
        return None


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, LookupError, TypeError):
        return answer.text[:200]
