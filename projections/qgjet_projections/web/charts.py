"""Small charts as SVG, drawn here: a page needs no script for them. Pure. What they return is
markup; all text in it is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import groupby

from markupsafe import Markup

from qgjet.reporting.text import legal
from qgjet_projections.readmodel.views import rates_of
from qgjet_projections.web import text

WIDTH, HEIGHT, FOOT, HEAD, LEFT = 640, 150, 24, 12, 88
"""Of a drawing; what is written below it, above it and to its left is inside."""
FOOT_Y, ROOM = HEIGHT - FOOT, HEIGHT - FOOT - HEAD
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
LEGEND = (
    ("failed", "bad"),
    ("no verdict", "broken"),
    ("flaky", "flaky"),
    ("passed", "good"),
    ("skipped, cancelled", "none"),
)


def hours(counts: Mapping[datetime, Mapping[str, int]], first: datetime, number: int) -> Markup:
    """A column per hour from `first` on, stacked by verdict."""
    shown = [first + timedelta(hours=place) for place in range(number)]
    totals = [sum(counts.get(hour, {}).values()) for hour in shown]
    most, step, parts = max(totals, default=0), (WIDTH - LEFT) / number, []
    for place, hour in enumerate(shown):
        parts += _column(
            counts.get(hour, {}), LEFT + place * step + 1, step - 2, most, _moment(hour, "hour")
        )
    scale = (
        _scale([("0", 0.0), (f"{most} job{'s' if most > 1 else ''}", 1.0)])
        if most
        else _text(LEFT, FOOT_Y - 8, f"No job has ended in these {number} hours.")
    )
    middle = number // 2
    ends = (
        _when(LEFT, shown[0], "hour", "start")
        + _when(LEFT + middle * step, shown[middle], "hour", "middle")
        + _when(WIDTH, shown[-1], "hour", "end")
    )
    said = f"Jobs that ended in each of the last {number} hours: {sum(totals)} in all, at most {most} in an hour"
    return _svg("".join([scale, ends, *parts]), said)


def pass_rates(
    counts: Mapping[datetime, Mapping[str, int]], first: datetime, number: int
) -> Markup:
    """The share that passed of what said something about the app, hour by hour."""
    shown = [first + timedelta(hours=place) for place in range(number)]
    rates = [rates_of(counts.get(hour, {})).passed for hour in shown]
    return line(
        list(zip(shown, rates, strict=True)),
        f"Share that passed in each of the last {number} hours",
        say=text.percent,
        show="hour",
        most=1.0,
    )


def small_hours(
    counts: Mapping[datetime, Mapping[str, int]], first: datetime, number: int, name: str
) -> Markup:
    """The same without words, for a row of a table; as high as its own busiest hour."""
    shown = [counts.get(first + timedelta(hours=place), {}) for place in range(number)]
    most, step = max((sum(verdicts.values()) for verdicts in shown), default=0), WIDTH / number
    parts = [
        piece
        for place, verdicts in enumerate(shown)
        for piece in _column(verdicts, place * step + 1, step - 2, most, "")[1:-1]
    ]
    said = f"Jobs by the hour of {name}: at most {most}"
    view = f"0 {HEAD} {WIDTH} {HEIGHT - FOOT - HEAD}"
    return Markup(
        f'<svg class="small" role="img" aria-label="{_escaped(said)}" viewBox="{view}" preserveAspectRatio="none">{"".join(parts)}</svg>'
    )


def _column(verdicts: Mapping[str, int], x: float, width: float, most: int, when: str) -> list[str]:
    total = sum(verdicts.values())
    if not total:
        return []
    room, y, parts = HEIGHT - FOOT - HEAD, float(HEIGHT - FOOT), []
    for tone, words in STACK:
        height = sum(verdicts.get(word, 0) for word in words) / most * room
        if height:
            y -= height
            parts.append(
                f'<rect class="{tone}" x="{x:.1f}" y="{y:.2f}" width="{width:.1f}" height="{max(height, 0.8):.2f}"/>'
            )
    told = ", ".join(
        f"{count} {text.words(word)}"
        for word, count in sorted(verdicts.items(), key=lambda one: -one[1])
    )
    return [f"<g><title>{_escaped(f'{when}: {told}')}</title>", *parts, "</g>"]


def share(verdicts: Mapping[str, int], live: Mapping[str, int]) -> Markup:
    """One bar, divided by verdict, with what runs and waits at its end."""
    pieces = [(word, verdicts.get(word, 0)) for word in text.VERDICTS] + [
        (word, live.get(word, 0)) for word in ("running", "queued")
    ]
    total, done, parts = sum(count for _, count in pieces), 0, []
    for word, count in pieces:
        if count:
            x, width = done / total * 100, count / total * 100
            parts.append(
                f'<rect class="{text.tone(word)}" x="{_short(x)}%" width="{_short(width)}%"/>'
            )
            done += count
    told = ", ".join(f"{count} {text.words(word)}" for word, count in pieces if count)
    return Markup(
        f'<svg class="share" role="img" aria-label="{_escaped(told or "no jobs")}" height="10">{"".join(parts)}</svg>'
    )


def line(
    points: Sequence[tuple[datetime, float | None]],
    said: str,
    *,
    say: Callable[[float], str],
    show: str,
    most: float = 0.0,
) -> Markup:
    """A line over equal steps, from zero to `most` or what is more; gaps where there is no value,
    nor one that can be drawn.

    `say`: a value in words, on the scale and at each point on hover. `show`: what a step is, `day` or `hour`.
    """
    known = [
        None if value is None or not math.isfinite(value) else max(value, 0.0)
        for _, value in points
    ]
    values = [value for value in known if value is not None]
    top = max([*values, most]) or 1.0
    step = (WIDTH - LEFT - 2 * _INSET) / max(len(points) - 1, 1)
    places = [
        None if value is None else (LEFT + _INSET + place * step, FOOT_Y - value / top * ROOM)
        for place, value in enumerate(known)
    ]
    pieces = [
        "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in filter(None, piece))
        for drawn, piece in groupby(places, key=lambda one: one is not None)
        if drawn
    ]
    dots = [
        f'<circle class="dot" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="2.5"><title>{_escaped(f"{_moment(when, show)}: {say(value)}")}</title></circle>'
        for at, (when, _), value in zip(places, points, known, strict=True)
        if at is not None and value is not None
    ]
    parts = (
        [_scale([(say(top * part), part) for part in (0.0, 0.5, 1.0)])]
        if values
        else [_text(LEFT, FOOT_Y - 8, "Nothing is known of these times.")]
    )
    parts += (
        [_when(LEFT, points[0][0], show, "start"), _when(WIDTH, points[-1][0], show, "end")]
        if len(points) > 1
        else []
    )
    told = (
        f": {say(values[-1])} at last, from {say(min(values))} to {say(max(values))}"
        if values
        else ""
    )
    return _svg(
        "".join([*parts, f'<path class="line" d="{" ".join(pieces)}"/>', *dots]), said + told
    )


def _scale(labels: Sequence[tuple[str, float]]) -> str:
    """A line for each label, at its part of the height."""
    heights = [FOOT_Y - part * ROOM for _, part in labels]
    lines = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{y:g}" y2="{y:g}"/>' for y in heights
    ]
    return "".join(
        lines
        + [
            _text(LEFT - 5, y + 4, label, "end")
            for y, (label, _) in zip(heights, labels, strict=True)
        ]
    )


def _when(x: float, at: datetime, show: str, anchor: str) -> str:
    """Under the axis. A script puts hours into the reader's zone; days are those of UTC."""
    return _text(
        x,
        HEIGHT - 6,
        _moment(at, show)[-9:] if show == "hour" else _moment(at, show),
        anchor,
        f' data-at="{text.iso(at)}"' if show == "hour" else "",
    )


def _moment(at: datetime, show: str) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if show == "hour" else f"{at:%Y-%m-%d}"


def _text(x: float, y: float, said: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:g}" text-anchor="{anchor}"{more}>{_escaped(said)}</text>'


def _svg(content: str, said: str) -> Markup:
    return Markup(
        f'<svg class="chart" role="img" aria-label="{_escaped(said)}" viewBox="0 0 {WIDTH} {HEIGHT}">{content}</svg>'
    )


def _short(number: float) -> str:
    return f"{number:.3f}".rstrip("0").rstrip(".")


def _escaped(said: str) -> str:
    return escape(legal(said))
