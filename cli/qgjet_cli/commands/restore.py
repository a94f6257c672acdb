"""`qgjet restore`: a backup back on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgjet.config import files
from qgjet.jetstream.connection import connect
from qgjet.store import backup as backups
from qgjet_cli.commands.backup import show
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.flags import CONNECT_TIMEOUT_S, DEFAULT_NATS_URL, NatsServer
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground


def restore(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What `qgjet backup` has made.", show_default=False),
    ],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Delete the streams that the server has first. What they hold is lost.",
        ),
    ] = False,
    replicas: Annotated[
        int | None,
        typer.Option(
            "--replicas",
            metavar="N",
            min=1,
            max=5,
            help="Copies of each stream: 1 on a single server. [default: as saved]",
        ),
    ] = None,
    nats: NatsServer = None,
    config_file: flags.Config = None,
    as_json: flags.Json = False,
) -> None:
    """Put the streams of a backup on a server. The whole backup is checked before anything is
    touched.

    Stop API and agents before: they would make empty streams on an empty server. Jobs that were
    queued then are queued again, jobs that ran are run again, and each API rebuilds its read model.
    Ends with 2 when the server has such streams already or the backup is damaged, 4 when the server
    cannot be reached.
    """
    settings = files.load(config_file, {"nats_url": nats})

    async def work(interrupts: foreground.Interrupts) -> Exit:
        async with connect(
            settings.nats_url or DEFAULT_NATS_URL,
            name="qgjet-restore",
            login=settings.nats,
            timeout_s=CONNECT_TIMEOUT_S,
        ) as connection:
            manifest = await backups.restore(
                connection, directory, replace=replace, replicas=replicas
            )
            where = connection.url
        if as_json:
            console.json(manifest)
        else:
            show(manifest)
            console.note(
                f"{directory}, of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC, is on {where} now"
            )
        return Exit.PASSED

    foreground.run(work)
