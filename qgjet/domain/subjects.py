"""Every subject and consumer name, built and parsed in one place.

`qg.job.<org>.<app_version>.<target>.<test>.<event>[.p<rank>]`: the rank stands on the events that
ask for a run. Tokens are percent-encoded where NATS, or the file system behind consumer names,
gives a character a meaning; everything else stays readable: `tests/onboarding.spec.js` is
`tests/onboarding%2Espec%2Ejs`. Encoding is injective and reversible for any text, even lone
surrogates.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from qgjet.domain.events import Partition, Slot
from qgjet.errors import InvalidInput

STREAM = "QG_EVENTS"
ADVISORIES = "QG_ADVISORIES"
LOGS = "QG_LOGS"
AGENTS_BUCKET = "qg-agents"
ARTIFACTS_BUCKET = "qg-artifacts"

JOB_PREFIX = "qg.job"
ALL_JOBS = "qg.job.>"
ALL_EVENTS = "qg.>"
"""Suites and control events too."""
SUITE_PREFIX = "qg.suite"
CONTROL_PREFIX = "qg.control"
BELL_PREFIX = "qg.bell"
RANKED = frozenset({"submitted", "requeued"})
"""Events that ask for a run; their subject ends in the rank."""
RANKS = range(10)

MAX_PART_BYTES = 64
"""Org, version and target, encoded: three of them, `~p9` and separators fit the 255 bytes of a
consumer name.
"""
MAX_TEST_BYTES = 512

_ESCAPED = re.compile(
    r"[.*>%~"
    r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"  # white space, controls, invisible ones
    r"\ud800-\udfff]"  # lone surrogates, which UTF-8 cannot hold
)
"""A fixed set, not what this Python's Unicode tables call printable: two versions of Python must
not give one slot two subjects.
"""
_NAME_ESCAPES = (("/", "%2F"), ("\\", "%5C"))


class Lane(Struct, frozen=True, order=True):
    """A partition at one rank: what one durable consumer delivers."""

    partition: Partition
    rank: int


def encode_token(text: str) -> str:
    """One subject token for `text`: reserved, invisible and unencodable characters become `%XX` per
    byte of UTF-8.
    """
    return _ESCAPED.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def decode_token(token: str) -> str:
    return unquote_to_bytes(token).decode("utf-8", "surrogatepass")


def encode_part(text: str, field: str = "id") -> str:
    """The token of an org, app version or target. Raises InvalidInput when it is empty or over 64
    bytes.
    """
    token = encode_token(text)
    for character, escape in _NAME_ESCAPES:
        token = token.replace(character, escape)
    return _bounded(token, field, MAX_PART_BYTES)


def encode_test(text: str) -> str:
    """The token of a test path. Raises InvalidInput when it is empty or over 512 bytes."""
    return _bounded(encode_token(text), "test", MAX_TEST_BYTES)


def _bounded(token: str, field: str, limit: int) -> str:
    if not token:
        raise InvalidInput(field, "must not be empty")
    size = len(token.encode("utf-8"))
    if size > limit:
        raise InvalidInput(
            field, f"is {size} bytes long when percent-encoded, at most {limit} are accepted"
        )
    return token


@lru_cache(maxsize=4096)
def partition_tokens(partition: Partition) -> tuple[str, str, str]:
    return (
        encode_part(partition.org_id, "org_id"),
        encode_part(partition.app_version_id, "app_version_id"),
        encode_part(partition.target, "target"),
    )


@lru_cache(maxsize=4096)
def slot_prefix(slot: Slot) -> str:
    return ".".join((JOB_PREFIX, *partition_tokens(slot.partition), encode_test(slot.test)))


def is_about(subject: str, slot: Slot) -> bool:
    """Whether a job's subject is one of the slot's, in the one spelling."""
    try:
        return subject.startswith(slot_prefix(slot) + ".")
    except InvalidInput:  # no subject could hold such a slot
        return False


def slot_filter(slot: Slot) -> str:
    """All events of a slot. The one spelling used for optimistic concurrency: on a replicated
    stream two spellings do not exclude each other.
    """
    return slot_prefix(slot) + ".>"


def event_subject(prefix: str, event: str, rank: int | None = None) -> str:
    return f"{prefix}.{event}" if rank is None else f"{prefix}.{event}.p{rank}"


def partition_filter(partition: Partition) -> str:
    """All events of a partition, of any rank."""
    return ".".join((JOB_PREFIX, *partition_tokens(partition))) + ".>"


def lane_filter(lane: Lane) -> str:
    return ".".join((JOB_PREFIX, *partition_tokens(lane.partition), "*", "*", f"p{lane.rank}"))


@lru_cache(maxsize=4096)
def lane_consumer(lane: Lane) -> str:
    """Name of the lane's durable consumer: `<org>~<app_version>~<target>~p<rank>`."""
    return "~".join((*partition_tokens(lane.partition), f"p{lane.rank}"))


def parse_consumer(name: str) -> Lane | None:
    """The lane of a consumer name; None for a consumer that is not a lane's."""
    tokens = name.split("~")
    if len(tokens) != 4 or not all(tokens):
        return None
    return _lane(tokens[:3], tokens[3])


def target_filter(target: str) -> str:
    """The doorbell of a target: every event that asks for a run."""
    return f"{JOB_PREFIX}.*.*.{encode_part(target, 'target')}.*.*.*"


def bell_subject(lane: Lane) -> str:
    """Rung by an agent for the others, when more waits than it can take. Not stored."""
    return ".".join((BELL_PREFIX, *partition_tokens(lane.partition), f"p{lane.rank}"))


def bell_filter(target: str) -> str:
    return f"{BELL_PREFIX}.*.*.{encode_part(target, 'target')}.*"


def parse_bell(subject: str) -> Lane | None:
    """The lane that a submission or a bell is about; None for anything else."""
    tokens = subject.split(".")
    if len(tokens) == 6 and subject.startswith(BELL_PREFIX + "."):
        return _lane(tokens[2:5], tokens[5])
    is_ticket = len(tokens) == 8 and subject.startswith(JOB_PREFIX + ".")
    return _lane(tokens[2:5], tokens[7]) if is_ticket else None


def parse_job_subject(subject: str) -> tuple[Slot, str, int | None] | None:
    """(slot, event name, rank) of a job subject; None for any other subject."""
    tokens = subject.split(".")
    if len(tokens) not in (7, 8) or tokens[0] != "qg" or tokens[1] != "job":
        return None
    rank = _parse_rank(tokens[7]) if len(tokens) == 8 else None
    if len(tokens) == 8 and rank is None:
        return None
    texts = _decoded(tokens[2:6])
    return None if texts is None else (Slot(*texts), tokens[6], rank)


def _lane(partition: list[str], rank_token: str) -> Lane | None:
    rank, texts = _parse_rank(rank_token), _decoded(partition)
    if rank is None or texts is None:
        return None
    lane = Lane(Partition(*texts), rank)
    try:
        partition_tokens(lane.partition)
    except InvalidInput:  # longer than any of ours
        return None
    return lane


def _decoded(tokens: list[str]) -> list[str] | None:
    try:
        return [decode_token(token) for token in tokens]
    except UnicodeError:  # somebody else's
        return None


def _parse_rank(token: str) -> int | None:
    return int(token[1]) if len(token) == 2 and token[0] == "p" and "0" <= token[1] <= "9" else None


def log_subject(job_id: str, attempt: int) -> str:
    return f"qg.log.{encode_token(job_id)}.{attempt}"
