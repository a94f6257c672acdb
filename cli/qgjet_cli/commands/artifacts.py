"""`qgjet job artifacts`: the files that a job's attempts left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from qgjet.client.base import open_api
from qgjet.domain.events import Artifact
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console, downloads
from qgjet_cli.output.downloads import Wanted
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

COLUMNS = ("attempt", "name", "type", "size", "note")


def artifacts(
    job: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.", show_default=False)],
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", min=1, help="Of this attempt only, counted from 1."),
    ] = None,
    download: Annotated[
        Path | None,
        typer.Option(
            "--download",
            metavar="DIR",
            help="Fetch them into DIR/<job>/<attempt>/.",
            show_default=False,
            file_okay=False,
        ),
    ] = None,
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """List or fetch the files of a job: logs, reports, screenshots, videos. Needs the API."""
    settings = settings_of(config, None, api)
    directory = downloads.prepare(download)

    async def body(_: Interrupts) -> Exit:
        async with open_api(
            settings, what="finding a job's artifacts", notice=console.note
        ) as client:
            found = [
                one for one in await client.artifacts(job) if attempt in (None, one["attempt"])
            ]
            failed = 0
            if directory is not None:
                wanted = [
                    Wanted(job, one["attempt"], msgspec.convert(one, Artifact))
                    for one in found
                    if one["sha256"]
                ]
                failed = await downloads.fetch(client, wanted, directory)
                console.note(f"{console.counted(len(wanted) - failed, 'file')} in {directory}")
        if json:
            console.json({"job_id": job, "artifacts": found})
        elif directory is None:
            _show(found)
        return Exit.UNREACHABLE if failed else Exit.PASSED

    foreground.run(body)


def _show(found: list[dict[str, Any]]) -> None:
    if found:
        console.table(
            COLUMNS,
            [
                (
                    str(one["attempt"]),
                    one["name"],
                    one["content_type"],
                    _size(one["size"]),
                    one.get("note", ""),
                )
                for one in found
            ],
        )
    else:
        console.note("No artifacts.")


def _size(count: int) -> str:
    """`7 B`, `1.4 MB`: in the units of `max_file`."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
