"""What must exist on the server, and how it is set up. `ensure` is idempotent and never weakens
what it finds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from qgjet.domain.deployment import (
    DEFAULT_EVENT_RETENTION_S,
    DEFAULT_MAX_DELIVER,
    DEFAULT_VISIBILITY_TIMEOUT_S,
    Deployment,
)
from qgjet.domain.subjects import ADVISORIES, AGENTS_BUCKET, ARTIFACTS_BUCKET, LOGS, STREAM
from qgjet.errors import IncompatibleServer, PermissionDenied, StoreFull
from qgjet.jetstream.connection import Connection, JetStreamError, read_ack, translated

log = logging.getLogger(__name__)

OTHER_STREAMS = (ADVISORIES, LOGS, f"KV_{AGENTS_BUCKET}", f"OBJ_{ARTIFACTS_BUCKET}")
_NANOS = 1_000_000_000
_DAY_S = 86_400
_NOT_FOUND = 10059
_IN_USE = 10058
_NO_STORAGE = 10047
_PRIORITY_KEY = "qgjet.priority_order"
_VISIBILITY_KEY = "qgjet.visibility_timeout"
"""In seconds."""
_NEXT_VISIBILITY_KEY = "qgjet.next_visibility_timeout"
"""In seconds; 0: none."""
_MAX_DELIVER_KEY = "qgjet.max_deliver"
_RETENTION_KEY = "qgjet.retention"
"""In seconds; 0: for ever."""
VALUE_FRESH_S = 10.0
"""An agent goes by a visibility timeout that it has read within this time."""
MARGIN_BYTES = 10_000
"""Less room than this is none: an event without large results takes a tenth of it."""
_ROOM = "qg.log.room.0"
"""Of no job: what is said there is a question about the store."""


async def ensure(connection: Connection, wanted: Deployment | None = None) -> Deployment:
    """Create what is missing, as far as this NATS user may, and return the deployment in force.
    Raises PermissionDenied when it may not make the log itself.

    An existing log keeps its priority order: ranks are in its subjects. Raises IncompatibleServer
    when `wanted` asks for another one, or when a stream of our name was set up by somebody else for
    something else. It also keeps its visibility timeout; `change_leases` is for that.
    """
    asked = wanted or Deployment()
    existing = await stream_config(connection, STREAM)
    if existing is None:
        if not await _may_create(connection, STREAM):
            raise PermissionDenied(
                f"there is no stream {STREAM} at {connection.url} yet, and {_who(connection)} may not make it: start the API first, or an operator's command"
            )
        await _create(connection, _events(asked))
        existing = await stream_config(connection, STREAM) or {}
    in_force = deployment_of(existing)
    if wanted is not None and wanted.priority_order != in_force.priority_order:
        raise IncompatibleServer(
            f"priority_order is {in_force.priority_order} on this server, not {wanted.priority_order}: it is fixed when the stream {STREAM} is made"
        )
    for config in (_advisories(asked), _logs(asked), _agents(asked), _artifacts(asked)):
        if await stream_config(connection, config["name"]) is None and await _may_create(
            connection, config["name"]
        ):
            await _create(connection, config)
    return in_force


def deployment_of(config: dict[str, Any]) -> Deployment:
    """The deployment that a stream's configuration describes. Raises IncompatibleServer when it
    cannot be our log.
    """
    problems = [
        f"{key} is {config.get(key)!r}, must be {value!r}"
        for key, value in _ESSENTIAL.items()
        if config.get(key, False) != value
    ]
    if problems:
        raise IncompatibleServer(
            f"stream {STREAM} cannot serve as the event log: " + "; ".join(problems)
        )
    metadata = config.get("metadata") or {}
    try:
        return Deployment(
            priority_order=metadata.get(_PRIORITY_KEY, "low-first"),
            replicas=int(config.get("num_replicas", 1)),
            max_consumers=int(config.get("max_consumers", -1)),
            visibility_timeout_s=float(metadata.get(_VISIBILITY_KEY, DEFAULT_VISIBILITY_TIMEOUT_S)),
            next_visibility_timeout_s=float(metadata.get(_NEXT_VISIBILITY_KEY, 0.0)),
            max_deliver=int(metadata.get(_MAX_DELIVER_KEY, DEFAULT_MAX_DELIVER)),
            retention_s=float(metadata.get(_RETENTION_KEY, DEFAULT_EVENT_RETENTION_S)),
        )
    except (ValueError, TypeError) as error:
        raise IncompatibleServer(
            f"the metadata of stream {STREAM} cannot be read: {error}"
        ) from error


async def change_leases(connection: Connection, wanted: Deployment) -> Deployment:
    """Put the visibility timeout and the limit of deliveries of `wanted` in force; returns the
    deployment in force.

    A longer timeout is in force at once: a lease that goes by the shorter one is safe. A shorter
    one is announced: agents adopt it, and only when none can hold a lease that goes by the longer
    one do consumers get it (`shorten`). In the other order, jobs would be given to others between
    two heartbeats.
    """
    config = await stream_config(connection, STREAM)
    if config is None:
        return await ensure(connection, wanted)
    in_force = deployment_of(config)
    shorter = wanted.visibility_timeout_s < in_force.visibility_timeout_s
    changed = msgspec.structs.replace(
        in_force,
        visibility_timeout_s=max(wanted.visibility_timeout_s, in_force.visibility_timeout_s),
        next_visibility_timeout_s=wanted.visibility_timeout_s if shorter else 0.0,
        max_deliver=wanted.max_deliver,
    )
    if changed == in_force:
        return in_force
    if not await connection.may_publish(f"$JS.API.STREAM.UPDATE.{STREAM}"):
        log.info(
            "the visibility timeout stays at %gs: %s may not change it, an API with a janitor may",
            in_force.visibility_timeout_s,
            _who(connection),
        )
        return in_force
    await _put_leases(connection, config, changed)
    if shorter:
        adoption_s = adoption_time_s(in_force.visibility_timeout_s)
        log.info(
            "the visibility timeout becomes %gs when all agents have adopted it, in about %.0f s",
            wanted.visibility_timeout_s,
            adoption_s,
        )
    elif changed.visibility_timeout_s != in_force.visibility_timeout_s:
        log.info("the visibility timeout is now %gs", changed.visibility_timeout_s)
    return changed


def adoption_time_s(visibility_timeout_s: float) -> float:
    """After this time no agent holds a lease that goes by `visibility_timeout_s`, if a shorter
    timeout could be read throughout.

    Agents take jobs and confirm leases only with a timeout that they have read within the last
    VALUE_FRESH_S. So every lease that was confirmed later than VALUE_FRESH_S after the announcement
    goes by the shorter one, and the others have run out a visibility timeout later.
    """
    return VALUE_FRESH_S + visibility_timeout_s


async def shorten(connection: Connection, announced: Deployment) -> Deployment:
    """Put the announced shorter timeout in force for consumers too, and return the deployment in
    force. Only for who knows that all agents keep to it.
    """
    config = await stream_config(connection, STREAM)
    in_force = announced if config is None else deployment_of(config)
    if config is None or in_force != announced or not in_force.next_visibility_timeout_s:
        return in_force
    shortened = msgspec.structs.replace(
        in_force,
        visibility_timeout_s=in_force.next_visibility_timeout_s,
        next_visibility_timeout_s=0.0,
    )
    await _put_leases(connection, config, shortened)
    log.info("the visibility timeout is now %gs", shortened.visibility_timeout_s)
    return shortened


async def _put_leases(connection: Connection, config: dict[str, Any], changed: Deployment) -> None:
    metadata = (config.get("metadata") or {}) | _lease_metadata(changed)
    await connection.api(f"STREAM.UPDATE.{STREAM}", config | {"metadata": metadata}, timeout_s=15.0)


async def change_retention(connection: Connection, retention_s: float) -> None:
    """Put the retention of events in force for whoever purges and prunes, at once. A second call
    with the same value writes nothing.
    """
    config = await stream_config(connection, STREAM)
    if config is None or deployment_of(config).retention_s == retention_s:
        return
    if not await connection.may_publish(f"$JS.API.STREAM.UPDATE.{STREAM}"):
        log.info(
            "the retention of events stays as it is: %s may not change it, an API with a janitor may",
            _who(connection),
        )
        return
    metadata = (config.get("metadata") or {}) | {_RETENTION_KEY: str(retention_s)}
    await connection.api(f"STREAM.UPDATE.{STREAM}", config | {"metadata": metadata}, timeout_s=15.0)
    log.info(
        "jobs that have ended are now forgotten %s",
        f"after {retention_s / _DAY_S:g} days" if retention_s else "never",
    )


def _lease_metadata(wanted: Deployment) -> dict[str, str]:
    return {
        _VISIBILITY_KEY: f"{wanted.visibility_timeout_s:g}",
        _NEXT_VISIBILITY_KEY: f"{wanted.next_visibility_timeout_s:g}",
        _MAX_DELIVER_KEY: str(wanted.max_deliver),
    }


async def stream_config(connection: Connection, name: str) -> dict[str, Any] | None:
    """The configuration of a stream, None when it does not exist."""
    try:
        info = await connection.api(f"STREAM.INFO.{name}")
    except JetStreamError as error:
        if error.error.err_code == _NOT_FOUND:
            return None
        raise
    with translated(f"the configuration of {name}"):
        return msgspec.convert(info["config"], dict[str, Any])


async def _may_create(connection: Connection, name: str) -> bool:
    return await connection.may_publish(f"$JS.API.STREAM.CREATE.{name}")


def _who(connection: Connection) -> str:
    return f"the NATS user {connection.user!r}" if connection.user else "this NATS user"


async def why_full(connection: Connection) -> str:
    """Why no event can be stored; empty when there is room, as far as can be told without storing
    one.
    """
    info = await connection.api(f"STREAM.INFO.{STREAM}")
    with translated(f"the size of {STREAM}"):
        limit, held = info["config"].get("max_bytes", -1), info["state"]["bytes"]
    if 0 < limit < held + MARGIN_BYTES:
        return f"the event store is full: {STREAM} holds {held} of {limit} bytes (max_bytes)"
    if not connection.store_full:
        return ""
    # the last append was refused; whether that has passed, a line of output that nobody asks for
    # shows
    answer = read_ack(await connection.request(_ROOM, b"room?"))
    connection.store_full = answer.error is not None
    return (
        f"the event store is full: {answer.error.description} (max_file_store of the NATS server)"
        if answer.error is not None
        else ""
    )


async def store_bytes(connection: Connection) -> dict[str, tuple[int, int]]:
    """What each stream on the server takes, and how much it may: 0, no limit of its own."""
    infos = await asyncio.gather(
        *(connection.api(f"STREAM.INFO.{name}") for name in (STREAM, *OTHER_STREAMS))
    )
    with translated("the sizes of the streams"):
        return {
            info["config"]["name"]: (
                info["state"]["bytes"],
                max(info["config"].get("max_bytes", 0), 0),
            )
            for info in infos
        }


async def _create(connection: Connection, config: dict[str, Any]) -> None:
    try:
        await connection.api(f"STREAM.CREATE.{config['name']}", config, timeout_s=15.0)
    except JetStreamError as error:
        if error.error.err_code == _NO_STORAGE:
            asked = f"{config['max_bytes']} bytes" if config.get("max_bytes") else "storage"
            raise StoreFull(
                f"the NATS server cannot give {config['name']} {asked}: raise its max_file_store"
            ) from error
        # somebody made it at the same moment; what they made is checked by the caller
        if error.error.err_code != _IN_USE:
            raise


_ESSENTIAL: dict[str, Any] = {
    "retention": "limits",
    "storage": "file",
    "allow_direct": True,
    "allow_atomic": True,
    "deny_delete": True,
    "subjects": ["qg.job.>", "qg.suite.>", "qg.control.>"],
}


def _events(asked: Deployment) -> dict[str, Any]:
    return {
        "name": STREAM,
        "description": "qgjet: the event log. Every job's story, and the queue",
        **_ESSENTIAL,
        "max_age": 0,
        "max_consumers": asked.max_consumers,
        "discard": "new",
        "num_replicas": asked.replicas,
        "duplicate_window": 120 * _NANOS,
        "metadata": {_PRIORITY_KEY: asked.priority_order, _RETENTION_KEY: str(asked.retention_s)}
        | _lease_metadata(asked),
    }


def _advisories(asked: Deployment) -> dict[str, Any]:
    return {
        "name": ADVISORIES,
        "description": "qgjet: deliveries that JetStream gave up on; hints for the janitor",
        "subjects": [
            f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{STREAM}.*",
            f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{STREAM}.*",
        ],
        "retention": "limits",
        "storage": "file",
        "max_age": 30 * _DAY_S * _NANOS,
        "num_replicas": asked.replicas,
        "allow_direct": True,
    }


def _logs(asked: Deployment) -> dict[str, Any]:
    return {
        "name": LOGS,
        "description": "qgjet: live output of running tests",
        "subjects": ["qg.log.>"],
        "retention": "limits",
        "storage": "file",
        "max_age": int(asked.log_retention_s * _NANOS),
        "max_bytes": 2 * 1024**3,
        "discard": "old",
        "num_replicas": asked.replicas,
        "allow_direct": True,
    }


def _agents(asked: Deployment) -> dict[str, Any]:
    return {
        "name": f"KV_{AGENTS_BUCKET}",
        "description": "qgjet: agents that are alive",
        "subjects": [f"$KV.{AGENTS_BUCKET}.>"],
        "retention": "limits",
        "storage": "file",  # one in memory does not outlive a single server, and nobody would make it anew
        "max_msgs_per_subject": 1,
        "max_age": int(asked.agents_ttl_s * _NANOS),
        "discard": "new",
        "num_replicas": asked.replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


def _artifacts(asked: Deployment) -> dict[str, Any]:
    return {
        "name": f"OBJ_{ARTIFACTS_BUCKET}",
        "description": "qgjet: reports, screenshots, videos and full logs",
        "subjects": [f"$O.{ARTIFACTS_BUCKET}.C.>", f"$O.{ARTIFACTS_BUCKET}.M.>"],
        "retention": "limits",
        "storage": "file",
        "max_age": int(asked.artifact_retention_s * _NANOS),
        "discard": "new",
        "num_replicas": asked.replicas,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
    }
