"""Server-sent events out of a stream of bytes (WHATWG HTML, section 9.2), as far as the API sends
them. Pure.

Bytes are cut at line feeds only: httpx's own line iterator also cuts at U+2028 and its like, which
JSON may hold as they are.
"""

from __future__ import annotations

from msgspec import Struct


class Message(Struct, frozen=True):
    id: str
    data: bytes
    event: str = ""


class Parser:
    def __init__(self) -> None:
        self._rest = b""
        self._id = ""
        self._event = ""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[Message]:
        """The messages that are complete with `piece`."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        return [message for message in map(self._line, lines) if message is not None]

    def _line(self, line: bytes) -> Message | None:
        line = line.removesuffix(b"\r")
        if not line:
            return self._complete()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._event = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        return None

    def _complete(self) -> Message | None:
        data, self._data = self._data, []
        event, self._event = self._event, ""
        return Message(self._id, b"\n".join(data), event) if data else None
