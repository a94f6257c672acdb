"""How values read on a page, at their edges."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet.domain.events import Status, Verdict
from qgjet_projections.web import text
from strategies import instants

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("share", "reads"),
    [
        (None, "-"),
        (0.0, "0 %"),
        (1e-9, "1 %"),
        (0.004, "1 %"),
        (0.5, "50 %"),
        (0.994, "99 %"),
        (0.996, "99 %"),
        (1 - 1e-12, "99 %"),
        (1.0, "100 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(share: float | None, reads: str) -> None:
    assert text.percent(share) == reads


@given(st.floats(0, 1))
def test_every_share_has_a_percentage(share: float) -> None:
    percent = int(text.percent(share).removesuffix(" %"))
    assert (percent == 0, percent == 100) == (share == 0, share == 1)


@pytest.mark.parametrize(
    ("seconds", "reads"),
    [
        (-100, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86_399, "23 h"),
        (86_400, "1 d"),
        (864_000, "10 d"),
    ],
)
def test_ago_rounds_down_and_knows_no_future(seconds: float, reads: str) -> None:
    assert text.ago(NOW - timedelta(seconds=seconds), NOW) == reads


def test_what_never_was_reads_as_nothing() -> None:
    assert (text.ago(None, NOW), text.duration(None), text.words(None), text.words("")) == (
        "",
        "",
        "",
        "",
    )


@pytest.mark.parametrize(
    ("seconds", "reads"),
    [
        (-5.0, "0 ms"),
        (0.0004, "0 ms"),
        (0.9996, "1.0 s"),
        (59.96, "1 min 00 s"),
        (3600.0, "1 h 00 min"),
    ],
)
def test_durations_at_their_edges(seconds: float, reads: str) -> None:
    assert text.duration(seconds) == reads


@pytest.mark.parametrize(
    ("count", "reads"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (9_949, "9.9 kB"),
        (9_950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (10**13, "10000 GB"),
    ],
)
def test_sizes_change_their_unit_where_their_number_would_be_too_long(
    count: int, reads: str
) -> None:
    assert text.size(count) == reads


@given(instants)
def test_times_are_told_in_utc_and_can_be_read_back(at: datetime) -> None:
    assert abs(datetime.fromisoformat(text.iso(at)) - at) < timedelta(milliseconds=1)
    assert text.iso(at).endswith("Z")
    assert text.utc(at) == at.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")  # noqa: UP017
    assert text.clock(at) in text.utc(at)


def test_every_verdict_and_status_has_a_tone_and_a_place() -> None:
    assert {word for word in (*Verdict, *Status) if str(word) not in text.TONES} == set()
    assert set(text.VERDICTS) == set(Verdict)
    assert text.tone("unheard of") == "none"
