"""`qgjet agent list` and `qgjet agent drain`: who executes jobs, and who is to stop."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from qgjet.support.clock import utc_now
from qgjet_cli.commands.question import ask
from qgjet_cli.options import flags
from qgjet_cli.output import console

COLUMNS = ("agent", "name", "state", "busy", "targets", "versions", "age", "version", "warm")


def agents(json: flags.Json = False, api: flags.Api = None, config: flags.Config = None) -> None:
    """List the agents that are alive. With --json: a list of them."""
    ask(
        lambda client: client.agents(),
        _show,
        what="listing agents",
        json=json,
        api=api,
        config=config,
    )


def _show(found: list[dict[str, Any]]) -> None:
    if not found:
        console.note("No agents are alive. Start one in the test project: qgjet agent")
        return
    now = utc_now()
    console.table(COLUMNS, [_row(one, now) for one in found])


def _row(agent: dict[str, Any], now: datetime) -> tuple[str, ...]:
    return (
        agent["instance"],
        agent["name"],
        _state(agent),
        f"{len(agent['running'])} of {agent['slots']}",
        ", ".join(f"{one['target']} ({one['slots']})" for one in agent["targets"]),
        agent["app_version_id"],
        console.duration(
            max((now - msgspec.convert(agent["since"], datetime)).total_seconds(), 0.0)
        ),
        agent["version"],
        ", ".join(agent["warm"]),
    )


def _state(agent: dict[str, Any]) -> str:
    if problem := agent.get("problem"):
        return f"backing off: {problem}"
    return "draining" if agent["draining"] else "serving"


def drain(
    agent: Annotated[
        str,
        typer.Argument(
            metavar="AGENT",
            help="Its id, or its name where only one has it: see `qgjet agent list`.",
            show_default=False,
        ),
    ],
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            metavar="TEXT",
            help="For people; kept in the event log.",
            show_default=False,
        ),
    ] = "",
    json: flags.Json = False,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Ask an agent to finish what it runs, to take nothing new, and to end."""
    told = f"Agent {agent} → asked to drain"
    ask(
        lambda client: client.drain(agent, reason),
        lambda _: console.line(told),
        what="draining an agent",
        json=json,
        api=api,
        config=config,
    )
