"""Entry points: what other distributions bring along."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from qgjet.errors import QgjetError


class CannotLoad(QgjetError):
    """A plugin that is installed cannot be imported."""


def names(group: str) -> list[str]:
    return sorted(set(entry_points(group=group).names))


def load(group: str, name: str) -> Any:
    """What the entry point names; None when nobody brings it. Raises CannotLoad for one that cannot be imported.

    Of several distributions that bring the same name, one that is found first wins, as Python's own tools have it.
    """
    found = next(iter(entry_points(group=group, name=name)), None)
    if found is None:
        return None
    try:
        return found.load()
    except Exception as error:
        raise CannotLoad(f"{name} ({found.value}) cannot be imported: {type(error).__name__}: {error}") from error
