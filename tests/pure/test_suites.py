"""A suite's own events as bytes and subjects."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import NOW, spec
from qgjet.domain.suite import (
    Member,
    SuiteOpened,
    decode,
    encode,
    member_of,
    shared_tags,
    suite_prefix,
)
from qgjet.errors import InvalidInput, UndecodableEvent
from strategies import values

STORED = """{"type": "opened", "suite_id": "ci-7", "org_id": "acme", "at": "2026-11-20T10:00:00Z", "by": "cli", "submission": "s-1", "request_hash": "ab",
"jobs": [{"job_id": "j-1", "app_version_id": "1.0.0", "target": "emulator", "test": "tests/a.spec.js"},
{"job_id": "j-2", "app_version_id": "1.0.0", "target": "emulator", "test": "tests/b.spec.js", "attached": true, "seq": 12}],
"to_come": 3, "tags": {"branch": "main"}}"""
"""As it was once written; never edited."""


def test_an_event_is_written_as_it_was_stored() -> None:
    assert json.loads(encode(decode(STORED.encode()))) == json.loads(STORED)


def test_an_event_without_what_later_versions_added_is_read() -> None:
    event = decode(
        b'{"type":"opened","suite_id":"s","org_id":"o","at":"2026-11-20T10:00:00Z","submission":"x","jobs":[],"of_tomorrow":1}'
    )
    assert (event.to_come, event.tags, event.jobs) == (0, {}, ())


@given(values(SuiteOpened))
def test_events_read_back(event: SuiteOpened) -> None:
    assert decode(encode(event)) == event


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b'{"type":"sealed"}', b"\xff", b'{"type":"opened","jobs":3}', b"[" * 100_000],
)
def test_what_cannot_be_read_is_said(data: bytes) -> None:
    with pytest.raises(UndecodableEvent):
        decode(data)


def test_the_subject_holds_any_text() -> None:
    assert suite_prefix("acme", "a.b *>") == "qg.suite.acme.a%2Eb%20%2A%3E"
    with pytest.raises(InvalidInput):
        suite_prefix("", "s")


def test_members_know_their_slot() -> None:
    job = spec()
    event = SuiteOpened(
        suite_id="s",
        org_id=job.org_id,
        at=NOW,
        submission="x",
        jobs=(member_of(job, "other", attached=True, seq=4),),
    )
    assert event.jobs == (
        Member(
            job_id="other",
            app_version_id=job.app_version_id,
            target=job.target,
            test=job.test,
            attached=True,
            seq=4,
        ),
    )
    assert event.slot_of(event.jobs[0]) == job.slot


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"))))
def test_only_what_all_say_is_said_of_the_suite(tags: list[dict[str, str]]) -> None:
    shared = shared_tags(tags)
    assert all(shared.items() <= one.items() for one in tags)
    assert all(
        key in shared
        for one in tags
        for key, value in one.items()
        if all(other.get(key) == value for other in tags)
    )
