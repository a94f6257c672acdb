"""Small charts as SVG, drawn here: a page needs no script for them. Pure. What they return is markup; all text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape

from markupsafe import Markup

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
LEGEND = (("failed", "bad"), ("no verdict", "broken"), ("flaky", "flaky"), ("passed", "good"), ("skipped, cancelled", "none"))


def hours(counts: Mapping[datetime, Mapping[str, int]], first: datetime, number: int) -> Markup:
    """A column per hour from `first` on, stacked by verdict."""
    most = max((sum(verdicts.values()) for verdicts in counts.values()), default=0)
    step, parts = WIDTH / number, []
    for place in range(number):
        hour = first + timedelta(hours=place)
        verdicts = counts.get(hour, {})
        parts += _column(verdicts, place * step + 1, step - 2, most, f"{hour:%H}:00 UTC")
        if hour.hour % 6 == 0:
            parts.append(f'<text x="{place * step + 1:.1f}" y="{HEIGHT - 3}">{hour:%H}:00</text>')
    foot = HEIGHT - FOOT
    scale = f'<text x="0" y="{HEAD - 3}">{most} jobs</text>' if most else f'<text x="0" y="{foot - 8}">No job has ended in these {number} hours.</text>'
    said = f"Jobs that ended in each of the last {number} hours: {sum(sum(verdicts.values()) for verdicts in counts.values())} in all"
    return _svg("".join([scale, f'<line class="axis" x1="0" x2="{WIDTH}" y1="{foot}" y2="{foot}"/>', *parts]), said)


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
    return [f"<g><title>{escape(f'{when}: {told}')}</title>", *parts, "</g>"]


def share(verdicts: Mapping[str, int], live: Mapping[str, int]) -> Markup:
    """One bar, divided by verdict, with what runs and waits at its end."""
    pieces = [(text.tone(word), verdicts.get(word, 0)) for word in text.VERDICTS] + [("live", live.get("running", 0)), ("calm", live.get("queued", 0))]
    total = sum(count for _, count in pieces)
    x, parts = 0.0, []
    for tone, count in pieces:
        if count:
            width = count / total * 100
            parts.append(f'<rect class="{tone}" x="{x:.3f}%" y="0" width="{width:.3f}%" height="10"/>')
            x += width
    told = ", ".join(f"{count} {text.words(word)}" for word, count in [*verdicts.items(), *live.items()] if count)
    return Markup(f'<svg class="share" role="img" aria-label="{escape(told or "no jobs")}" height="10">{"".join(parts)}</svg>')


def line(values: Sequence[float | None], said: str, *, least_most: float = 0.0) -> Markup:
    """A line over equal steps, from zero up; gaps where there is no value."""
    known = [value for value in values if value is not None]
    most = max([*known, least_most], default=0.0) or 1.0
    step = WIDTH / max(len(values) - 1, 1)
    room, foot = HEIGHT - FOOT - HEAD, HEIGHT - FOOT
    points = [(place * step, foot - value / most * room) for place, value in enumerate(values) if value is not None]
    drawn = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    return _svg(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{foot}" y2="{foot}"/><path class="line" d="{drawn}"/>{dots}', said)


def _svg(content: str, said: str) -> Markup:
    return Markup(f'<svg class="chart" role="img" aria-label="{escape(said)}" viewBox="0 0 {WIDTH} {HEIGHT}">{content}</svg>')
