"""Who ran what when: attempts as bars over time, one group of rows per agent, as an SVG that is as
wide as its page. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape

from msgspec import Struct

from qgjet.domain.attempts import AttemptRecord
from qgjet.reporting.model import JobReport
from qgjet.reporting.text import duration, legal

ROW, BAR, LABEL, AXIS = 18, 14, 20, 22
LEAST_PERCENT = 0.4
"""A bar of an attempt that took no time can still be seen."""
LEGEND = "A thick edge: the app was installed before it."
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 6
_UNITS = 10
"""Of a path, to one percent of the width: about a pixel of a page."""


class Bar(Struct, frozen=True, kw_only=True):
    job: JobReport
    attempt: AttemptRecord
    ended_at: datetime
    link: str

    @property
    def shown(self) -> str:
        return str(self.attempt.verdict or self.attempt.ended_by or "running")


def render(
    jobs: Iterable[JobReport],
    links: Mapping[int, str],
    *,
    most_links: int | None = None,
    agents: Mapping[str, str] | None = None,
) -> str:
    """Empty without attempts. A running attempt ends with the last thing that is known. A thick
    edge says that the app was installed before an attempt.

    `links`: where the n-th job is shown. With more attempts than `most_links` the others are drawn as one path for each word, those that have passed first:
    what they are is said where `agents` leads to, an address for each name.
    """
    numbered = list(enumerate(jobs))
    times = [
        at
        for _, job in numbered
        for attempt in job.attempts
        for at in (attempt.started_at, attempt.ended_at)
        if at is not None
    ]
    if not times:
        return ""
    began, ended = min(times), max(times)
    span_s = max((ended - began).total_seconds(), 0.001)
    bars: list[Bar] = []
    for number, job in numbered:
        for attempt in job.attempts:
            bars.append(
                Bar(
                    job=job,
                    attempt=attempt,
                    ended_at=max(attempt.ended_at or ended, attempt.started_at),
                    link=links[number],
                )
            )
    linked = {id(bar) for bar in sorted(bars, key=lambda bar: bar.shown == "passed")[:most_links]}
    parts: list[str] = []
    packed: dict[str, _Path] = {}
    installed = _Path()
    y = AXIS
    for agent in sorted({bar.attempt.agent for bar in bars}):
        parts.append(_agent(agent, (agents or {}).get(agent), y))
        y += LABEL
        for row in _rows([bar for bar in bars if bar.attempt.agent == agent]):
            for bar in row:
                x, width = _place(bar, began, span_s)
                if id(bar) in linked:
                    parts.append(_bar(bar, x, width, y))
                else:
                    packed.setdefault(bar.shown, _Path()).level(x, width, y + BAR // 2)
                if not bar.attempt.warm:
                    installed.upright(x, y)
            y += ROW
        y += 6
    bars_of = "".join(
        f'<path class="bar {_kind(shown)}" d="{path}"/>' for shown, path in packed.items()
    )
    edges = f'<path class="installed" d="{installed}"/>' if installed.moves else ""
    drawn = _axis(began, span_s, y) + _stretched(bars_of, y) + "".join(parts) + _stretched(edges, y)
    return f'<svg class="timeline" role="group" aria-label="Timeline of attempts by agent" width="100%" height="{y}">{drawn}</svg>'


def _agent(agent: str, link: str | None, y: int) -> str:
    label = f'<text class="agent" x="0" y="{y + 14}">{_text(agent or "agent not known")}</text>'
    return label if link is None else f'<a href="{_text(link)}">{label}</a>'


class _Path:
    """Lines in the fewest characters: each one begins where the pen is."""

    def __init__(self) -> None:
        self.moves: list[str] = []
        self._at = (0, 0)

    def level(self, x: float, width: float, y: int) -> None:
        begin, length = round(x * _UNITS), max(round(width * _UNITS), 1)
        self._draw(begin, y, f"h{length}", (begin + length, y))

    def upright(self, x: float, y: int) -> None:
        """As high as a bar."""
        begin = round(x * _UNITS)
        self._draw(begin, y, f"v{BAR}", (begin, y + BAR))

    def _draw(self, x: int, y: int, line: str, end: tuple[int, int]) -> None:
        self.moves.append(f"m{x - self._at[0]} {y - self._at[1]}{line}")
        self._at = end

    def __str__(self) -> str:
        return "".join(self.moves)


def _stretched(drawn: str, height: int) -> str:
    """To the width of the page; its lines stay as thick as they are."""
    if not drawn:
        return ""
    box = f'width="100%" height="{height}" viewBox="0 0 {100 * _UNITS} {height}" preserveAspectRatio="none"'
    return f'<svg class="stretched" aria-hidden="true" {box}>{drawn}</svg>'


def _rows(bars: list[Bar]) -> list[list[Bar]]:
    """Bars that overlap are in different rows: an agent has several slots."""
    rows: list[list[Bar]] = []
    for one in sorted(bars, key=lambda one: (one.attempt.started_at, one.ended_at)):
        free = next((row for row in rows if row[-1].ended_at <= one.attempt.started_at), None)
        if free is None:
            rows.append([one])
        else:
            free.append(one)
    return rows


def _place(bar: Bar, began: datetime, span_s: float) -> tuple[float, float]:
    """Where it begins and how wide it is, of a hundred."""
    x = min((bar.attempt.started_at - began).total_seconds() / span_s * 100, 100 - LEAST_PERCENT)
    width = max(
        (bar.ended_at - bar.attempt.started_at).total_seconds() / span_s * 100, LEAST_PERCENT
    )
    return x, min(width, 100 - x)


def _bar(bar: Bar, x: float, width: float, y: int) -> str:
    attempt = bar.attempt
    took_s = (bar.ended_at - attempt.started_at).total_seconds()
    first = "" if attempt.warm else ", after an installation"
    tip = f"{bar.job.test} on {bar.job.target}, attempt {attempt.attempt}: {bar.shown}, {duration(took_s)}{first}"
    rect = f'<rect class="bar {_kind(bar.shown)}" x="{x:.3f}%" width="{width:.3f}%" y="{y}" height="{BAR}" rx="2"/>'
    return f'<a href="{_text(bar.link)}"><title>{_text(tip)}</title>{rect}</a>'


def _kind(shown: str) -> str:
    return _text(shown.replace(" ", "-"))


def _axis(began: datetime, span_s: float, height: int) -> str:
    step_s = next(
        (step for step in _STEPS_S if span_s / step <= _MOST_TICKS),
        max(int(span_s / _MOST_TICKS), 1),
    )
    ticks: list[str] = []
    at_s = 0
    while at_s <= span_s:
        x = at_s / span_s * 100
        anchor = "start" if at_s == 0 else "end" if x > 97 else "middle"
        label = began.strftime("%H:%M:%S") if at_s == 0 else f"+{_round(at_s)}"
        when = f' data-at="{began.isoformat()}"' if at_s == 0 else ""
        ticks.append(
            f'<line class="grid" x1="{x:.3f}%" x2="{x:.3f}%" y1="{AXIS - 6}" y2="{height}"/>'
        )
        ticks.append(
            f'<text class="tick" x="{x:.3f}%" y="{AXIS - 10}" text-anchor="{anchor}"{when}>{label}</text>'
        )
        at_s += step_s
    return "".join(ticks)


def _round(seconds: int) -> str:
    """A tick's time is a round one: `30 s`, `10 min`, `2 h`."""
    return (
        f"{seconds} s"
        if seconds < 60
        else f"{seconds / 60:g} min"
        if seconds < 3600
        else f"{seconds / 3600:.4g} h"
    )


def _text(text: str) -> str:
    return escape(legal(text))
