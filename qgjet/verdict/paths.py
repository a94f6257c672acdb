"""Paths in reports, made relative to the project directory. Pure."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

from msgspec import Struct

from qgjet.verdict.text import clean

_MAX_PATH_BYTES = 1024
_WINDOWS_ABSOLUTE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class ProjectTree(Struct, frozen=True, kw_only=True):
    """The project directory as the report spells it, and the file in it that the job asked for."""

    home: str
    asked: str = ""
    """Relative to `home`. A directory stands for all files in it; empty asks for nothing."""

    def inside(self, path: str) -> str:
        """Return `path` relative to `home`, or an empty string when it lies elsewhere."""
        whole = posixpath.normpath(posixpath.join(self.home, path))
        prefix = self.home.rstrip("/") + "/"
        return whole.removeprefix(prefix) if whole.startswith(prefix) else ""

    def relative(self, path: str) -> str:
        """Return `path` relative to `home`, fit to be stored and shown."""
        return re.sub(r"[\n\t]", " ", clean(self.inside(path), _MAX_PATH_BYTES))

    def asks_for(self, path: str) -> bool:
        inside = self.inside(path)
        return bool(self.asked) and (inside == self.asked or inside.startswith(self.asked + "/"))


def as_posix(path: str) -> str:
    """Return a path of any tool with slashes, or an empty string for an absolute path of Windows,
    which no project here can have.

    `file:` URLs become paths.
    """
    if path.startswith("file:"):
        path = unquote(re.sub(r"^file:(?://[^/]*)?", "", path))
        path = path[1:] if re.match(r"/[A-Za-z]:", path) else path
    if _WINDOWS_ABSOLUTE.match(path):
        return ""
    return path.replace("\\", "/") if "\\" in path and "/" not in path else path
