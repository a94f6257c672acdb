"""`qgjet agent`: executes jobs for some targets until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Annotated

import typer
from msgspec.structs import replace

from qgjet.agent.agent import Agent
from qgjet.agent.factory import chosen_targets, make_agent, queue_in_force, work_dir
from qgjet.config import files
from qgjet.config.settings import Settings, TargetSettings
from qgjet.errors import CannotReach, NatsUnavailable, PermissionDenied
from qgjet.jetstream.connection import Connection, open_connection
from qgjet.store.event_log import EventLog
from qgjet_cli.commands import agents
from qgjet_cli.options import flags
from qgjet_cli.options.flags import CONNECT_TIMEOUT_S, DEFAULT_NATS_URL, NatsServer, ServedTargets
from qgjet_cli.output.console import counted
from qgjet_cli.runtime import daemon

log = logging.getLogger(__name__)


def agent(
    context: typer.Context,
    targets: ServedTargets = None,
    app_version_id: Annotated[
        str | None,
        typer.Option(
            "--app-version-id",
            metavar="TEXT",
            help="Serve this app version only. [default: all, which is every one]",
        ),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots",
            metavar="N",
            min=0,
            help="Jobs side by side, over all targets. [default: what the targets allow together]",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            metavar="N",
            min=1,
            help="Jobs of one app version and target in a row, before a look for others. [default: 3]",
        ),
    ] = None,
    execution_timeout: Annotated[
        str | None,
        typer.Option(
            "--execution-timeout",
            metavar="DURATION",
            help="Limit of one attempt, for jobs that bring none. [default: 10m]",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="TEXT", help="For people. [default: the host's name]"),
    ] = None,
    nats: NatsServer = None,
    config_file: flags.Config = None,
) -> None:
    """Execute jobs. The first Ctrl-C or SIGTERM finishes what runs and takes nothing new; the
    second stops what runs and gives it back.
    """
    if context.invoked_subcommand is not None:
        return
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


app = typer.Typer(
    callback=agent,
    invoke_without_command=True,
    help="Agents: start one here, list them, drain one.",
    rich_markup_mode=None,
)
app.command("start")(agent)
app.command("list")(agents.agents)
app.command("drain")(agents.drain)


async def _serve(settings: Settings) -> int:
    chosen = chosen_targets(settings)  # before anything is touched: a typo is answered at once
    async with _connected(settings) as connection, work_dir(settings) as directory:
        settings = replace(settings, queue=await queue_in_force(connection, settings))
        one = make_agent(settings, EventLog(connection), directory)
        log.info(
            "agent %s serves %s on %s",
            one.instance,
            ", ".join(map(_described, chosen)),
            connection.url,
        )
        for target in chosen:
            if target.runner == "appwright":
                log.info("%s: %s", target.name, retries_of(target))
        with daemon.stopping(lambda: drain(one), lambda: halt(one)) as stops:
            await one.run()
        log.info("agent %s has ended", one.instance)
        return stops.exit_code


@contextlib.asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    try:
        connection = await open_connection(
            settings.nats_url or DEFAULT_NATS_URL,
            name="qgjet-agent",
            login=settings.nats,
            timeout_s=CONNECT_TIMEOUT_S,
        )
    except PermissionDenied:
        raise  # there is one, and the error contains what to do
    except NatsUnavailable as error:
        raise CannotReach(
            f"{error}. Start one with `qgjet up`, or correct its address: --nats, QGJET_NATS_URL, or nats_url in qgjet.toml."
        ) from error
    try:
        yield connection
    finally:
        await connection.close()


def drain(one: Agent) -> None:
    """Finish what runs, and say so: it may take a while."""
    running = len(one.info().running)
    log.info(
        "draining: %s",
        f"{running} running, once more stops them and gives them back to the queue"
        if running
        else "nothing is running",
    )
    one.drain()


def halt(one: Agent) -> None:
    log.info("stopping what runs: it goes back to the queue")
    one.halt()


def _described(target: TargetSettings) -> str:
    return f"{target.name} ({counted(target.slots, 'slot')})"


def retries_of(target: TargetSettings) -> str:
    """Who tries a failed test again. The retries of both multiply, so `qgjet agent` and `doctor`
    say which are in force.
    """
    if target.runner != "appwright" or not target.test_retries:
        return "failed tests are retried by the queue"
    return f"failed tests are retried up to {counted(target.test_retries, 'time')} inside AppWright, and then by the queue"
