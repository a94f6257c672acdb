"""`qgjet serve`: the HTTP API with its read model, projector and janitor."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from qgjet.config import files
from qgjet.config.settings import Settings
from qgjet.support.plugins import extra
from qgjet_cli.options import flags
from qgjet_cli.options.flags import NatsServer
from qgjet_cli.runtime import daemon

log = logging.getLogger(__name__)


def serve(
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen here; 0.0.0.0 is everywhere. [default: 127.0.0.1]",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="0 is a free one. [default: 8000]"
        ),
    ] = None,
    nats: NatsServer = None,
    database: Annotated[
        Path | None,
        typer.Option(
            "--database",
            metavar="FILE",
            help="This replica's own, built from the log. [default: .qgjet/read-model.sqlite]",
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth", help="Ask nobody for a token; on loopback only. [QGJET_API_AUTH=false]"
        ),
    ] = False,
    config_file: flags.Config = None,
) -> None:
    """Serve the API. It starts without NATS too, answers 503, and mends itself when the server is
    there. Ctrl-C or SIGTERM ends it within 5 s.

    `qgjet token` says who may use it. Before there is a token, that is everybody on this machine,
    and on other addresses than loopback it does not start.
    """
    flags = {
        "nats_url": nats,
        "api.host": host,
        "api.port": port,
        "api.database": str(database) if database else None,
        "api.auth": False if no_auth else None,
    }
    settings = files.load_for_api(config_file, flags)
    daemon.log_to_stderr()
    raise typer.Exit(daemon.run(_serve(settings)))


async def _serve(settings: Settings) -> int:
    with extra("server", "the API"):
        from qgjet_projections.serving.server import serve  # a second: not for every command

    serving = asyncio.create_task(
        serve(settings, ready=lambda url: log.info("API on %s, documentation on %s/docs", url, url))
    )
    with daemon.stopping(serving.cancel, serving.cancel) as stops:
        await asyncio.wait([serving])
    if not serving.cancelled():
        await serving  # it ended by itself: say why
    return stops.exit_code
