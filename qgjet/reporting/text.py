"""Texts of others, made fit for a report: names and messages come from tests, apps and devices.
Pure.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import msgspec

_ILLEGAL = re.compile(
    "[^\t\n\r\u0020-\u007e\u0085\u00a0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]"
)
"""What XML 1.0 forbids or discourages, and HTML calls a parse error; lone surrogates cannot be
written in UTF-8 at all.
"""
_SURROGATE = re.compile("[\ud800-\udfff]")


def legal(text: str) -> str:
    """`text` without characters that XML and HTML cannot hold."""
    return _ILLEGAL.sub("", text)


def first_line(text: str, limit: int = 300) -> str:
    """The first line that says something."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def located(file: str, line: int) -> str:
    """`tests/a.spec.js:12`; empty when the file is not known."""
    return f"{file}:{line}" if file and line else file


def bounded(seconds: float | None) -> float:
    """A time that can have been: not negative, at most thirty years."""
    return min(seconds, 1e9) if seconds and seconds > 0 else 0.0


def duration(seconds: float) -> str:
    """`340 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if seconds < 0.9995:
        return f"{max(seconds, 0.0) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    return (
        f"{minutes} min {left:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def artifact_url(base: str, job_id: str, attempt: int, name: str) -> str:
    """Where the API under `base` has a file of an attempt."""
    return f"{base.rstrip('/')}/jobs/{quote(job_id, safe='', errors='replace')}/artifacts/{attempt}/{quote(name, errors='replace')}"


def json_bytes(value: Any) -> bytes:
    """Indented JSON in UTF-8. Halves of surrogate pairs become U+FFFD."""
    try:
        data = msgspec.json.encode(value)
    except UnicodeEncodeError:
        data = msgspec.json.encode(_mended(msgspec.to_builtins(value)))
    return msgspec.json.format(data, indent=2) + b"\n"


def _mended(value: Any) -> Any:
    match value:
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case dict():
            return {_mended(key): _mended(one) for key, one in value.items()}
        case list() | tuple():
            return [_mended(one) for one in value]
        case _:
            return value


def percent(share: float | None) -> str:
    """Never 100 % while something is missing, nor 0 % while there is something."""
    if share is None:
        return "-"
    rounded = round(share * 100)
    return f"{min(max(rounded, 1 if share > 0 else 0), 99 if share < 1 else 100)} %"
