"""Control events as bytes and subjects, and the pauses they add up to."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import NOW
from qgjet.domain.control import (
    Control,
    Discarded,
    DrainRequested,
    Kind,
    Paused,
    Pauses,
    Resumed,
    decode,
    encode,
    is_about,
    subject_of,
)
from qgjet.domain.events import Partition
from qgjet.errors import InvalidInput, UndecodableEvent
from strategies import hostile_text, values

STORED = (
    b'{"type":"paused","kind":"target","name":"device","at":"2026-11-22T10:00:00Z","by":"api","reason":"new cables","until":"2026-11-22T12:00:00Z"}',
    b'{"type":"resumed","kind":"org","name":"acme","at":"2026-11-22T10:00:00Z"}',
    b'{"type":"drain_requested","kind":"agent","name":"mac-1-0123","at":"2026-11-22T10:00:00Z","by":"api"}',
    b'{"type":"discarded","kind":"job","name":"j-1","at":"2026-11-22T10:00:00Z","reason":"known","org_id":"acme"}',
)
"""As they were once written; never edited."""
HERE = Partition("acme", "1.0.0", "emulator")


@pytest.mark.parametrize("data", STORED)
def test_an_event_is_written_as_it_was_stored(data: bytes) -> None:
    assert json.loads(encode(decode(data))) == json.loads(data)


@given(values(Control))
def test_events_read_back(event: Control) -> None:
    assert decode(encode(event)) == event


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"type":"painted"}',
        b"\xff",
        b'{"type":"paused","kind":"sofa"}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_is_said(data: bytes) -> None:
    with pytest.raises(UndecodableEvent):
        decode(data)


def test_subjects_say_what_it_is_about() -> None:
    assert subject_of(decode(STORED[0])) == "qg.control.target.device.paused"
    assert subject_of(Resumed(kind=Kind.ORG, name="a.b", at=NOW)) == "qg.control.org.a%2Eb.resumed"
    assert (
        subject_of(DrainRequested(kind=Kind.AGENT, name="mac mini", at=NOW))
        == "qg.control.agent.mac%20mini.drain_requested"
    )
    with pytest.raises(InvalidInput):
        subject_of(Paused(kind=Kind.TARGET, name="", at=NOW))


@given(hostile_text, hostile_text)
def test_an_event_stands_under_one_subject_only(one: str, other: str) -> None:
    first, second = (Resumed(kind=Kind.JOB, name=name, at=NOW) for name in (one, other))
    assert is_about(first, subject_of(first))
    assert is_about(second, subject_of(first)) == (one == other)


def paused(kind: Kind, name: str, *, minutes: int | None = None) -> Paused:
    return Paused(
        kind=kind,
        name=name,
        at=NOW,
        until=None if minutes is None else NOW + timedelta(minutes=minutes),
    )


def test_a_pause_of_a_target_or_an_org_holds_until_it_is_resumed() -> None:
    for kind, name in ((Kind.TARGET, "emulator"), (Kind.ORG, "acme")):
        pauses = Pauses()
        pauses.apply(paused(kind, name))
        assert pauses.of(HERE, NOW) is not None
        assert pauses.of(Partition("other", "1.0.0", "device"), NOW) is None
        pauses.apply(Resumed(kind=kind, name=name, at=NOW))
        assert pauses.of(HERE, NOW) is None


def test_a_pause_ends_by_itself() -> None:
    pauses = Pauses(
        [
            paused(Kind.TARGET, "emulator", minutes=5),
            paused(Kind.ORG, "acme", minutes=10),
            paused(Kind.ORG, "other"),
        ]
    )
    assert pauses.next_end(NOW) == NOW + timedelta(minutes=5)
    then = NOW + timedelta(minutes=5)
    found = pauses.of(HERE, then)
    assert found is not None
    assert (found.kind, pauses.next_end(then)) == (Kind.ORG, NOW + timedelta(minutes=10))
    assert pauses.of(HERE, NOW + timedelta(minutes=10)) is None
    assert [one.name for one in pauses.in_force(NOW + timedelta(minutes=10))] == ["other"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Kind.TARGET, Kind.ORG]),
            st.sampled_from(["emulator", "acme"]),
            st.booleans(),
        )
    )
)
def test_of_two_decisions_the_later_one_stands(told: list[tuple[Kind, str, bool]]) -> None:
    pauses = Pauses()
    for kind, name, pause in told:
        pauses.apply(paused(kind, name) if pause else Resumed(kind=kind, name=name, at=NOW))
    last = {(kind, name): pause for kind, name, pause in told}
    assert {(one.kind, one.name) for one in pauses.in_force(NOW)} == {
        key for key, pause in last.items() if pause
    }
    assert bool(pauses) == any(last.values())


def test_a_discarded_letter_pauses_nothing() -> None:
    pauses = Pauses()
    pauses.apply(Discarded(kind=Kind.JOB, name="emulator", org_id="acme", at=NOW))
    assert not pauses
