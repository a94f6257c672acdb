"""Who ran what when: attempts as bars over time, one group of rows per agent, as an SVG that is as wide as its page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape

from msgspec import Struct

from qgjet.attempts import AttemptRecord
from qgjet.reporting.text import duration, legal
from qgjet.suite_report import JobReport

ROW, BAR, LABEL, AXIS = 18, 14, 20, 22
LEAST_PERCENT = 0.4
"""A bar of an attempt that took no time can still be seen."""
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_MOST_TICKS = 6


class Bar(Struct, frozen=True, kw_only=True):
    job: JobReport
    attempt: AttemptRecord
    ended_at: datetime

    @property
    def shown(self) -> str:
        return str(self.attempt.verdict or self.attempt.ended_by or "running")


def render(jobs: Iterable[JobReport], anchors: Mapping[int, str]) -> str:
    """Empty without attempts. `anchors`: where on the page the n-th job is. A running attempt ends with the last thing that is known."""
    numbered = list(enumerate(jobs))
    times = [at for _, job in numbered for attempt in job.attempts for at in (attempt.started_at, attempt.ended_at) if at is not None]
    if not times:
        return ""
    began, ended = min(times), max(times)
    span_s = max((ended - began).total_seconds(), 0.001)
    agents: dict[str, list[tuple[int, Bar]]] = {}
    for number, job in numbered:
        for attempt in job.attempts:
            bar = Bar(job=job, attempt=attempt, ended_at=max(attempt.ended_at or ended, attempt.started_at))
            agents.setdefault(attempt.agent, []).append((number, bar))
    parts: list[str] = []
    y = AXIS
    for agent in sorted(agents):
        parts.append(f'<text class="agent" x="0" y="{y + 14}">{_text(agent or "agent not known")}</text>')
        y += LABEL
        rows = _rows(agents[agent])
        for row in rows:
            parts += [_bar(bar, anchors[number], began, span_s, y) for number, bar in row]
            y += ROW
        y += 6
    drawn = _axis(began, span_s, y) + "".join(parts)
    return f'<svg class="timeline" role="group" aria-label="Timeline of attempts by agent" width="100%" height="{y}">{drawn}</svg>'


def _rows(bars: list[tuple[int, Bar]]) -> list[list[tuple[int, Bar]]]:
    """Bars that overlap are in different rows: an agent has several slots."""
    rows: list[list[tuple[int, Bar]]] = []
    for one in sorted(bars, key=lambda one: (one[1].attempt.started_at, one[1].ended_at)):
        free = next((row for row in rows if row[-1][1].ended_at <= one[1].attempt.started_at), None)
        if free is None:
            rows.append([one])
        else:
            free.append(one)
    return rows


def _bar(bar: Bar, anchor: str, began: datetime, span_s: float, y: int) -> str:
    attempt = bar.attempt
    x = (attempt.started_at - began).total_seconds() / span_s * 100
    width = max((bar.ended_at - attempt.started_at).total_seconds() / span_s * 100, LEAST_PERCENT)
    x = min(x, 100 - LEAST_PERCENT)
    took_s = (bar.ended_at - attempt.started_at).total_seconds()
    tip = f"{bar.job.test} on {bar.job.target}, attempt {attempt.attempt}: {bar.shown}, {duration(took_s)}"
    kind = _text(bar.shown.replace(" ", "-"))
    rect = f'<rect class="bar {kind}" x="{x:.3f}%" width="{min(width, 100 - x):.3f}%" y="{y}" height="{BAR}" rx="2"/>'
    return f'<a href="#{anchor}"><title>{_text(tip)}</title>{rect}</a>'


def _axis(began: datetime, span_s: float, height: int) -> str:
    step_s = next((step for step in _STEPS_S if span_s / step <= _MOST_TICKS), max(int(span_s / _MOST_TICKS), 1))
    ticks: list[str] = []
    at_s = 0
    while at_s <= span_s:
        x = at_s / span_s * 100
        anchor = "start" if at_s == 0 else "end" if x > 97 else "middle"
        label = began.strftime("%H:%M:%S") if at_s == 0 else f"+{_round(at_s)}"
        when = f' data-at="{began.isoformat()}"' if at_s == 0 else ""
        ticks.append(f'<line class="grid" x1="{x:.3f}%" x2="{x:.3f}%" y1="{AXIS - 6}" y2="{height}"/>')
        ticks.append(f'<text class="tick" x="{x:.3f}%" y="{AXIS - 10}" text-anchor="{anchor}"{when}>{label}</text>')
        at_s += step_s
    return "".join(ticks)


def _round(seconds: int) -> str:
    """A tick's time is a round one: `30 s`, `10 min`, `2 h`."""
    return f"{seconds} s" if seconds < 60 else f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:.4g} h"


def _text(text: str) -> str:
    return escape(legal(text))
