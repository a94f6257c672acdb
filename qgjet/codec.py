"""Events as JSON bytes, so that operators can read them with `nats stream view`."""

from __future__ import annotations

import msgspec

from qgjet.errors import InvalidInput, UndecodableEvent
from qgjet.events import Event

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """JSON of one event. Raises InvalidInput for what JSON cannot hold: half a surrogate pair, a number that is not finite."""
    try:
        data = _encoder.encode(event)
    except UnicodeEncodeError as error:
        raise InvalidInput("event", f"holds text that cannot be written: {error}") from error
    if b":null" in data and not _reads_back(data, event):  # how msgspec writes NaN and infinity; nothing else of ours is null
        raise InvalidInput("event", "holds a number that is not finite")
    return data


def _reads_back(data: bytes, event: Event) -> bool:
    try:
        return decode(data) == event
    except UndecodableEvent:
        return False


def decode(data: bytes) -> Event:
    """Read one event.

    Unknown fields are ignored (a newer writer added them); an unknown type or a shape that does not fit raises UndecodableEvent.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableEvent(f"event cannot be read: {error}") from error
