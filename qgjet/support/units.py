"""Durations and sizes as people write them."""

from __future__ import annotations

import re

from qgjet.errors import InvalidSettings

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def duration(text: str, where: str = "duration") -> float:
    """Seconds from `90`, `1.5s`, `10m`, `2h`, `1d` or `250ms`. Raises InvalidSettings."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d)?\s*", text)
    if match is None:
        raise InvalidSettings(where, f"{text!r} is not a duration; write 90, 30s, 10m or 1h")
    return float(match[1]) * _UNITS[match[2] or "s"]


def size(text: str, where: str = "size") -> int:
    """Bytes from `1000000`, `100MB` (10^8), `1.5 GB` or `64MiB` (2^26). Raises InvalidSettings."""
    match = re.fullmatch(
        r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmg]?i?b)?\s*", text, re.IGNORECASE
    )
    unit = _SIZES.get((match[2] or "b").lower()) if match else None
    if match is None or unit is None:
        raise InvalidSettings(where, f"{text!r} is not a size; write 1000000, 100MB or 64MiB")
    return round(float(match[1]) * unit)
