"""Events as JSON bytes, so that operators can read them with `nats stream view`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from qgjet.domain.events import Event, Outcome
from qgjet.errors import InvalidInput, UndecodableEvent

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


MAX_OUTCOME_BYTES = 900_000
"""A NATS message holds 1 MiB. The rest of the event is small: unresolved test cases take at most 64
KiB, all other fields together less than that.
"""


def encode(event: Event) -> bytes:
    """JSON of one event. Raises InvalidInput for what JSON cannot hold: half a surrogate pair, a
    number that is not finite.
    """
    data = _encoded(event)
    if b":null" in data and not _reads_back(
        data, event
    ):  # how msgspec writes NaN and infinity; nothing else of ours is null
        raise InvalidInput("event", "holds a number that is not finite")
    return data


def check_writable(outcome: Outcome) -> None:
    """Raise InvalidInput for an outcome that no event could hold."""
    data = _encoded(outcome)
    if not all(math.isfinite(seconds) for seconds in _durations(outcome)):
        raise InvalidInput("outcome", "holds a number that is not finite")
    if len(data) > MAX_OUTCOME_BYTES:
        raise InvalidInput(
            "outcome", f"is {len(data)} bytes, at most {MAX_OUTCOME_BYTES} fit an event"
        )


def _durations(outcome: Outcome) -> Iterator[float]:
    yield outcome.duration_s
    for test in outcome.tests:
        yield from (one.duration_s for one in test.tries)


def _encoded(value: Event | Outcome) -> bytes:
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError as error:
        raise InvalidInput("event", f"holds text that cannot be written: {error}") from error


def _reads_back(data: bytes, event: Event) -> bool:
    try:
        return decode(data) == event
    except UndecodableEvent:
        return False


def decode(data: bytes) -> Event:
    """Read one event.

    Unknown fields are ignored (a newer writer added them); an unknown type or a shape that does not
    fit raises UndecodableEvent.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableEvent(f"event cannot be read: {error}") from error
