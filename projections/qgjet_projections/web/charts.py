"""Small charts as SVG, drawn here: a page needs no script for them. Pure. What they return is markup; all text in it is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import groupby

from markupsafe import Markup

from qgjet.reporting.text import legal
from qgjet_projections.web import text

WIDTH, HEIGHT, FOOT, HEAD = 640, 150, 16, 12
STACK = (
    ("bad", ("failed", "timed_out")),
    ("broken", ("infra_error", "config_error")),
    ("flaky", ("flaky",)),
    ("good", ("passed",)),
    ("none", ("skipped", "cancelled")),
)
"""Tone and its verdicts, from the bottom of a column up."""
_INSET = 3
"""Of a line, so that its dots are not cut off."""
LEGEND = (("failed", "bad"), ("no verdict", "broken"), ("flaky", "flaky"), ("passed", "good"), ("skipped, cancelled", "none"))


def hours(counts: Mapping[datetime, Mapping[str, int]], first: datetime, number: int) -> Markup:
    """A column per hour from `first` on, stacked by verdict."""
    shown = [first + timedelta(hours=place) for place in range(number)]
    totals = [sum(counts.get(hour, {}).values()) for hour in shown]
    most, step, parts = max(totals, default=0), WIDTH / number, []
    for place, hour in enumerate(shown):
        verdicts = counts.get(hour, {})
        parts += _column(verdicts, place * step + 1, step - 2, most, f"{hour:%H}:00 UTC")
        if hour.hour % 6 == 0:
            parts.append(f'<text x="{place * step + 1:.1f}" y="{HEIGHT - 3}">{hour:%H}:00</text>')
    foot = HEIGHT - FOOT
    scale = f'<text x="0" y="{HEAD - 3}">{most} jobs</text>' if most else f'<text x="0" y="{foot - 8}">No job has ended in these {number} hours.</text>'
    said = f"Jobs that ended in each of the last {number} hours: {sum(totals)} in all"
    return _svg("".join([scale, f'<line class="axis" x1="0" x2="{WIDTH}" y1="{foot}" y2="{foot}"/>', *parts]), said)


def small_hours(counts: Mapping[datetime, Mapping[str, int]], first: datetime, number: int, name: str) -> Markup:
    """The same without words, for a row of a table; as high as its own busiest hour."""
    shown = [counts.get(first + timedelta(hours=place), {}) for place in range(number)]
    most, step = max((sum(verdicts.values()) for verdicts in shown), default=0), WIDTH / number
    parts = [piece for place, verdicts in enumerate(shown) for piece in _column(verdicts, place * step + 1, step - 2, most, "")[1:-1]]
    said = f"Jobs by the hour of {name}: at most {most}"
    view = f"0 {HEAD} {WIDTH} {HEIGHT - FOOT - HEAD}"
    return Markup(f'<svg class="small" role="img" aria-label="{_escaped(said)}" viewBox="{view}" preserveAspectRatio="none">{"".join(parts)}</svg>')


def _column(verdicts: Mapping[str, int], x: float, width: float, most: int, when: str) -> list[str]:
    total = sum(verdicts.values())
    if not total:
        return []
    room, y, parts = HEIGHT - FOOT - HEAD, float(HEIGHT - FOOT), []
    for tone, words in STACK:
        height = sum(verdicts.get(word, 0) for word in words) / most * room
        if height:
            y -= height
            parts.append(f'<rect class="{tone}" x="{x:.1f}" y="{y:.2f}" width="{width:.1f}" height="{max(height, 0.8):.2f}"/>')
    told = ", ".join(f"{count} {text.words(word)}" for word, count in sorted(verdicts.items(), key=lambda one: -one[1]))
    return [f"<g><title>{_escaped(f'{when}: {told}')}</title>", *parts, "</g>"]


def share(verdicts: Mapping[str, int], live: Mapping[str, int]) -> Markup:
    """One bar, divided by verdict, with what runs and waits at its end."""
    pieces = [(word, verdicts.get(word, 0)) for word in text.VERDICTS] + [(word, live.get(word, 0)) for word in ("running", "queued")]
    total, done, parts = sum(count for _, count in pieces), 0, []
    for word, count in pieces:
        if count:
            x, width = done / total * 100, count / total * 100
            parts.append(f'<rect class="{text.tone(word)}" x="{_short(x)}%" width="{_short(width)}%"/>')
            done += count
    told = ", ".join(f"{count} {text.words(word)}" for word, count in pieces if count)
    return Markup(f'<svg class="share" role="img" aria-label="{_escaped(told or "no jobs")}" height="10">{"".join(parts)}</svg>')


def line(values: Sequence[float | None], said: str, *, least_most: float = 0.0) -> Markup:
    """A line over equal steps, from zero up; gaps where there is no value, nor one that can be drawn."""
    known = [max(value, 0.0) if value is not None and math.isfinite(value) else None for value in values]
    most = max([value for value in known if value is not None] + [least_most]) or 1.0
    step, room, foot = (WIDTH - 2 * _INSET) / max(len(values) - 1, 1), HEIGHT - FOOT - HEAD, HEIGHT - FOOT
    points = [None if value is None else f"{_INSET + place * step:.1f} {foot - value / most * room:.1f}" for place, value in enumerate(known)]
    pieces = ["M" + " L".join(filter(None, piece)) for drawn, piece in groupby(points, key=lambda point: point is not None) if drawn]
    dots = "".join('<circle class="dot" cx="{}" cy="{}" r="2.5"/>'.format(*point.split()) for point in points if point)
    return _svg(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{foot}" y2="{foot}"/><path class="line" d="{" ".join(pieces)}"/>{dots}', said)


def _svg(content: str, said: str) -> Markup:
    return Markup(f'<svg class="chart" role="img" aria-label="{_escaped(said)}" viewBox="0 0 {WIDTH} {HEIGHT}">{content}</svg>')


def _short(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


def _escaped(said: str) -> str:
    return escape(legal(said))
