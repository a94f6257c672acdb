"""`qgjet up`: a NATS server, the API and an agent on this machine, in one process tree."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from qgjet.agent.factory import chosen_targets
from qgjet.config import files
from qgjet.config.settings import Settings
from qgjet_cli.commands.agent import drain, halt
from qgjet_cli.options import flags
from qgjet_cli.options.flags import DEFAULT_NATS_URL, ServedTargets
from qgjet_cli.runtime import daemon
from qgjet_projections.serving.local_stack import ANY_NATS_PORT, LocalStack

log = logging.getLogger(__name__)

DATA_DIR = Path(".qgjet")
USUAL_NATS_PORT = 4222


def up(
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            help="Where the log and all else is kept, for the next start too.",
        ),
    ] = DATA_DIR,
    targets: ServedTargets = None,
    no_agent: Annotated[
        bool, typer.Option("--no-agent", help="Server and API only: agents run elsewhere.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            metavar="N",
            min=0,
            max=65535,
            help="Of the API; 0 is a free one. [default: 8000]",
        ),
    ] = None,
    nats_port: Annotated[
        int | None,
        typer.Option(
            "--nats-port",
            metavar="N",
            min=0,
            max=65535,
            help="Of the NATS server; 0 is a free one. [default: 4222, else a free one]",
        ),
    ] = None,
    config_file: flags.Config = None,
) -> None:
    """Start a server, the API and an agent for every target declared, on loopback, until Ctrl-C.

    The first Ctrl-C or SIGTERM finishes what runs, the second stops it and gives it back; what is
    queued is there again at the next start.
    """
    settings = files.load_for_api(config_file, {"agent.targets": targets or None, "api.port": port})
    daemon.log_to_stderr(logging.WARNING)
    for name in (__name__, "qgjet_cli.commands.agent"):
        logging.getLogger(name).setLevel(logging.INFO)
    raise typer.Exit(
        daemon.run(_up(settings, data_dir, with_agent=not no_agent, nats_port=nats_port))
    )


async def _up(
    settings: Settings, data_dir: Path, *, with_agent: bool, nats_port: int | None
) -> int:
    stack = LocalStack(
        settings,
        data_dir=data_dir,
        nats_port=_nats_port(nats_port),
        api_port=settings.api.port,
        with_agent=with_agent,
    )
    async with stack:
        agent = stack.agent
        with daemon.stopping(
            lambda: drain(agent) if agent else None, lambda: halt(agent) if agent else None
        ) as stops:
            _introduce(stack, data_dir)
            await stops.first.wait()
            await stack.agent_ended()
        return stops.exit_code


def _nats_port(asked: int | None) -> int:
    """The usual port if it is free, because every command looks there by itself."""
    if asked is not None:
        return asked or ANY_NATS_PORT
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_NATS_PORT))
        except OSError:
            return ANY_NATS_PORT
    return USUAL_NATS_PORT


def _introduce(stack: LocalStack, data_dir: Path) -> None:
    out = Console(highlight=False, soft_wrap=True)
    out.print("[bold]qgjet is up.[/bold] Ctrl-C ends it.\n")
    out.print(
        f"  API   {stack.api_url}   (in a browser: the dashboard; documentation: {stack.api_url}/docs)"
    )
    out.print(
        "        open to everybody on this machine, unless there is a token: qgjet token create"
    )
    out.print(
        f"  NATS  {stack.nats_url}   (look inside: nats --server {stack.nats_url} consumer report QG_EVENTS)"
    )
    out.print(f"  data  {data_dir.expanduser().absolute()}\n", markup=False)
    if stack.nats_url != DEFAULT_NATS_URL:
        out.print(
            f"For other terminals: export QGJET_NATS_URL={stack.nats_url} QGJET_API_URL={stack.api_url}\n"
        )
    if stack.agent is None:
        out.print("No agent runs here: start some with `qgjet agent`.")
    else:
        out.print(_table(stack.settings))


def _table(settings: Settings) -> Table:
    table = Table(
        "target", "runner", "slots", "project", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for target in chosen_targets(settings):
        table.add_row(target.name, target.runner, str(target.slots), target.dir)
    return table
