"""Charts are markup made of what strangers say: whatever that is, it is well-formed, inside its
box, and text.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from qgjet_projections.web import charts, text
from strategies import hostile_text

FIRST = datetime(2026, 1, 2, 3, tzinfo=UTC)
counts = st.integers(0, 5) | st.integers(0, 10**9) | st.sampled_from([10**30, 2**63])
verdicts = st.dictionaries(st.sampled_from(text.VERDICTS), counts)
numbers = (
    st.none()
    | st.floats()
    | st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, math.inf, -math.inf, math.nan])
)


def parsed(chart: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(chart)  # of our own making


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name].rstrip("%"))


def days_of(values: list[float | None]) -> list[tuple[datetime, float | None]]:
    return [(FIRST + timedelta(days=place), value) for place, value in enumerate(values)]


def test_a_line_has_a_scale_ends_and_exact_values() -> None:
    chart = parsed(
        charts.line(days_of([0.5, None, 0.97]), "Share", say=text.percent, show="day", most=1.0)
    )
    assert [one.text for one in chart.findall("text")] == [
        "0 %",
        "50 %",
        "100 %",
        "2026-01-02",
        "2026-01-04",
    ]
    assert [one.findtext("title") for one in chart.findall("circle")] == [
        "2026-01-02: 50 %",
        "2026-01-04: 97 %",
    ]
    assert chart.attrib["aria-label"] == "Share: 97 % at last, from 50 % to 97 %"


def test_the_hours_have_a_scale_with_the_most_and_with_zero_and_times_for_the_readers_zone() -> (
    None
):
    found = {FIRST: {"passed": 3, "failed": 1}, FIRST + timedelta(hours=5): {"infra_error": 2}}
    for chart, scale in (
        (charts.hours(found, FIRST, 24), ["0", "4 jobs"]),
        (charts.pass_rates(found, FIRST, 24), ["0 %", "50 %", "100 %"]),
    ):
        words = parsed(chart).findall("text")
        assert [one.text for one in words if "data-at" not in one.attrib] == scale
        times = [(one.text, one.attrib["data-at"]) for one in words if "data-at" in one.attrib]
        assert (times[0], times[-1]) == (
            ("03:00 UTC", "2026-01-02T03:00:00.000Z"),
            ("02:00 UTC", "2026-01-03T02:00:00.000Z"),
        )
    rates = parsed(charts.pass_rates(found, FIRST, 24)).findall("circle")
    assert [one.findtext("title") for one in rates] == [
        "2026-01-02 03:00 UTC: 75 %"
    ]  # the other hour said nothing about the app


@given(st.dictionaries(st.integers(-3, 30), verdicts), st.integers(1, 48))
def test_columns_stay_in_their_box_and_tell_their_numbers(
    hours: dict[int, dict[str, int]], wide: int
) -> None:
    chart = parsed(
        charts.hours(
            {FIRST + timedelta(hours=hour): found for hour, found in hours.items()}, FIRST, wide
        )
    )
    shown = {hour: found for hour, found in hours.items() if 0 <= hour < wide}
    assert (
        f": {sum(sum(found.values()) for found in shown.values())} in all"
        in chart.attrib["aria-label"]
    )
    columns = chart.findall("g")
    assert len(columns) == sum(any(found.values()) for found in shown.values())
    for column in columns:
        for rect in column.findall("rect"):
            assert (
                0
                <= number(rect, "x")
                <= number(rect, "x") + number(rect, "width")
                <= charts.WIDTH + 0.1
            )
            assert (
                charts.HEAD - 0.1
                <= number(rect, "y")
                <= number(rect, "y") + number(rect, "height")
                <= charts.HEIGHT - charts.FOOT + 1
            )
    if columns:
        assert (
            max(
                sum(number(rect, "height") for rect in column.findall("rect")) for column in columns
            )
            >= charts.HEIGHT - charts.FOOT - charts.HEAD - 0.1
        )


@given(
    verdicts,
    st.dictionaries(st.sampled_from(["queued", "running", "done", "failed", "cancelled"]), counts),
)
def test_a_share_is_whole_and_counts_each_job_once(
    found: dict[str, int], statuses: dict[str, int]
) -> None:
    bar = parsed(charts.share(found, statuses))
    total = sum(found.values()) + statuses.get("running", 0) + statuses.get("queued", 0)
    end = 0.0
    for rect in bar.findall("rect"):
        assert abs(number(rect, "x") - end) < 0.01
        end = number(rect, "x") + number(rect, "width")
    assert abs(end - (100 if total else 0)) < 0.01
    told = bar.attrib["aria-label"]
    assert (
        told == "no jobs"
        if not total
        else sum(int(part.split()[0]) for part in told.split(", ")) == total
    )


@given(st.lists(numbers, max_size=40), hostile_text)
def test_a_line_stays_in_its_box_whatever_it_is_made_of(
    values: list[float | None], said: str
) -> None:
    chart = parsed(charts.line(days_of(values), said, say=text.duration, show="day"))
    known = [value for value in values if value is not None and math.isfinite(value)]
    dots = chart.findall("circle")
    assert len(dots) == len(known)
    for dot in dots:
        radius = number(dot, "r")
        assert radius <= number(dot, "cx") <= charts.WIDTH - radius
        assert charts.HEAD - 0.1 <= number(dot, "cy") <= charts.HEIGHT - charts.FOOT + 0.1


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    path = parsed(
        charts.line(days_of([1.0, 2.0, None, 3.0]), "x", say=text.duration, show="day")
    ).find("path")
    assert path is not None
    assert [piece.count(" L") for piece in path.attrib["d"].split(" M")] == [1, 0]


@given(hostile_text)
def test_what_a_chart_says_is_text(said: str) -> None:
    chart: Any = parsed(charts.line([], f'"><script>{said}', say=lambda _: said, show="day"))
    assert chart.attrib["aria-label"].startswith('"><script>')
    assert [child.tag for child in chart] == ["text", "path"]
