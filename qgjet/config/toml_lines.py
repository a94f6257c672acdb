"""Where a key stands in a TOML text, for errors that name a line. Pure."""

from __future__ import annotations

import tomllib
from typing import Any


def line_of(text: str, key: str) -> int:
    """Number of the line where the dotted `key` begins, or the nearest table above it; 0 when
    neither is there.

    The beginnings of the text are parsed one after the other: the key stands after the last one
    that lacks it, whatever syntax writes it.
    """
    lines = text.split("\n")
    while key:
        begin = 0
        for number in range(1, len(lines) + 1):
            try:
                data = tomllib.loads("\n".join(lines[:number]))
            except (ValueError, RecursionError):
                continue  # in the middle of a value
            if _has(data, key):
                return begin + 1
            begin = number
        key = key.rpartition(".")[0]
    return 0


def _has(data: Any, key: str) -> bool:
    """Whether a dotted key is there; names may hold dots themselves."""
    if not isinstance(data, dict):
        return False
    return key in data or any(
        key.startswith(f"{name}.") and _has(value, key.removeprefix(f"{name}."))
        for name, value in data.items()
    )
