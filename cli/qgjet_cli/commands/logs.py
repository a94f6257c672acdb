"""`qgjet logs`: what a job prints."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from qgjet.client.base import LONG_PATIENCE_S, PATIENCE_S, open_api
from qgjet.domain.events import ACTIVE
from qgjet_cli.exits import Exit
from qgjet_cli.options import flags
from qgjet_cli.options.request import settings_of
from qgjet_cli.output import console
from qgjet_cli.runtime import foreground
from qgjet_cli.runtime.foreground import Interrupts

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient

LOOK_S = 0.5
LONGEST_LINE = 64 * 1024
"""A longer one is written in pieces."""
_COLOR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")


def logs(
    job: Annotated[str, typer.Argument(metavar="JOB_ID", help="The job.", show_default=False)],
    follow: Annotated[
        bool,
        typer.Option(
            "-f",
            "--follow",
            help="Wait for the start of a queued job, go on until the job has ended.",
        ),
    ] = False,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt",
            metavar="N",
            min=1,
            help="Of this attempt, counted from 1. [default: the last one]",
        ),
    ] = None,
    tail: Annotated[
        int | None,
        typer.Option(
            "--tail", metavar="N", min=0, help="Begin with the last N lines. [default: all]"
        ),
    ] = None,
    api: flags.Api = None,
    config: flags.Config = None,
) -> None:
    """Show the output of a job: the bytes as they are, but nothing that a terminal would obey,
    except colours. Needs the API.
    """
    settings = settings_of(config, None, api)

    async def body(_: Interrupts) -> Exit:
        patience_s = LONG_PATIENCE_S if follow else PATIENCE_S
        async with open_api(
            settings, what="finding a job's output", patience_s=patience_s, notice=console.note
        ) as client:
            printer = Printer(tail)
            try:
                await (
                    _follow(client, printer, job, attempt)
                    if follow
                    else _show(client, printer, job, attempt)
                )
                printer.close()
            except BrokenPipeError:  # the reader has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PASSED

    foreground.run(body)


async def _show(client: ApiClient, printer: Printer, job_id: str, attempt: int | None) -> None:
    async with contextlib.aclosing(client.log(job_id, attempt)) as pieces:
        async for piece in pieces:
            printer.write(piece)


async def _follow(client: ApiClient, printer: Printer, job_id: str, attempt: int | None) -> None:
    found = await client.job(job_id)
    number = attempt or max(found["attempt"], 1)
    if found["status"] not in ACTIVE:
        await _show(client, printer, job_id, attempt)
        return
    first = number
    while await _begins(client, job_id, number):
        if number > first:
            console.note(f"Attempt {number} begins")
        async with contextlib.aclosing(client.follow_log(job_id, number)) as lines:
            async for line in lines:
                printer.go_live() if line.live else printer.write(line.data)
        printer.go_live()
        if attempt is not None:
            return
        number += 1


async def _begins(client: ApiClient, job_id: str, number: int) -> bool:
    """Wait for an attempt; False when the job has ended without it."""
    told = False
    while True:
        found = await client.job(job_id)
        if found["attempt"] >= number:
            return True
        if found["status"] not in ACTIVE:
            return False
        if not told:
            told = True
            console.note(f"Job {job_id} is {found['status']}: waiting for attempt {number}")
        await asyncio.sleep(LOOK_S)


class Printer:
    """Writes to stdout: to a file or a pipe the bytes as they are, to a terminal only what it may
    show.
    """

    def __init__(self, tail: int | None) -> None:
        self._terminal = sys.stdout.isatty()
        self._rest = b""
        self._kept: deque[bytes] | None = None if tail is None else deque(maxlen=tail)

    def write(self, data: bytes) -> None:
        if self._kept is None and not self._terminal:
            self._out(data)
            return
        *lines, self._rest = _lines(self._rest + data)
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        if self._kept is not None:
            self._kept.append(line)
        else:
            self._out(harmless(line) if self._terminal else line)

    def go_live(self) -> None:
        """From now on everything is written at once: the tail of what was there is known."""
        kept, self._kept = self._kept, None
        for line in kept or ():
            self._line(line)

    def close(self) -> None:
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        self.go_live()
        if self._terminal:
            self._out(b"\x1b[0m")

    def _out(self, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise console.lost(error) from error


def _lines(data: bytes) -> list[bytes]:
    """Lines with their ends, and what is left of the last one; a very long one in pieces."""
    found = []
    for line in data.split(b"\n"):
        pieces = [line[at : at + LONGEST_LINE] for at in range(0, len(line), LONGEST_LINE)] or [b""]
        found += [*pieces[:-1], pieces[-1] + b"\n"]
    found[-1] = found[-1][:-1]
    return found


def harmless(line: bytes) -> bytes:
    """A line for a terminal: text, tabs and colours as they are, every other control character as a
    visible escape.
    """
    text = line.decode("utf-8", "replace")
    end = "\n" if text.endswith("\n") else ""
    body = text.removesuffix("\n").removesuffix("\r")
    parts = _COLOR.split(body)
    shown = [
        part
        if _COLOR.fullmatch(part)
        else "".join(c if c == "\t" or c.isprintable() else _escaped(c) for c in part)
        for part in parts
    ]
    return ("".join(shown) + end).encode()


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
