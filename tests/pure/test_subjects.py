"""Subjects and consumer names: readable, reversible, never two for one thing or one for two."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qgjet.domain.events import EVENT_TYPES, Partition, Slot, event_type
from qgjet.domain.subjects import (
    ALL_JOBS,
    MAX_PART_BYTES,
    MAX_TEST_BYTES,
    RANKED,
    RANKS,
    Lane,
    bell_filter,
    bell_subject,
    decode_token,
    encode_part,
    encode_test,
    encode_token,
    event_subject,
    lane_consumer,
    lane_filter,
    log_subject,
    parse_bell,
    parse_consumer,
    parse_job_subject,
    partition_filter,
    slot_filter,
    slot_prefix,
    target_filter,
)
from qgjet.errors import InvalidInput
from strategies import hostile_text

EVENTS = sorted(map(event_type, EVENT_TYPES))
FORBIDDEN_IN_TOKENS = re.compile(r"[\s.*>\x00-\x1f\x7f]")
FORBIDDEN_IN_NAMES = re.compile(r"[\s.*>/\\\x00-\x1f\x7f]")


def part_bytes(text: str) -> int:
    """Size of an org's, version's or target's token, where slashes are escaped too."""
    return len(encode_token(text).encode()) + 2 * (text.count("/") + text.count("\\"))


parts = hostile_text.filter(lambda text: 0 < part_bytes(text) <= MAX_PART_BYTES)
near_parts = st.sampled_from(
    ["a", "A", "a.b", "a%2Eb", "a~b", "b", "*", ">", "a/b", "%", "%25", "p5", "submitted"]
)
"""Few enough that two slots often differ in one part only."""
slots = st.builds(Slot, parts, parts, parts, parts)
near_slots = st.builds(Slot, *[near_parts] * 4)
ranks = st.sampled_from(RANKS)
utf8_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
"""What a client can be given by a server: subjects and names come as UTF-8."""
lanes = st.builds(Lane, st.builds(Partition, parts, parts, parts), ranks)
near_lanes = st.builds(Lane, st.builds(Partition, *[near_parts] * 3), st.integers(4, 5))
SLOT = Slot("acme", "1.0.0", "emulator", "tests/onboarding.spec.js")


@st.composite
def subjects_of(draw: st.DrawFn, slot: Slot) -> tuple[str, str, int | None]:
    event = draw(st.sampled_from(EVENTS))
    rank = draw(ranks) if event in RANKED else None
    return event_subject(slot_prefix(slot), event, rank), event, rank


def matches(pattern: str, subject: str) -> bool:
    """NATS's own rule: `*` is one token, `>` one or more at the end."""
    wanted, given_ = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given_) >= len(wanted) and all(
            one in ("*", other) for one, other in zip(wanted[:-1], given_, strict=False)
        )
    return len(given_) == len(wanted) and all(
        one in ("*", other) for one, other in zip(wanted, given_, strict=True)
    )


# Any text


@given(hostile_text)
@example("\ud83d\ude00")
@example("\U0001f600")
@example("\0")
def test_a_token_gives_its_text_back(text: str) -> None:
    assert decode_token(encode_token(text)) == text


@given(hostile_text, hostile_text)
def test_two_texts_never_share_a_token(one: str, other: str) -> None:
    assert (encode_token(one) == encode_token(other)) == (one == other)


@given(hostile_text)
def test_a_token_holds_nothing_that_nats_gives_a_meaning_to(text: str) -> None:
    token = encode_token(text)
    assert not FORBIDDEN_IN_TOKENS.search(token)
    assert "~" not in token
    assert token.encode().decode() == token


def test_no_character_of_unicode_slips_through() -> None:
    everything = "".join(map(chr, range(0x110000)))
    token = encode_token(everything)
    assert not FORBIDDEN_IN_TOKENS.search(token)
    assert decode_token(token) == everything


@given(parts)
def test_a_part_of_a_name_holds_nothing_that_a_file_system_gives_a_meaning_to(text: str) -> None:
    assert not FORBIDDEN_IN_NAMES.search(encode_part(text))


@pytest.mark.parametrize("character", ["\U0001fae8", "\U00031350", "\U0001fadc"])
def test_the_token_of_a_character_does_not_depend_on_the_age_of_python(character: str) -> None:
    """Unicode 15 and 16 named these, Python 3.11 knows Unicode 14. Agents and clients of different
    Pythons must mean the same slot.
    """
    assert (encode_token(character) == character) == (encode_token("\U0001f600") == "\U0001f600")


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("tests/onboarding.spec.js", "tests/onboarding%2Espec%2Ejs"),
        ("1.0.0", "1%2E0%2E0"),
        ("100%", "100%25"),
        ("a b\tc", "a%20b%09c"),
        ("*>~", "%2A%3E%7E"),
        ("\0", "%00"),
        ("\u00e9t\u00e9", "\u00e9t\u00e9"),
        ("\u00a0", "%C2%A0"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_a_token_stays_readable(text: str, token: str) -> None:
    assert encode_token(text) == token
    assert decode_token(token) == text


def test_slashes_are_escaped_where_they_would_get_into_a_consumer_name() -> None:
    assert encode_part("feature/login\\v2") == "feature%2Flogin%5Cv2"
    assert encode_test("tests/login.spec.js") == "tests/login%2Espec%2Ejs"


# Subjects


@given(slots, st.data())
def test_a_job_subject_gives_slot_event_and_rank_back(slot: Slot, data: st.DataObject) -> None:
    subject, event, rank = data.draw(subjects_of(slot))
    assert parse_job_subject(subject) == (slot, event, rank)


@given(slots, slots)
def test_two_slots_never_share_a_subject(one: Slot, other: Slot) -> None:
    assert (slot_prefix(one) == slot_prefix(other)) == (one == other)


@given(slots, st.data())
def test_a_subject_is_always_one_that_nats_accepts(slot: Slot, data: st.DataObject) -> None:
    subject, _, _ = data.draw(subjects_of(slot))
    assert not any(not token or FORBIDDEN_IN_TOKENS.search(token) for token in subject.split("."))
    assert len(subject.encode()) < 1024


@given(near_slots, near_slots, st.data())
def test_a_slot_filter_matches_all_events_of_its_slot_and_of_no_other(
    slot: Slot, other: Slot, data: st.DataObject
) -> None:
    subject, _, _ = data.draw(subjects_of(slot))
    assert matches(slot_filter(slot), subject)
    assert matches(slot_filter(other), subject) == (slot == other)


@given(near_slots, near_slots, st.data())
def test_a_partition_filter_matches_all_events_of_its_partition_and_of_no_other(
    slot: Slot, other: Slot, data: st.DataObject
) -> None:
    subject, _, _ = data.draw(subjects_of(slot))
    assert matches(partition_filter(slot.partition), subject)
    assert matches(partition_filter(other.partition), subject) == (
        slot.partition == other.partition
    )
    assert matches(ALL_JOBS, subject)


@given(near_slots, near_lanes, st.data())
def test_a_lane_filter_matches_what_asks_for_a_run_at_its_rank_and_nothing_else(
    slot: Slot, lane: Lane, data: st.DataObject
) -> None:
    subject, event, rank = data.draw(subjects_of(slot))
    assert matches(lane_filter(lane), subject) == (
        event in RANKED and lane == Lane(slot.partition, rank or 0)
    )
    assert rank is None or matches(lane_filter(Lane(slot.partition, rank)), subject)


@given(near_slots, near_parts, st.data())
def test_the_doorbell_of_a_target_rings_for_every_run_asked_of_it(
    slot: Slot, target: str, data: st.DataObject
) -> None:
    subject, event, _ = data.draw(subjects_of(slot))
    assert matches(target_filter(slot.target), subject) == (event in RANKED)
    assert matches(target_filter(target), subject) == (event in RANKED and target == slot.target)


@given(lanes)
def test_a_bell_gives_its_lane_back(lane: Lane) -> None:
    assert parse_bell(bell_subject(lane)) == lane


@given(slots, st.data())
def test_a_subject_that_asks_for_a_run_is_a_bell_of_its_lane(
    slot: Slot, data: st.DataObject
) -> None:
    subject, _, rank = data.draw(subjects_of(slot))
    assert parse_bell(subject) == (None if rank is None else Lane(slot.partition, rank))


@given(near_lanes, near_parts)
def test_a_bell_rings_at_its_target_only_and_is_no_event(lane: Lane, target: str) -> None:
    assert matches(bell_filter(lane.partition.target), bell_subject(lane))
    assert matches(bell_filter(target), bell_subject(lane)) == (target == lane.partition.target)
    assert not matches(ALL_JOBS, bell_subject(lane))


def test_a_subject_reads_like_the_job_it_is_about() -> None:
    prefix = slot_prefix(SLOT)
    lane = Lane(SLOT.partition, 5)
    assert {
        "submitted": event_subject(prefix, "submitted", 5),
        "started": event_subject(prefix, "started"),
        "slot": slot_filter(SLOT),
        "partition": partition_filter(SLOT.partition),
        "lane": lane_filter(lane),
        "consumer": lane_consumer(lane),
        "doorbell": target_filter("emulator"),
        "bell": bell_subject(lane),
        "log": log_subject("job-1", 2),
    } == {
        "submitted": "qg.job.acme.1%2E0%2E0.emulator.tests/onboarding%2Espec%2Ejs.submitted.p5",
        "started": "qg.job.acme.1%2E0%2E0.emulator.tests/onboarding%2Espec%2Ejs.started",
        "slot": "qg.job.acme.1%2E0%2E0.emulator.tests/onboarding%2Espec%2Ejs.>",
        "partition": "qg.job.acme.1%2E0%2E0.emulator.>",
        "lane": "qg.job.acme.1%2E0%2E0.emulator.*.*.p5",
        "consumer": "acme~1%2E0%2E0~emulator~p5",
        "doorbell": "qg.job.*.*.emulator.*.*.*",
        "bell": "qg.bell.acme.1%2E0%2E0.emulator.p5",
        "log": "qg.log.job-1.2",
    }


@given(
    st.lists(
        st.sampled_from(["qg", "job", "bell", "a", "%", "%FF", "%2", "%2e", "p5", "p12", ""])
        | utf8_text,
        max_size=9,
    )
)
@example(["qg", "job", "%FF", "1", "emulator", "test", "started"])
@example(["qg", "bell", "%FF", "1", "emulator", "p5"])
def test_any_subject_at_all_is_parsed_or_is_none_of_ours(tokens: list[str]) -> None:
    parsed = parse_job_subject(".".join(tokens))
    assert parsed is None or isinstance(parsed[0], Slot)
    assert isinstance(parse_bell(".".join(tokens)), Lane | None)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "qg.job",
        "qg.suite.acme.s1.opened",
        "qg.control.all.pause.x.y.z",
        "xx.job.acme.1.emulator.test.started",
        "qg.job.acme.1.emulator.test",
        "qg.job.acme.1.emulator.test.submitted.5",
        "qg.job.acme.1.emulator.test.submitted.p10",
        "qg.job.acme.1.emulator.test.submitted.p\u0665",
        "qg.job.acme.1.emulator.test.submitted.p5.more",
    ],
)
def test_other_subjects_are_not_jobs(subject: str) -> None:
    assert parse_job_subject(subject) is None


@given(hostile_text.filter(bool), st.integers(1, 99))
def test_the_log_of_an_attempt_has_one_subject_of_its_own(job_id: str, attempt: int) -> None:
    subject = log_subject(job_id, attempt)
    assert matches("qg.log.*.*", subject)
    assert (decode_token(subject.split(".")[2]), subject.split(".")[3]) == (job_id, str(attempt))


# Consumer names


@given(lanes)
def test_a_consumer_name_gives_its_lane_back(lane: Lane) -> None:
    assert parse_consumer(lane_consumer(lane)) == lane


@given(lanes, lanes)
def test_two_lanes_never_share_a_consumer(one: Lane, other: Lane) -> None:
    assert (lane_consumer(one) == lane_consumer(other)) == (one == other)


@given(lanes)
@example(Lane(Partition("o" * 64, "\u00e9" * 32, "/" * 21), 9))
def test_a_consumer_name_is_always_one_that_nats_accepts(lane: Lane) -> None:
    name = lane_consumer(lane)
    assert not FORBIDDEN_IN_NAMES.search(name)
    assert len(name.encode()) <= 255


@given(
    st.lists(st.sampled_from(["a", "%", "%FF", "%2", "p5", "p12", "", "~"]) | utf8_text, max_size=5)
)
@example(["%FF", "1", "emulator", "p5"])
def test_any_consumer_name_at_all_is_parsed_or_is_none_of_ours(tokens: list[str]) -> None:
    lane = parse_consumer("~".join(tokens))
    assert lane is None or isinstance(lane, Lane)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "projector",
        "a~b~c",
        "a~b~c~5",
        "a~b~c~p",
        "a~b~c~p10",
        "a~~c~p5",
        "a~b~c~d~p5",
        "a~b~c~p\u0665",
    ],
)
def test_other_consumers_are_not_lanes(name: str) -> None:
    assert parse_consumer(name) is None


# Limits


@pytest.mark.parametrize("field", ["org_id", "app_version_id", "target"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must not be empty"),
        ("x" * 65, "is 65 bytes long when percent-encoded, at most 64 are accepted"),
        ("x" * 300, "is 300 bytes long when percent-encoded, at most 64 are accepted"),
        ("." * 22, "is 66 bytes long when percent-encoded, at most 64 are accepted"),
        ("\u00e9" * 33, "is 66 bytes long when percent-encoded, at most 64 are accepted"),
    ],
)
def test_an_id_that_does_not_fit_is_refused_with_the_reason(
    field: str, text: str, reason: str
) -> None:
    parts_of = {"org_id": "acme", "app_version_id": "1", "target": "emulator"} | {field: text}
    with pytest.raises(InvalidInput) as refused:
        slot_prefix(Slot(**parts_of, test="test"))
    assert (refused.value.field, refused.value.reason) == (field, reason)


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("", "must not be empty"),
        ("t" * 513, "is 513 bytes long when percent-encoded, at most 512 are accepted"),
        ("." * 300, "is 900 bytes long when percent-encoded, at most 512 are accepted"),
    ],
)
def test_a_test_path_that_does_not_fit_is_refused_with_the_reason(test: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        slot_prefix(Slot("acme", "1", "emulator", test))
    assert (refused.value.field, refused.value.reason) == ("test", reason)


@given(st.text(max_size=300), st.text(max_size=300))
@example("x" * MAX_PART_BYTES, "t" * MAX_TEST_BYTES)
@example("x" * 300, "t" * 300)
def test_what_is_accepted_always_fits_and_what_does_not_fit_is_never_accepted(
    part: str, test: str
) -> None:
    try:
        slot = Slot(part, part, part, test)
        name = lane_consumer(Lane(slot.partition, 9))
        subject = event_subject(slot_prefix(slot), "submitted", 9)
    except InvalidInput:
        assert (
            not part
            or not test
            or part_bytes(part) > MAX_PART_BYTES
            or len(encode_token(test).encode()) > MAX_TEST_BYTES
        )
    else:
        assert len(name.encode()) <= 3 * MAX_PART_BYTES + 5
        assert len(subject.encode()) < 1024
