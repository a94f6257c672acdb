"""The files that `run` and `wait` leave behind: JUnit XML, CTRF, JSON, HTML."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from qgjet.config.settings import Settings
from qgjet.errors import InvalidInput
from qgjet.reporting import ctrf, document, html, junit
from qgjet.reporting.model import SuiteReport
from qgjet.support.addresses import without_password
from qgjet_cli.exits import Exit
from qgjet_cli.output import console


class Outputs(Struct, frozen=True, kw_only=True):
    """Which reports are asked for, and where to; named as the flags are."""

    junit: Path | None = None
    ctrf: Path | None = None
    report_json: Path | None = None
    html: Path | None = None

    @property
    def asked(self) -> list[tuple[str, Path]]:
        """(flag, file) of those that are."""
        found = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(name, path) for name, path in found if path is not None]


def prepare(outputs: Outputs) -> Outputs:
    """Make the directories, so that a report that can never be written is known before anything
    runs. Raises InvalidInput.
    """
    seen: dict[Path, str] = {}
    for flag, path in outputs.asked:
        _prepare(flag, path)
        other = seen.setdefault(path.resolve(), flag)
        if other != flag:
            raise InvalidInput(flag, f"{path} is the file of --{other.replace('_', '-')} already")
    return outputs


def _prepare(flag: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InvalidInput(flag, f"{path.parent} cannot be made: {_why(error)}") from error
    if path.is_dir():
        raise InvalidInput(flag, f"{path} is a directory; give a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidInput(flag, f"{path} cannot be written: no permission")


def write(report: SuiteReport, outputs: Outputs, code: Exit, settings: Settings) -> Exit:
    """Write what is asked for. Gives `code`; USAGE instead of PASSED when a file could not be
    written, which never hides a worse code.

    A reader never sees half of a file, and a file that is there is replaced.
    """
    for flag, path in outputs.asked:
        try:
            _replace(path, _rendered(flag, report, code, settings))
        except OSError as error:
            console.note(
                f"Error: --{flag.replace('_', '-')}: {path} cannot be written: {_why(error)}"
            )
            code = code or Exit.USAGE
    return code


def _rendered(flag: str, report: SuiteReport, code: Exit, settings: Settings) -> bytes:
    base_url = api_base(settings)
    match flag:
        case "junit":
            return junit.render(report)
        case "ctrf":
            return ctrf.render(report, base_url=base_url)
        case "html":
            return html.render(report, base_url=base_url or None).encode()
        case _:
            return document.render(report, exit_code=int(code))


def api_base(settings: Settings) -> str:
    """Where artifacts can be had, for links; never with a password. Empty when no API is known."""
    url = without_password(settings.api_url).rstrip("/")
    return url if "://" in url or not url else f"http://{url}"


def _replace(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():  # a pipe, /dev/stdout: there is nothing to replace
        path.write_bytes(data)
        return
    with _beside(path.resolve()) as beside:
        beside.write_bytes(data)
        beside.replace(path.resolve())


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name in the same directory that nobody else uses; removed if it is still there at the end."""
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _why(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
