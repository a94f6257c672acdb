"""How values read on a page. Pure; whatever comes out is text, to be escaped by the template."""

from __future__ import annotations

from datetime import UTC, datetime

from qgjet.reporting.text import duration as _duration
from qgjet.reporting.text import percent as percent

TONES = {
    "passed": "good",
    "done": "good",
    "flaky": "flaky",
    "failed": "bad",
    "timed_out": "bad",
    "infra_error": "broken",
    "config_error": "broken",
    "attempt_lost": "broken",
    "released": "broken",
    "running": "live",
    "queued": "calm",
    "cancelled": "none",
    "skipped": "none",
}
"""Verdict, status or end of an attempt -> class of its colours."""
VERDICTS = (
    "failed",
    "timed_out",
    "infra_error",
    "config_error",
    "flaky",
    "passed",
    "skipped",
    "cancelled",
)
"""Worst first, as charts stack them from the top."""


def tone(word: object) -> str:
    return TONES.get(str(word), "none")


def words(code: object) -> str:
    """`timed_out` as people write it."""
    return str(code or "").replace("_", " ")


def duration(seconds: float | None) -> str:
    return "" if seconds is None else _duration(max(seconds, 0.0))


def ago(at: datetime | None, now: datetime) -> str:
    """`3 min` since then; empty for never."""
    if at is None:
        return ""
    seconds = max((now - at).total_seconds(), 0.0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def clock(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%H:%M:%S UTC")


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size(count: int) -> str:
    """`900 B`, `1.5 kB`, `12 MB`, `1200 GB`."""
    amount, units = float(count), ["B", "kB", "MB", "GB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return (
        f"{amount:.0f} {units[0]}"
        if units[0] == "B" or amount >= 9.95
        else f"{amount:.1f} {units[0]}"
    )


def shortened(said: str, most: int) -> str:
    """The beginning, which says what went wrong."""
    return said if len(said) <= most else f"{said[: most - 1]}…"
