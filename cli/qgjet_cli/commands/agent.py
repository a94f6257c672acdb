"""`qgjet agent`: executes jobs for some targets until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from qgjet.agent.agent import Agent
from qgjet.agent.cleanup import own_directory
from qgjet.config import files
from qgjet.config.settings import QueueSettings, Settings, Target
from qgjet.domain.deployment import DEFAULT_VISIBILITY_TIMEOUT_S
from qgjet.domain.subjects import STREAM
from qgjet.errors import CannotReach, InvalidSettings, LogUnavailable, NotPermitted
from qgjet.jetstream.connection import Bus, open_bus
from qgjet.runners.registry import make_runner
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.support import private_files
from qgjet_cli.options import flags
from qgjet_cli.output.console import counted
from qgjet_cli.runtime import daemon

log = logging.getLogger(__name__)

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
CONNECT_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 1.0


Targets = Annotated[
    list[str] | None, typer.Option("--target", metavar="TEXT", help="Serve this target; repeatable. [default: every target declared]", show_default=False)
]
Nats = Annotated[str | None, typer.Option("--nats", metavar="URL", help=f"The NATS server. [QGJET_NATS_URL, or nats_url in qgjet.toml; {DEFAULT_NATS_URL}]")]


def agent(
    targets: Targets = None,
    app_version_id: Annotated[
        str | None, typer.Option("--app-version-id", metavar="TEXT", help="Serve this app version only. [default: all, which is every one]")
    ] = None,
    slots: Annotated[
        int | None, typer.Option("--slots", metavar="N", min=0, help="Jobs side by side, over all targets. [default: what the targets allow together]")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="N", min=1, help="Jobs of one app version and target in a row, before a look for others. [default: 3]")
    ] = None,
    execution_timeout: Annotated[
        str | None, typer.Option("--execution-timeout", metavar="DURATION", help="Limit of one attempt, for jobs that bring none. [default: 10m]")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="For people. [default: the host's name]")] = None,
    nats: Nats = None,
    config_file: flags.Config = None,
) -> None:
    """Execute jobs. The first Ctrl-C or SIGTERM finishes what runs and takes nothing new; the second stops what runs and gives it back."""
    flags = {
        "nats_url": nats,
        "agent.targets": targets or None,
        "agent.app_version_id": app_version_id,
        "agent.slots": slots,
        "agent.batch": batch,
        "agent.execution_timeout": execution_timeout,
        "agent.name": name,
    }
    settings = files.load(config_file, flags)
    daemon.log_to_stderr()
    raise typer.Exit(daemon.run(_serve(settings)))


async def _serve(settings: Settings) -> int:
    chosen = chosen_targets(settings)  # before anything is touched: a typo is answered at once
    async with _connected(settings) as bus, work_dir(settings) as directory:
        settings = replace(settings, queue=await queue_in_force(bus, settings))
        one = make_agent(settings, EventLog(bus), directory)
        log.info("agent %s serves %s on %s", one.instance, ", ".join(map(_described, chosen)), bus.url)
        for target in chosen:
            if target.runner == "appwright":
                log.info("%s: %s", target.name, retries_of(target))
        with daemon.stopping(lambda: drain(one), lambda: halt(one)) as stops:
            await one.run()
        log.info("agent %s has ended", one.instance)
        return stops.exit_code


@contextlib.asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Bus]:
    try:
        bus = await open_bus(settings.nats_url or DEFAULT_NATS_URL, name="qgjet-agent", login=settings.nats, timeout_s=CONNECT_TIMEOUT_S)
    except NotPermitted:
        raise  # there is one, and the error contains what to do
    except LogUnavailable as error:
        raise CannotReach(f"{error}. Start one with `qgjet up`, or correct its address: --nats, QGJET_NATS_URL, or nats_url in qgjet.toml.") from error
    try:
        yield bus
    finally:
        await bus.close()


def drain(one: Agent) -> None:
    """Finish what runs, and say so: it may take a while."""
    running = len(one.info().running)
    log.info("draining: %s", f"{running} running, once more stops them and gives them back to the queue" if running else "nothing is running")
    one.drain()


def halt(one: Agent) -> None:
    log.info("stopping what runs: it goes back to the queue")
    one.halt()


def chosen_targets(settings: Settings) -> list[Target]:
    """The targets to serve, in the order asked. Raises InvalidSettings when there are none, or one is not declared."""
    declared = settings.targets
    if not declared:
        raise InvalidSettings("qgjet.toml", "declares no targets: an agent needs a [targets.<name>] table, in the file found here or named with --config")
    unknown = [name for name in settings.agent.targets if name not in declared]
    if unknown:
        raise InvalidSettings("target", f"{', '.join(unknown)}: no such target; declared are {', '.join(declared)}")
    return [declared[name] for name in dict.fromkeys(settings.agent.targets or declared)]


def make_agent(settings: Settings, event_log: EventLog, directory: Path) -> Agent:
    """An agent for the chosen targets. Raises InvalidSettings for a target that could never work."""
    chosen = chosen_targets(settings)
    runners = {target.name: make_runner(target, settings.verdicts) for target in chosen}
    slots = {target.name: target.slots for target in chosen}
    return Agent(event_log, runners, slots, directory, settings.agent, settings.queue, settings.artifacts)


async def queue_in_force(bus: Bus, settings: Settings) -> QueueSettings:
    """Make what is missing, or wait for somebody who may. A log that is there stays as it is: its ranks and leases are agreed."""
    asked, told = settings.queue, ""
    while True:
        there = await streams.stream_config(bus, STREAM) is not None
        try:
            in_force = asked.agreed(await streams.ensure(bus, None if there else settings.deployment))
            break
        except NotPermitted as error:
            if told != str(error):
                log.warning("%s; waiting for it", error)
            told = str(error)
            await asyncio.sleep(LOOK_AGAIN_S)
    if asked.visibility_timeout_s not in (in_force.visibility_timeout_s, DEFAULT_VISIBILITY_TIMEOUT_S):
        log.warning(
            "the visibility timeout is %gs on this server, not %gs: the API's settings say so", in_force.visibility_timeout_s, asked.visibility_timeout_s
        )
    return in_force


@contextlib.asynccontextmanager
async def work_dir(settings: Settings) -> AsyncIterator[Path]:
    """Where attempts run: a directory of this process in `agent.work_dir`, or in the one for temporary files. If attempts are kept, `agent.work_dir` itself."""
    if settings.agent.work_dir:
        path = Path(settings.agent.work_dir).expanduser().absolute()
        _make(path)
        if settings.agent.keep_attempts:
            yield path
            return
    parent, prefix = (path, "agent-") if settings.agent.work_dir else (Path(tempfile.gettempdir()), "qgjet-agent-")
    with contextlib.ExitStack() as stack:
        try:
            own = stack.enter_context(own_directory(parent, prefix))
        except OSError as error:
            raise InvalidSettings("agent.work_dir", f"no directory can be created in {parent}: {error.strerror}. Name another one") from error
        yield own


def _make(path: Path) -> None:
    try:
        private_files.make_directory(path)
    except OSError as error:
        raise InvalidSettings("agent.work_dir", f"{path} cannot be made: {error.strerror}") from error


def _described(target: Target) -> str:
    return f"{target.name} ({counted(target.slots, 'slot')})"


def retries_of(target: Target) -> str:
    """Who tries a failed test again. Both together multiply, so nobody shall have to guess."""
    if target.runner != "appwright" or not target.test_retries:
        return "failed tests are retried by the queue"
    return f"failed tests are retried up to {counted(target.test_retries, 'time')} inside AppWright, and then by the queue"
