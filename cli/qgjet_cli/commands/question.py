"""Commands that ask the API one thing and show the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qgjet.client.base import open_api
from qgjet_cli.exits import Exit
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient

T = TypeVar("T")


def ask(
    question: Callable[[ApiClient], Awaitable[T]],
    show: Callable[[T], None],
    *,
    what: str,
    json: bool,
    api: str | None,
    config: Path | None,
    exit_of: Callable[[T], Exit] = lambda _: Exit.PASSED,
) -> None:
    """Print the answer as one JSON document, or as `show` does. `what`: what the API is needed for,
    should there be only NATS.
    """
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        async with open_api(settings, what=what, notice=console.note) as client:
            answer = await question(client)
        if json:
            console.json(answer)
        else:
            show(answer)
        return exit_of(answer)

    foreground.run(body)
