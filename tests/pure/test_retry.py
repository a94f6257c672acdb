from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet.domain.events import Verdict
from qgjet.domain.retry import SPENDS_INFRA_RETRY, SPENDS_USER_RETRY, Backoff

seconds = st.floats(0.001, 1e6)
backoffs = st.builds(Backoff, base_s=seconds, cap_s=seconds)
failures = st.integers(-2, 200)
jitters = st.floats(0, 1, exclude_max=True)


@given(backoffs, failures, jitters)
def test_a_delay_is_positive_and_never_above_the_cap(
    backoff: Backoff, failed: int, jitter: float
) -> None:
    assert 0 < backoff.delay_s(failed, jitter) <= backoff.cap_s


@given(backoffs, failures, failures, jitters)
def test_more_failures_never_wait_less(
    backoff: Backoff, one: int, other: int, jitter: float
) -> None:
    fewer, more = sorted((one, other))
    assert backoff.delay_s(fewer, jitter) <= backoff.delay_s(more, jitter)


@given(backoffs, failures, jitters)
def test_jitter_spreads_over_the_upper_half_of_the_step(
    backoff: Backoff, failed: int, jitter: float
) -> None:
    step = backoff.delay_s(failed, 0.0) * 2
    assert step / 2 <= backoff.delay_s(failed, jitter) <= step


@pytest.mark.parametrize(
    ("failed", "jitter", "delay_s"),
    [
        (0, 0.0, 0.5),
        (1, 0.0, 0.5),
        (1, 0.5, 0.75),
        (2, 0.5, 1.5),
        (3, 0.5, 3.0),
        (6, 0.0, 16.0),
        (7, 0.0, 30.0),
        (10**6, 0.0, 30.0),
    ],
)
def test_the_delay_doubles_up_to_the_cap(failed: int, jitter: float, delay_s: float) -> None:
    assert Backoff(base_s=1.0, cap_s=60.0).delay_s(failed, jitter) == delay_s


def test_no_verdict_spends_two_budgets_and_final_ones_spend_none() -> None:
    assert {
        verdict: (verdict in SPENDS_USER_RETRY, verdict in SPENDS_INFRA_RETRY)
        for verdict in Verdict
    } == {
        Verdict.PASSED: (False, False),
        Verdict.FLAKY: (False, False),
        Verdict.FAILED: (True, False),
        Verdict.TIMED_OUT: (True, False),
        Verdict.INFRA_ERROR: (False, True),
        Verdict.CONFIG_ERROR: (False, False),
        Verdict.CANCELLED: (False, False),
        Verdict.SKIPPED: (False, False),
    }
