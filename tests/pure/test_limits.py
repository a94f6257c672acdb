"""Token buckets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet_projections.api.limits import Buckets


def test_a_burst_is_let_through_and_then_a_rate() -> None:
    buckets = Buckets(rate=2, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0] * 3
    assert buckets.take("a", 0.0) == pytest.approx(0.5)
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.5) == 0.0
    assert buckets.take("a", 0.5) > 0.0
    assert [buckets.take("a", 1_000.0) for _ in range(4)][:3] == [0.0] * 3


@given(st.integers(1, 20), st.integers(1, 20), st.lists(st.floats(0, 0.5), max_size=200))
def test_in_no_stretch_of_time_more_than_burst_and_rate_are_let_through(
    rate: int, burst: int, pauses: list[float]
) -> None:
    buckets, now, granted = Buckets(rate=rate, burst=burst), 0.0, list[float]()
    for pause in pauses:
        now += pause
        if not buckets.take("a", now):
            granted.append(now)
    for first, start in enumerate(granted):
        for last, end in enumerate(granted[first:], 1):
            assert last <= burst + rate * (end - start) + 1e-6


@given(st.integers(1, 10), st.integers(1, 10), st.integers(1, 40))
def test_who_waits_as_long_as_told_is_let_in(rate: int, burst: int, requests: int) -> None:
    buckets, now = Buckets(rate=rate, burst=burst), 0.0
    for _ in range(requests):
        wait = buckets.take("a", now)
        if wait:
            now += wait + 1e-9
            assert buckets.take("a", now) == 0.0


def test_a_rate_of_0_is_no_limit_and_keeps_nothing() -> None:
    buckets = Buckets(rate=0, burst=1)
    assert [buckets.take("a", 0.0) for _ in range(5)] == [0.0] * 5
    assert len(buckets) == 0


def test_memory_is_bounded_and_the_busiest_are_remembered() -> None:
    buckets = Buckets(rate=1, burst=1, max_keys=10)
    for number in range(100):
        buckets.take("busy", 0.0)
        buckets.take(str(number), 0.0)
    assert len(buckets) == 10
    assert buckets.take("busy", 0.0) > 0.0


def test_a_clock_that_goes_back_gives_nothing_and_breaks_nothing() -> None:
    buckets = Buckets(rate=1, burst=1)
    assert buckets.take("a", 10.0) == 0.0
    assert buckets.take("a", 5.0) == pytest.approx(1.0)
