"""What other distributions bring along: plugins by entry points, and the extras of this one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from qgjet.errors import NotInstalled, QgjetError


class CannotLoad(QgjetError):
    """A plugin that is installed cannot be imported."""


def names(group: str) -> list[str]:
    return sorted(set(entry_points(group=group).names))


def load(group: str, name: str) -> Any:
    """What the entry point names; None when nobody brings it. Raises CannotLoad for one that cannot
    be imported.

    Of several distributions that bring the same name, one that is found first wins, as Python's own
    tools have it.
    """
    found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        return None
    try:
        return found.load()
    except Exception as error:
        raise CannotLoad(
            f"{name} ({found.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """For imports of what an extra installs. Raises NotInstalled, with what it is needed for, when
    it is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].startswith("qgjet"):
            raise
        raise NotInstalled(
            f"{what} needs more than is installed here ({error.name} is missing): pip install 'qgjet[{name}]'"
        ) from error
