"""Texts from reports, made fit to be stored and shown. Pure."""

from __future__ import annotations

import math
import re

MAX_MESSAGE_BYTES = 2048
MAX_RAW_CHARS = 16 * 1024
"""Characters of one error text that are read before it is cleaned. Bounds the cost of the patterns.
"""
MAX_TITLE_BYTES = 512
MAX_LINE = 2**31 - 1
_MAX_SECONDS = 1e9

_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Bidirectional overrides are among them: they make a terminal show a text that is not there."""


def clean(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """Remove ANSI codes, control characters and lone surrogates, and cut to `limit` bytes of UTF-8."""
    plain = text[: MAX_RAW_CHARS + 4 * limit].replace("\r\n", "\n")
    plain = _ANSI.sub("", plain) if "\x1b" in plain or "\x9b" in plain else plain
    data = _CONTROL.sub("", plain).strip().encode("utf-8", "replace")
    return (
        data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"
    )


def clean_line(text: str, limit: int = MAX_TITLE_BYTES) -> str:
    """Clean a text and join its lines with single spaces."""
    return " ".join(clean(text, limit).split())


def bounded_seconds(value: float) -> float:
    """A duration that JSON can hold: finite, not negative, rounded to milliseconds."""
    return 0.0 if math.isnan(value) else round(min(max(value, 0.0), _MAX_SECONDS), 3)


def bounded_line(value: int) -> int:
    """A line number that SQLite can hold; 0 for a negative one."""
    return min(max(value, 0), MAX_LINE)
