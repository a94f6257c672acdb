"""`qgjet agents` and `qgjet drain`: who executes jobs, and who is to stop."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from qgjet.clock import utc_now
from qgjet_cli import foreground, options, output
from qgjet_cli.client import open_api
from qgjet_cli.exits import Exit
from qgjet_cli.foreground import Interrupts
from qgjet_cli.request import settings_of

COLUMNS = ("agent", "name", "state", "busy", "targets", "versions", "age", "version", "warm")


def agents(json: options.Json = False, api: options.Api = None, config: options.Config = None) -> None:
    """List the agents that are alive. With --json: a list of them."""
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="listing agents", notice=output.note) as client:
            found = await client.agents()
        if json:
            output.json(found)
        elif found:
            now = utc_now()
            output.table(COLUMNS, [_row(one, now) for one in found])
        else:
            output.note("No agents are alive. Start one in the test project: qgjet agent")
        return Exit.PASSED

    foreground.run(body)


def _row(agent: dict[str, Any], now: datetime) -> tuple[str, ...]:
    return (
        agent["instance"],
        agent["name"],
        "draining" if agent["draining"] else "serving",
        f"{len(agent['running'])} of {agent['slots']}",
        ", ".join(f"{one['target']} ({one['slots']})" for one in agent["targets"]),
        agent["app_version_id"],
        output.duration(max((now - msgspec.convert(agent["since"], datetime)).total_seconds(), 0.0)),
        agent["version"],
        ", ".join(agent["warm"]),
    )


def drain(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its id, or its name where only one has it: see `qgjet agents`.", show_default=False)],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For people; kept in the event log.", show_default=False)] = "",
    json: options.Json = False,
    api: options.Api = None,
    config: options.Config = None,
) -> None:
    """Ask an agent to finish what it runs, to take nothing new, and to end."""
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what="draining an agent", notice=output.note) as client:
            done = await client.drain(agent, reason)
        if json:
            output.json(done)
        else:
            output.line(f"Agent {agent} → asked to drain")
        return Exit.PASSED

    foreground.run(body)
