"""Events as JSON bytes, so that operators can read them with `nats stream view`."""

from __future__ import annotations

import msgspec

from qgjet.errors import UndecodableEvent
from qgjet.events import Event

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    return _encoder.encode(event)


def decode(data: bytes) -> Event:
    """Read one event.

    Unknown fields are ignored (a newer writer added them); an unknown type or a shape that does not fit raises UndecodableEvent.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise UndecodableEvent(f"event cannot be read: {error}") from error
