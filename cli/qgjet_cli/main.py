"""The entry of `qgjet` and `qgjob`: one Typer app, and the one place where an error becomes a line
and an exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qgjet.errors import QgjetError
from qgjet.version import __version__
from qgjet_cli.commands import (
    agents,
    artifacts,
    cancel,
    dead,
    job,
    listing,
    logs,
    queue,
    rerun,
    run,
    status,
    submit,
    suite,
    suites,
    tests,
    token,
    wait,
)
from qgjet_cli.exits import HELP, Exit, of_error
from qgjet_cli.output import console

SECTIONS = {
    "Daily commands": ("run", "submit", "status", "wait", "logs"),
    "Inspect and control": ("job", "suite", "test", "queue", "agent", "dead"),
    "Servers and setup": ("up", "serve", "doctor", "token", "backup", "restore"),
}


class Sections(TyperGroup):
    """Lists the commands by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in SECTIONS.items():
            limit = formatter.width - 6 - max(map(len, self.commands))
            with formatter.section(title):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit)) for name in names]
                )


app = typer.Typer(
    cls=Sections,
    rich_markup_mode=None,  # plain help: rich would double the time of `qgjet --help`
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(asked: bool) -> None:
    if asked:
        console.line(f"qgjet {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=HELP)
def qgjet_cli(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Queue for AppWright test jobs: submit them, run them on emulators, devices and farms, see the
    verdicts.

    Data goes to stdout, everything else to stderr. Flags go before QGJET_ variables, those before
    qgjet.toml.

    Without an address, commands look for the API at http://127.0.0.1:8000, where `qgjet up`
    listens; `run` starts everything itself.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("run", epilog=HELP)(run.run)
app.command("submit")(submit.submit)
app.command("status")(status.status)
app.command("wait", epilog=HELP)(wait.wait)
app.command("logs")(logs.logs)
app.add_typer(job.app, name="job")
app.add_typer(suite.app, name="suite")
app.add_typer(tests.app, name="test")
app.add_typer(queue.app, name="queue")
app.add_typer(dead.app, name="dead")
app.add_typer(token.app, name="token")

# what version 0.1 called these: kept, and not shown
app.command("artifacts", hidden=True)(artifacts.artifacts)
app.command("list", hidden=True)(listing.list_jobs)
app.command("cancel", hidden=True)(cancel.cancel)
app.command("rerun", hidden=True)(rerun.rerun)
app.command("suites", hidden=True)(suites.suites)
app.add_typer(tests.app, name="tests", hidden=True)
app.command("pause", hidden=True)(queue.pause)
app.command("resume", hidden=True)(queue.resume)
app.command("priority", hidden=True)(queue.priority)
app.command("agents", hidden=True)(agents.agents)
app.command("drain", hidden=True)(agents.drain)


_HEAVY = {
    "agent": "Agents: start one here, list them, drain one.",
    "serve": "Serve the HTTP API.",
    "up": "Start a server, the API and an agent on this machine.",
    "doctor": "Look for what is missing, and say how to fix it.",
    "backup": "Save events, artifacts and logs into a directory, while work goes on.",
    "restore": "Put a backup on a server.",
}
"""Commands that bring servers and clients along, with their line in the overview: imported only
when they are called.
"""


def _register_heavy(argv: Sequence[str]) -> None:
    called = next((word for word in _completed() or argv if not word.startswith("-")), "")
    for name, summary in _HEAVY.items():
        if name != called:
            app.command(name, short_help=summary)(_not_called)
            continue
        module = import_module(f"qgjet_cli.commands.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, short_help=summary)
        else:
            app.command(name, short_help=summary)(getattr(module, name))


def _completed() -> list[str]:
    """The words of the command line that a shell asks to complete, without the program's name."""
    completes = any(name.endswith("_COMPLETE") and name.startswith("_QGJ") for name in os.environ)
    words = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return words.split()[1:] if completes else []


def _not_called() -> None:
    raise AssertionError("a command that was not loaded")


def _open_standard_descriptors() -> None:
    """Open the null device on closed standard descriptors; otherwise the next file or socket would
    take their numbers.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def main() -> None:
    """Run the command of sys.argv. Ends the process, never with a traceback (QGJET_DEBUG=1 shows
    it).
    """
    _open_standard_descriptors()
    console.open_terminals()
    try:
        _register_heavy(sys.argv[1:])
        app()
    except QgjetError as error:
        console.fail(error)
        sys.exit(of_error(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and (
            full := console.failure_of_stdout(error)
        ):  # typer writes help and tables of its own
            console.fail(full)
            sys.exit(of_error(full))
        if os.environ.get("QGJET_DEBUG"):
            raise
        console.note(
            f"Error: this is a defect of qgjet, please report it: {type(error).__name__}: {error} (QGJET_DEBUG=1 shows where)"
        )
        sys.exit(of_error(error))


if __name__ == "__main__":
    main()
