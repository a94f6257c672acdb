"""What people and programs see: data on stdout, everything else on stderr.

Test names, messages and ids come from elsewhere: nothing in them reaches a terminal as a control
sequence or as markup.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from qgjet.errors import InvalidInput
from qgjet_cli.exits import CannotWrite

if TYPE_CHECKING:
    from typing_extensions import Buffer

WIDE = 220
"""Columns of a table that goes to a file or a CI's log, where nothing has to be cut."""
FOLDED = frozenset({"test", "reason"})
NUMBERS = frozenset(
    {
        "attempt",
        "tries",
        "time",
        "prio",
        "age",
        "queued",
        "running",
        "runs",
        "jobs",
        "passed",
        "flaky",
        "failed",
        "no verdict",
        "live",
        "took",
        "size",
    }
)
LEAST_FOLDED = 28
_COLORS = {
    "passed": "green",
    "done": "green",
    "flaky": "yellow",
    "skipped": "yellow",
    "failed": "red",
    "timed_out": "red",
    "infra_error": "magenta",
    "config_error": "magenta",
    "cancelled": "cyan",
    "running": "blue",
}


def printable(text: str) -> str:
    """`text` with everything escaped that is no visible character: control sequences, line ends,
    marks that turn the writing direction.
    """
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def one_line(text: str, limit: int = 2000) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


# -- stderr --------------------------------------------------------------------------------------------------------------


def note(text: str) -> None:
    _write(sys.stderr, one_line(text))


def warn(text: str) -> None:
    note(f"Warning: {text}")


def raw(lines: Iterable[str]) -> None:
    """Commands for the CI's runner, made harmless by the caller."""
    with _survive_closed(sys.stderr):
        print("".join(f"{line}\n" for line in lines), end="", file=sys.stderr, flush=True)


def fail(error: BaseException) -> None:
    """One line, with the flag's name where a value was at fault."""
    text = (
        f"--{error.field.replace('_', '-')}: {error.reason}"
        if isinstance(error, InvalidInput) and _is_flag(error.field)
        else str(error)
    )
    note(f"Error: {text or type(error).__name__}")


def _is_flag(field: str) -> bool:
    """Whether a field is written the way flags are; variables are in capitals."""
    return field.isidentifier() and field.islower()


# -- stdout --------------------------------------------------------------------------------------------------------------


def line(text: str) -> None:
    _write(sys.stdout, printable(text))


def listing(
    found: Sequence[Any],
    show: Callable[[], None],
    *,
    nouns: str,
    as_json: bool,
    more_than: int | None = None,
) -> None:
    """A list as one JSON document, or as `show` tells it, or that there are none of these `nouns`.
    `more_than`: the limit, if there is more.
    """
    if as_json:
        json(found)
    elif found:
        show()
    else:
        note(f"No {nouns}.")
    if more_than is not None:
        note(f"There are more than these {more_than}: raise --limit.")


def json(value: Any) -> None:
    """One document: indented for a person at a terminal, one line for a program."""
    data = msgspec.json.encode(value).replace(
        b"##[", rb"##\u005b"
    )  # the same to a reader, and nothing to `inert`
    _write(
        sys.stdout, (msgspec.json.format(data, indent=2) if sys.stdout.isatty() else data).decode()
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text under headings; verdicts and statuses get their colours on a terminal. Where it
    is narrow, `test` and `reason` are folded.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(
            column.upper(),
            overflow="fold",
            no_wrap=column not in FOLDED,
            justify="right" if column in NUMBERS else "left",
        )
    cells = [[one_line(cell) for cell in row] for row in rows]
    for row in cells:
        shown.add_row(*(Text(cell, style=_COLORS.get(cell.partition(" ")[0], "")) for cell in row))
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    console.width = max(
        console.width if console.is_terminal else WIDE, _least_width(columns, cells)
    )
    console.file = text = (
        io.StringIO()
    )  # what is known of stdout is kept, and only `_write` writes to it
    console.print(shown)
    _write(sys.stdout, text.getvalue().removesuffix("\n"))


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Below that a terminal has to wrap whole lines: a path of which every line holds three letters
    helps nobody.
    """
    from rich.cells import cell_len

    widths = [max(cell_len(text) for text in texts) for texts in zip(columns, *rows, strict=True)]
    return sum(
        min(width, LEAST_FOLDED) if column in FOLDED else width
        for column, width in zip(columns, widths, strict=True)
    ) + 2 * len(columns)


def _write(file: TextIO, text: str) -> None:
    with _survive_closed(file):
        print(inert(text), file=file, flush=True)


def inert(text: str) -> str:
    """In GitHub Actions `text` with a blank in what the runner would obey, on stdout as on stderr:
    `::` at the start of a line, `##[` anywhere.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return text
    return re.sub(r"^(\s*:)(?=:)", r"\1 ", text, flags=re.M).replace("##[", "## [")


@contextlib.contextmanager
def _survive_closed(file: TextIO) -> Iterator[None]:
    """A reader that has gone (`| head`) is no error. Raises CannotWrite when stdout fails
    otherwise; a failure of stderr has no place to be reported.
    """
    try:
        yield
    except BrokenPipeError:
        _discard(file)
    except OSError as error:
        if file is sys.stdout:
            raise lost(error) from error
        _discard(file)


def lost(error: OSError) -> CannotWrite:
    """The error to raise when stdout cannot be written. What is still in its buffer is dropped, so
    that the end of the process does not fail, too.
    """
    _discard(sys.stdout)
    return CannotWrite(f"stdout cannot be written: {error.strerror or error}")


def failure_of_stdout(error: OSError) -> CannotWrite | None:
    """The error to raise when it was stdout that could not be written; None when it was another
    file, or its reader has gone.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return None
    except OSError as left:
        return lost(left)
    return lost(error) if error.errno == errno.ENOSPC and _is_full(1) else None


def _is_full(descriptor: int) -> bool:
    """Whether nothing more can be written: it is the device /dev/full, or a file on a file system
    without space.
    """
    try:
        found = os.fstat(descriptor)
        if stat.S_ISCHR(found.st_mode):
            return found.st_rdev == Path("/dev/full").stat().st_rdev
        return stat.S_ISREG(found.st_mode) and os.fstatvfs(descriptor).f_bavail == 0
    except OSError:
        return False


class _Terminal(io.FileIO):
    """A terminal that may be closed while the command runs: that stops the command as SIGHUP does,
    which only the terminal's own session gets.
    """

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            signal.raise_signal(signal.SIGHUP)
            return memoryview(data).nbytes


def open_terminals() -> None:
    """Let stdout and stderr replace what they cannot encode, and notice a terminal that is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not hasattr(stream, "reconfigure"):
            continue
        if stream.isatty():
            raw = _Terminal(stream.fileno(), "w", closefd=False)
            stream = io.TextIOWrapper(
                io.BufferedWriter(raw), encoding=stream.encoding, line_buffering=True
            )
            setattr(sys, name, stream)
        stream.reconfigure(errors="replace")  # a terminal that has no arrow gets a question mark


def _discard(file: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def duration(seconds: float | None) -> str:
    """`0.4s`, `12.3s`, `4m05s`, `2h03m`, `3d04h`."""
    if seconds is None:
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, left = divmod(round(seconds), 60)
    hours, days = minutes // 60, minutes // 1440
    return (
        f"{minutes}m{left:02d}s"
        if not hours
        else f"{hours}h{minutes % 60:02d}m"
        if not days
        else f"{days}d{hours % 24:02d}h"
    )


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`"""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
