"""`qgjet backup`: everything that cannot be made again, as a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qgjet.config import files
from qgjet.domain.subjects import STREAM
from qgjet.jetstream.connection import connect
from qgjet.store import backup as backups
from qgjet.store.backup import Manifest
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.flags import CONNECT_TIMEOUT_S, DEFAULT_NATS_URL, NatsServer
from qgjet_cli.output import console
from qgjet_cli.output.console import counted
from qgjet_cli.runtime import foreground


def backup(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new directory.", show_default=False)
    ],
    events_only: Annotated[
        bool,
        typer.Option("--events-only", help="Leave out artifacts and the live output of tests."),
    ] = False,
    nats: NatsServer = None,
    config_file: flags.Config = None,
    as_json: flags.Json = False,
) -> None:
    """Save the event log, the artifacts and the logs into DIR. Online: jobs go on, and what comes
    meanwhile may be in it or not.

    DIR is there when it is complete, never before. `qgjet restore DIR` brings it back. Ends with 4
    when the server cannot be reached.
    """
    settings = files.load(config_file, {"nats_url": nats})
    names = (STREAM,) if events_only else backups.KEPT

    async def work(interrupts: foreground.Interrupts) -> Exit:
        async with connect(
            settings.nats_url or DEFAULT_NATS_URL,
            name="qgjet-backup",
            login=settings.nats,
            timeout_s=CONNECT_TIMEOUT_S,
        ) as connection:
            manifest = await backups.save(connection, directory, names)
        if as_json:
            console.json(manifest)
        else:
            show(manifest)
            console.note(f"Saved into {directory}")
        return Exit.PASSED

    foreground.run(work)


def show(manifest: Manifest) -> None:
    """A line per stream."""
    for one in manifest.streams:
        console.line(
            f"{one.name:<16}  {counted(one.messages, 'message')}, up to {one.last_seq}; {one.size / 1e6:.1f} MB"
        )
