"""An agent as its settings describe it, and what it needs on this host and on the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from qgjet.agent.agent import Agent
from qgjet.agent.cleanup import own_directory
from qgjet.config.settings import QueueSettings, Settings, TargetSettings
from qgjet.domain.deployment import DEFAULT_VISIBILITY_TIMEOUT_S
from qgjet.domain.subjects import STREAM
from qgjet.errors import InvalidSettings, PermissionDenied
from qgjet.jetstream.connection import Connection
from qgjet.runners.registry import make_runner
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support import private_files

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0


def chosen_targets(settings: Settings) -> list[TargetSettings]:
    """The targets to serve, in the order asked. Raises InvalidSettings when there are none, or one
    is not declared.
    """
    declared = settings.targets
    if not declared:
        raise InvalidSettings(
            "qgjet.toml",
            "declares no targets: an agent needs a [targets.<name>] table, in the file found here or named with --config",
        )
    unknown = [name for name in settings.agent.targets if name not in declared]
    if unknown:
        raise InvalidSettings(
            "target", f"{', '.join(unknown)}: no such target; declared are {', '.join(declared)}"
        )
    return [declared[name] for name in dict.fromkeys(settings.agent.targets or declared)]


def make_agent(settings: Settings, event_log: EventLog, directory: Path) -> Agent:
    """An agent for the chosen targets. Raises InvalidSettings for a target that could never work."""
    chosen = chosen_targets(settings)
    runners = {target.name: make_runner(target, settings.verdicts) for target in chosen}
    slots = {target.name: target.slots for target in chosen}
    return Agent(
        event_log, runners, slots, directory, settings.agent, settings.queue, settings.artifacts
    )


async def queue_in_force(connection: Connection, settings: Settings) -> QueueSettings:
    """Make what is missing, or wait for somebody who may. A log that is there stays as it is: its
    ranks and leases are agreed.
    """
    asked, told = settings.queue, ""
    while True:
        there = await streams.stream_config(connection, STREAM) is not None
        try:
            in_force = asked.agreed(
                await streams.ensure(connection, None if there else settings.deployment)
            )
            break
        except PermissionDenied as error:
            if told != str(error):
                log.warning("%s; waiting for it", error)
            told = str(error)
            await asyncio.sleep(LOOK_AGAIN_S)
    if asked.visibility_timeout_s not in (
        in_force.visibility_timeout_s,
        DEFAULT_VISIBILITY_TIMEOUT_S,
    ):
        log.warning(
            "the visibility timeout is %gs on this server, not %gs: the API's settings say so",
            in_force.visibility_timeout_s,
            asked.visibility_timeout_s,
        )
    return in_force


@contextlib.asynccontextmanager
async def work_dir(settings: Settings) -> AsyncIterator[Path]:
    """Where attempts run: a directory of this process in `agent.work_dir`, or in the one for
    temporary files. If attempts are kept, `agent.work_dir` itself.
    """
    if settings.agent.work_dir:
        path = Path(settings.agent.work_dir).expanduser().absolute()
        _make(path)
        if settings.agent.keep_attempts:
            yield path
            return
    parent, prefix = (
        (path, "agent-")
        if settings.agent.work_dir
        else (Path(tempfile.gettempdir()), "qgjet-agent-")
    )
    with contextlib.ExitStack() as stack:
        try:
            own = stack.enter_context(own_directory(parent, prefix))
        except OSError as error:
            raise InvalidSettings(
                "agent.work_dir",
                f"no directory can be created in {parent}: {error.strerror}. Name another one",
            ) from error
        yield own


def _make(path: Path) -> None:
    try:
        private_files.make_directory(path)
    except OSError as error:
        raise InvalidSettings(
            "agent.work_dir", f"{path} cannot be made: {error.strerror}"
        ) from error
