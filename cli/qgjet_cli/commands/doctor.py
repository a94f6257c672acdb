"""`qgjet doctor`: what is missing, and how to fix it. Looks, changes nothing, and works with
nothing running.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qgjet.config import files
from qgjet.config.settings import Settings
from qgjet.errors import InvalidSettings
from qgjet_cli.doctor.check import Check, Health, exit_code, fail, ok, warn, worst
from qgjet_cli.doctor.host import look_at_host
from qgjet_cli.doctor.server import look_at_api, look_at_server
from qgjet_cli.options import flags
from qgjet_cli.output import console
from qgjet_cli.runtime import daemon


def doctor(
    nats: Annotated[
        str | None,
        typer.Option(
            "--nats",
            metavar="URL",
            help="The NATS server. [QGJET_NATS_URL, or nats_url in qgjet.toml]",
        ),
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(
            "--api", metavar="URL", help="The API. [QGJET_API_URL, or api_url in qgjet.toml]"
        ),
    ] = None,
    config_file: flags.Config = None,
    as_json: flags.Json = False,
) -> None:
    """Look at settings, targets, disk, NATS server, queue, agents and API, and say how to fix what
    is wrong.

    Ends with 0 when nothing fails (warnings do not), 4 when a server cannot be reached or used, 3
    for anything else.
    """
    daemon.log_to_stderr(logging.CRITICAL)  # every failed try to connect would be a line
    settings, checks = read_settings(config_file, {"nats_url": nats, "api_url": api})
    checks += daemon.run(examine(settings))
    if as_json:
        console.json({"health": worst(checks), "checks": checks})
    else:
        show(checks)
    raise typer.Exit(exit_code(checks))


def read_settings(path: Path | None, flags: dict[str, Any]) -> tuple[Settings, list[Check]]:
    """The settings, or defaults where they cannot be read, and what there is to say about them."""
    try:
        settings = files.load(path, flags)
        file = path or os.environ.get("QGJET_CONFIG") or files.find(Path.cwd())
    except InvalidSettings as error:
        return Settings(nats_url=flags["nats_url"] or "", api_url=flags["api_url"] or ""), [
            fail("settings", str(error), "correct it; all keys: docs/settings.md")
        ]
    if settings.targets:
        return settings, [
            ok("settings", f"{file or 'QGJET_ variables'}: targets {', '.join(settings.targets)}")
        ]
    return settings, [
        warn(
            "settings",
            f"{file or 'no qgjet.toml here or above'}: no targets",
            "to run tests from here, declare a [targets.<name>] in qgjet.toml",
        )
    ]


async def examine(settings: Settings) -> list[Check]:
    """Everything but the settings themselves."""
    return [
        *await asyncio.to_thread(look_at_host, settings),
        *await look_at_server(settings),
        *await look_at_api(settings),
    ]


def show(checks: Sequence[Check]) -> None:
    """A line per check, with the way to fix it below."""
    about = max(len(check.about) for check in checks)
    colours = {
        Health.OK: typer.colors.GREEN,
        Health.WARN: typer.colors.YELLOW,
        Health.FAIL: typer.colors.RED,
    }
    for check in checks:
        head = typer.style(
            f"{check.health:<4}", fg=colours[check.health], bold=check.health is Health.FAIL
        )
        typer.echo(f"{head}  {check.about:<{about}}  {console.printable(check.found)}")
        if check.fix:
            typer.echo(f"{'':{about + 6}}  → {console.printable(check.fix)}")
