"""JSON of any size as a stream of events, within a few hundred kilobytes of memory. Pure but for
the reads of its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import ijson
import ijson.backends.python as slow_ijson

PIECE_BYTES = 64 * 1024
MAX_STRING_BYTES = 64 * 1024
"""Longer strings lose what lies beyond. No error text that is read is as long; attachments and
output are.
"""
MAX_DEPTH = 200
_MAX_ESCAPE_BYTES = 12
"""Of a surrogate pair, which must not be cut in two."""
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)

Event = tuple[str, Any]


class JsonError(ValueError):
    """The bytes are not the JSON that was expected."""


class LongInteger(JsonError):
    """It holds an integer of more than 64 bits; read it again with `any_integer`."""


class BoundedStrings:
    """A source whose long strings are cut, and whose text is valid UTF-8.

    JavaScript cuts strings inside emoji, and tests print any bytes: lone surrogates and invalid
    bytes become U+FFFD.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._held = b""
        self._inside = False
        self._length = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next piece, of any length but for `size` 0; empty at the end."""
        if size == 0:
            return b""
        while piece := self._source.read(PIECE_BYTES):
            data = self._held + piece
            cut = _safe_cut(data)
            data, self._held = data[:cut], data[cut:]
            if data := self._bounded(data):
                return _repaired(data)
        rest, self._held = self._held, b""
        return _repaired(rest) if rest else b""

    def _bounded(self, data: bytes) -> bytes:
        """`data`, or nothing when all of it lies deep inside a long string."""
        plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        quotes = plain.count(b'"')
        if quotes == 0:
            self._length += len(data) if self._inside else 0
            return data if self._length <= MAX_STRING_BYTES else b""
        self._inside ^= bool(quotes & 1)
        self._length = len(plain) - plain.rfind(b'"') if self._inside else 0
        return data


def _safe_cut(data: bytes) -> int:
    """Where `data` can be cut without cutting an escape sequence or a character of UTF-8."""
    cut = len(data)
    for back in range(1, min(4, len(data)) + 1):  # an unfinished character at the end
        byte = data[-back]
        if byte >= 0xC0:
            cut = len(data) - back
            break
        if byte < 0x80:
            break
    first = data.find(b"\\", max(cut - _MAX_ESCAPE_BYTES, 0), cut)
    if first < 0:
        return cut
    start = first
    while start > 0 and data[start - 1] == 0x5C:
        start -= 1
    if start == 0 and len(data) > 2 * PIECE_BYTES:
        return 2 * PIECE_BYTES  # nothing but backslashes, and an even number of them is whole
    return start


def _repaired(data: bytes) -> bytes:
    if not data.isascii():
        data = data.decode("utf-8", "replace").encode()
    return _LONE_SURROGATE.sub(rb"\\ufffd", data) if b"\\u" in data else data


class JsonReader:
    """Walks through one JSON document: each value is either built, walked into, or skipped.

    Raises JsonError for what is no JSON, for documents nested deeper than 200 levels, and for
    numbers that no double can hold. LongInteger comes of an integer beyond 64 bits; with
    `any_integer` it is read, at a tenth of the speed.
    """

    def __init__(self, source: BinaryIO, *, any_integer: bool = False) -> None:
        parser = slow_ijson if any_integer else ijson
        # without use_float, ijson's C parser crashes the process at a number that Python refuses to
        # convert, if the text behind it is no JSON
        self._events: Iterator[Event] = parser.basic_parse(
            BoundedStrings(source), buf_size=PIECE_BYTES, use_float=True
        )
        self._depth = 0

    def next(self) -> Event:
        try:
            event: Event = next(self._events)
        except StopIteration:
            raise JsonError("it ends too early") from None
        except (ijson.JSONError, ValueError) as error:  # the last: more digits than Python converts
            raise _described_error(error) from None
        name = event[0]
        if name in ("start_map", "start_array"):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise JsonError(f"it is nested deeper than {MAX_DEPTH} levels")
        elif name in ("end_map", "end_array"):
            self._depth -= 1
        return event

    def finish(self) -> None:
        """Raises JsonError unless the document is over."""
        try:
            next(self._events)
        except StopIteration:
            return
        except (ijson.JSONError, ValueError) as error:
            raise _described_error(error) from None
        raise JsonError("something follows it")

    def members(self, event: Event) -> Iterator[tuple[str, Event]]:
        """The keys of an object, each with the first event of its value, which must be consumed
        before the next key.
        """
        if event[0] != "start_map":
            raise JsonError(f"an object is expected where it has {_described(event)}")
        while (following := self.next())[0] != "end_map":
            yield following[1], self.next()

    def items(self, event: Event) -> Iterator[Event]:
        """The first event of each value of an array, which must be consumed before the next one."""
        if event[0] != "start_array":
            raise JsonError(f"an array is expected where it has {_described(event)}")
        while (following := self.next())[0] != "end_array":
            yield following

    def skip(self, event: Event) -> None:
        """Pass the value that `event` begins."""
        depth = self._depth - 1
        if event[0] in ("start_map", "start_array"):
            while self._depth > depth:
                self.next()

    def build(self, event: Event, wanted: Wanted) -> Any:
        """The value that `event` begins, with only the keys that are wanted of objects."""
        if callable(wanted):
            return wanted(self, event)
        name, value = event
        if name == "start_map":
            if not isinstance(wanted, dict):
                self.skip(event)
                return None
            return {
                key: built
                for key, first in self.members(event)
                if (built := self._wanted(key, first, wanted)) is not None
            }
        if name == "start_array":
            if not isinstance(wanted, list):
                self.skip(event)
                return None
            return [self.build(first, wanted[0]) for first in self.items(event)]
        return value

    def _wanted(self, key: str, first: Event, wanted: dict[str, Any]) -> Any:
        if key in wanted:
            return self.build(first, wanted[key])
        self.skip(first)
        return None


Wanted = dict[str, Any] | list[Any] | None | Callable[["JsonReader", Event], Any]
"""What to keep of a value: an object's keys, an array's items, a scalar (None), or a function that
consumes the value.
"""


def _described(event: Event) -> str:
    return {"start_map": "an object", "start_array": "an array", "null": "null"}.get(
        event[0], f"a {event[0]}"
    )


def _described_error(error: Exception) -> JsonError:
    line = _first_line(error)
    return LongInteger(line) if "integer overflow" in line else JsonError(line)


def _first_line(error: Exception) -> str:
    text = error.args[0] if error.args else str(error)
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return text.split("\n", 1)[0].strip() or type(error).__name__
