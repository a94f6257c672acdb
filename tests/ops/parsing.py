"""Whether a `qgjet` command line could be typed: parsed by the real app, not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from qgjet_cli import main


def parse(argv: Sequence[str]) -> str:
    """The name of the command that `argv`, without the program, calls. Raises the app's own error
    for what it would refuse.
    """
    main._register_heavy(argv)
    group: Any = typer.main.get_command(main.app)
    context = group.make_context("qgjet", list(argv))
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    inner = command.make_context(name, rest, parent=context)
    if isinstance(command, typer.core.TyperGroup) and [*inner._protected_args, *inner.args]:
        part, below, rest = command.resolve_command(inner, [*inner._protected_args, *inner.args])
        below.make_context(part, rest, parent=inner)
    return str(name)
