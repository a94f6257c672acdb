"""Keeps the values of secret variables out of what leaves the agent: `redact` in the settings of a
target. Pure.

Each value of at least 4 characters becomes `***`. Of a value with several lines, each line of at
least 8 characters becomes `***` too: without the white space around it, so that it is found
indented, after a prefix, and joined with others. All of this as it stands and as JSON, URLs, XML
and HTML write it. Other encodings (base64, hashes, pictures) are not searched: a test that prints
its secrets in such a form gives them away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from heapq import heapify, heappop, heapreplace
from typing import AnyStr, BinaryIO, Generic
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

from msgspec.structs import replace

from qgjet.domain.events import Outcome, TestError, TestResult, Try

MASK = "***"
LEAST_CHARACTERS = 4
"""Shorter values are everywhere: without them nothing would be left to read."""
LEAST_LINE = 8
"""For a single line of a value, and for what is searched in binary files, where chance writes
shorter ones.
"""
PIECE_BYTES = 256 * 1024
HEAD_BYTES = 64 * 1024
"""The beginning of a file, which decides its content type."""
_OPENING = 8


class Content(Enum):
    """How a file is redacted. Its content decides, never its name."""

    TEXT = "utf-8"
    UTF_16_LE = "utf-16-le"
    UTF_16_BE = "utf-16-be"
    UTF_32_LE = "utf-32-le"
    UTF_32_BE = "utf-32-be"
    BINARY = "binary"
    """NUL bytes, in no known format. Masks are as long as what they replace: nothing else moves."""
    MEDIA = "media"
    """Pictures, videos, archives: stored as they are."""

    @property
    def encoding(self) -> str:
        return Content.TEXT.value if self in (Content.BINARY, Content.MEDIA) else self.value

    @property
    def unit(self) -> int:
        """Bytes of the smallest character."""
        return len("x".encode(self.encoding))

    @property
    def mark_bytes(self) -> int:
        """Bytes of the byte order mark at the beginning."""
        return 0 if self.unit == 1 else self.unit


_MARKS = (
    (b"\xff\xfe\0\0", Content.UTF_32_LE),
    (b"\0\0\xfe\xff", Content.UTF_32_BE),
    (b"\xff\xfe", Content.UTF_16_LE),
    (b"\xfe\xff", Content.UTF_16_BE),
)
"""Byte order marks. That of UTF-32 begins like that of UTF-16."""
_MEDIA = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....(?:WEBP|AVI |WAVE)|\0\0..ftyp|\x1a\x45\xdf\xa3|OggS\0|ID3[\x02-\x04]|fLaC\0|%PDF-\d"
    rb"|PK(?:\x03\x04|\x05\x06|\x07\x08)|\x1f\x8b\x08|BZh[1-9](?:1AY&SY|\x17rE8P\x90)|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|wOF[F2]\0",
    re.DOTALL,
)


def content_of(head: bytes, *, is_text: bool = False) -> Content:
    """The content type of a file from its first 64 KiB.

    Args:
        head: The beginning of the file.
        is_text: The file is text whatever is in it, such as a log: one NUL byte makes it no binary file.
    """
    for mark, content in _MARKS:
        if head.startswith(mark):
            return content
    if is_text:
        return Content.TEXT
    if _MEDIA.match(head):
        return Content.MEDIA
    return Content.BINARY if b"\0" in head[:HEAD_BYTES] else Content.TEXT


_SPACES_IN_XML = (
    {ord("\t"): "&#9;", ord("\n"): "&#10;", ord("\r"): "&#13;"},
    {ord("\t"): "&#x9;", ord("\n"): "&#xA;", ord("\r"): "&#xD;"},
    {ord("\t"): "&#x9;", ord("\n"): "&#xa;", ord("\r"): "&#xd;"},
)
"""As attributes hold them."""


class Redactor:
    """Replaces the secrets of one session."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        parts = {part for value in values for part in _parts(value)}
        self._groups = [(_core(part), _forms(part)) for part in sorted(parts)]
        self._text = _Search(self._groups, lambda _: MASK)
        self._all_forms = "\0".join(self._text.forms)
        self._searches: dict[Content, _Search[bytes]] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to hide."""
        return bool(self._groups)

    def data(self, data: bytes, content: Content = Content.TEXT) -> bytes:
        return self.search(content).replace(data) if self else data

    def name(self, name: str) -> str:
        """A file name or path without secrets."""
        return self._text.replace(name)

    def text(self, text: str) -> str:
        """`text` without secrets, nor the larger half of one that a cut has left at its ends."""
        if not self or not text:
            return text
        text = self._text.replace(text)
        head = max(
            (_overlap(form, text, len(form)) for form in self._containing(text[:LEAST_CHARACTERS])),
            default=0,
        )
        text = MASK + text[head:] if head else text
        whole = text.rstrip("…")
        tail = max(
            (
                _overlap(whole, form, len(form))
                for form in self._containing(whole[-LEAST_CHARACTERS:])
            ),
            default=0,
        )
        return whole[:-tail] + MASK if tail else text

    def _containing(self, part: str) -> Iterable[str]:
        """The forms that hold `part`. Most texts end in nothing of a secret, and a large report has
        many texts.
        """
        return (
            (form for form in self._text.forms if part in form) if part in self._all_forms else ()
        )

    def outcome(self, outcome: Outcome) -> Outcome:
        """`outcome` with every text in it redacted that a job could have written."""
        if not self:
            return outcome
        return replace(
            outcome, message=self.text(outcome.message), tests=tuple(map(self._test, outcome.tests))
        )

    def _test(self, test: TestResult) -> TestResult:
        return replace(
            test,
            id=self.text(test.id),
            title=self.text(test.title),
            file=self.text(test.file),
            tries=tuple(map(self._try, test.tries)),
        )

    def _try(self, one: Try) -> Try:
        if one.error is None:
            return one
        return replace(
            one,
            error=TestError(
                message=self.text(one.error.message),
                file=self.text(one.error.file),
                line=one.error.line,
            ),
        )

    def listener(
        self, listener: Callable[[bytes], None], content: Content = Content.TEXT
    ) -> Stream:
        return Stream(self.search(content), listener)

    def copy(
        self,
        source: BinaryIO,
        target: BinaryIO,
        content: Content = Content.TEXT,
        *,
        size: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy a file from where it stands, without its secrets.

        Args:
            source: File to read.
            target: File to write.
            content: How `source` is redacted.
            size: Maximum bytes to read.
            check: Runs before each piece of 256 KiB. What it raises ends the copy.
        """
        stream = self.listener(lambda data: _write(target, data), content)
        left = size
        while True:
            check()
            piece = source.read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
            if not piece:
                break
            stream.write(piece)
            left = None if left is None else left - len(piece)
        stream.close()

    def boundary(self, source: BinaryIO, at: int, content: Content = Content.TEXT) -> int:
        """The first position of a file, from `at` on, that lies inside no secret: where a cut
        leaves no half of one.
        """
        search = self.search(content)
        while True:
            first = max(at - search.longest, 0)
            source.seek(first)
            end = first + search.end_around(source.read(2 * search.longest), at - first)
            if end == at:
                return at
            at = end

    def search(self, content: Content) -> _Search[bytes]:
        """What finds the secrets in bytes of a kind."""
        if (found := self._searches.get(content)) is None:
            found = self._searches[content] = self._make_search(content)
        return found

    def _make_search(self, content: Content) -> _Search[bytes]:
        if content is not Content.BINARY:
            mask = MASK.encode(content.encoding)
            # what begins with a byte order mark may go on as UTF-8: several programs write to one
            # log
            encodings = {Content.TEXT.encoding, content.encoding}
            return _Search(
                [group for one in encodings for group in _encoded(self._groups, one)],
                lambda _: mask,
            )
        long = [
            (core, kept)
            for core, forms in self._groups
            if (kept := {form for form in forms if len(form) >= LEAST_LINE})
        ]
        kinds = (Content.TEXT, Content.UTF_16_LE, Content.UTF_16_BE)
        groups = [group for kind in kinds for group in _encoded(long, kind.encoding)]
        return _Search(groups, lambda found: b"*" * len(found))


class Stream:
    """Passes a stream of bytes on, redacted also where a secret lies across pieces. Holds back what
    may be the beginning of one.
    """

    def __init__(self, search: _Search[bytes], listener: Callable[[bytes], None]) -> None:
        self._search = search
        self._listener = listener
        self._held = b""

    def write(self, data: bytes) -> None:
        search = self._search
        if not search.longest:
            self._listener(data)
            return
        data = self._held + data
        done, passed = 0, list[bytes]()
        undecided = search.undecided(data, 0)
        for start, end in search.matches(data):
            if start >= undecided:
                break
            passed += (data[done:start], search.mask(data[start:end]))
            done = end
            undecided = search.undecided(data, done) if done > undecided else undecided
        passed.append(data[done:undecided])
        self._held = data[undecided:]
        if out := b"".join(passed):
            self._listener(out)

    def close(self) -> None:
        """Pass on what was held back."""
        held, self._held = self._held, b""
        if held:
            self._listener(self._search.replace(held))


class _Search(Generic[AnyStr]):
    """Finds many texts at once.

    A text of many lines has hundreds of forms. No regular expression is quick with so many
    alternatives (6 MB/s); `find` is. Forms come in groups with a core, the part that all ways of
    writing leave alone: where the core is not, no form of the group is.
    """

    def __init__(
        self, groups: Iterable[tuple[AnyStr, Collection[AnyStr]]], mask: Callable[[AnyStr], AnyStr]
    ) -> None:
        self.mask: Callable[[AnyStr], AnyStr] = mask
        self._groups: list[tuple[AnyStr, list[AnyStr]]] = [
            (core, sorted(forms)) for core, forms in groups
        ]
        self.forms: list[AnyStr] = sorted(
            {form for _, forms in self._groups for form in forms},
            key=lambda form: (-len(form), form),
        )
        self.longest = len(self.forms[0]) if self.forms else 0
        self._beginnings: frozenset[AnyStr] = frozenset(
            form[:size] for form in self.forms for size in range(1, min(_OPENING, len(form)))
        )
        openings: dict[AnyStr, list[AnyStr]] = {}
        for form in self.forms:
            if len(form) > _OPENING:
                openings.setdefault(form[:_OPENING], []).append(form)
        self._openings: list[tuple[AnyStr, list[AnyStr]]] = list(openings.items())

    def matches(self, data: AnyStr) -> Iterator[tuple[int, int]]:
        """Where the texts lie, from left to right. Of several that begin at one place the longest:
        a shorter one would leave its end.
        """
        ahead = [
            (at, -len(form), form)
            for core, forms in self._groups
            if core in data
            for form in forms
            if (at := data.find(form)) >= 0
        ]
        heapify(ahead)
        done = 0
        while ahead:
            at, size, form = ahead[0]
            if at >= done:
                done = at - size
                yield at, done
            if (again := data.find(form, done)) >= 0:
                heapreplace(ahead, (again, size, form))
            else:
                heappop(ahead)

    def replace(self, data: AnyStr) -> AnyStr:
        parts: list[AnyStr] = []
        done = 0
        for start, end in self.matches(data):
            parts += (data[done:start], self.mask(data[start:end]))
            done = end
        parts.append(data[done:])
        return data[:0].join(parts)

    def undecided(self, data: AnyStr, start: int) -> int:
        """The first place from `start` on where a text may begin whose end is not in `data`."""
        end = first = len(data)
        for opening, forms in self._openings:
            at = data.find(opening, max(start, end - len(forms[0]) + 1))
            while 0 <= at < first:
                rest = data[at:]
                if any(len(form) > len(rest) and form.startswith(rest) for form in forms):
                    first = at
                at = data.find(opening, at + 1)
        return next(
            (
                at
                for at in range(max(start, end - _OPENING + 1), first)
                if data[at:] in self._beginnings
            ),
            first,
        )

    def end_around(self, data: AnyStr, at: int) -> int:
        """The end of the texts that lie across `at`; `at` itself when there are none."""
        ends = [
            found + len(form)
            for form in self.forms
            if (found := data.rfind(form, max(at - len(form) + 1, 0), at + len(form) - 1)) >= 0
        ]
        return max(ends, default=at)


def _parts(value: str) -> Iterator[str]:
    """What is searched of a value: all of it, and each of its lines that is long enough."""
    yield from (whole for whole in (value, value.strip()) if len(whole) >= LEAST_CHARACTERS)
    lines = [line.strip() for line in value.splitlines()]
    if len(lines) > 1:
        yield from (
            part
            for part in (*lines, *(between.join(lines) for between in ("\n", " ", "")))
            if len(part) >= LEAST_LINE
        )


def _core(part: str) -> str:
    """The longest piece of a text that no form writes in another way."""
    pieces: list[str] = re.findall(r"[A-Za-z0-9_.-]+", part)
    return max(pieces, key=len, default="")


def _forms(value: str) -> set[str]:
    """A value as it may be written."""
    as_json = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    as_json |= {form.replace("/", "\\/") for form in as_json}
    in_urls = {
        quote(value, safe="", errors="surrogateescape"),
        quote(value, errors="surrogateescape"),
        quote_plus(value, errors="surrogateescape"),
    }
    in_urls |= {re.sub("%..", lambda found: found[0].lower(), form) for form in in_urls}
    in_xml = {
        escape(value),
        escape(value, {'"': "&quot;"}),
        escape(value, {'"': "&quot;", "'": "&apos;"}),
        escape(value, {'"': "&quot;", "'": "&#39;"}),
    }
    in_xml.add(escape(value, {'"': "&quot;", "'": "&#x27;"}))
    in_xml |= {form.translate(spaces) for form in in_xml for spaces in _SPACES_IN_XML}
    return {value, value.replace("\n", "\r\n"), *as_json, *in_urls, *in_xml}


def _encoded(
    groups: Iterable[tuple[str, Collection[str]]], encoding: str
) -> list[tuple[bytes, set[bytes]]]:
    # variables of the environment hold bytes that are no UTF-8 as lone surrogates
    errors = "surrogateescape" if encoding == Content.TEXT.value else "surrogatepass"
    return [
        (core.encode(encoding), {form.encode(encoding, errors) for form in forms})
        for core, forms in groups
    ]


def _overlap(left: str, right: str, whole: int) -> int:
    """How many characters the end of `left` and the beginning of `right` have in common: at least
    4, and half of `whole`; else 0.

    Less is no secret, and a word like any other.
    """
    longest, least = min(len(left), len(right)), max(LEAST_CHARACTERS, (whole + 1) // 2)
    if (
        right[:LEAST_CHARACTERS] not in left[-longest:]
        or left[-LEAST_CHARACTERS:] not in right[:longest]
    ):
        return 0  # a key has many characters
    return next((size for size in range(longest, least - 1, -1) if left.endswith(right[:size])), 0)


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)
