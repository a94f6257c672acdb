"""Keeps the values of secret variables out of what leaves the agent: `redact` in the settings of a target. Pure.

Each value of at least 4 characters becomes `***`, as it stands and as JSON, URLs, XML and HTML write it. Other encodings (base64, hashes, pictures) are not
looked for: a test that prints its secrets in such a form gives them away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import BinaryIO
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

from msgspec.structs import replace

from qgjet.events import Outcome, TestError, TestResult, Try

MASK = "***"
LEAST_CHARACTERS = 4
"""Shorter values are everywhere: without them nothing would be left to read."""
PIECE_BYTES = 256 * 1024


class Redactor:
    """Replaces the secrets of one session."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        texts = {form for value in values if len(value) >= LEAST_CHARACTERS for form in _forms(value)}
        # the longest first: of two secrets that begin alike the shorter one would leave the end of the other
        self._texts = sorted(texts, key=lambda text: (-len(text), text))
        self.forms = sorted((text.encode("utf-8", "surrogateescape") for text in texts), key=lambda form: (-len(form), form))
        self._bytes = re.compile(b"|".join(map(re.escape, self.forms)))
        self._text = re.compile("|".join(map(re.escape, self._texts)))

    def __bool__(self) -> bool:
        """Whether there is anything to hide."""
        return bool(self.forms)

    def data(self, data: bytes) -> bytes:
        return self._bytes.sub(MASK.encode(), data) if self else data

    def text(self, text: str) -> str:
        """`text` without secrets, nor the larger half of one that a cut has left at its ends."""
        if not self or not text:
            return text
        text = self._text.sub(MASK, text)
        head = max(_overlap(form, text, len(form)) for form in self._texts)
        text = MASK + text[head:] if head else text
        whole = text.rstrip("…")
        tail = max(_overlap(whole, form, len(form)) for form in self._texts)
        return whole[:-tail] + MASK if tail else text

    def outcome(self, outcome: Outcome) -> Outcome:
        """`outcome` with every text in it redacted that a job could have written."""
        if not self:
            return outcome
        return replace(outcome, message=self.text(outcome.message), tests=tuple(map(self._test, outcome.tests)))

    def _test(self, test: TestResult) -> TestResult:
        return replace(test, id=self.text(test.id), title=self.text(test.title), file=self.text(test.file), tries=tuple(map(self._try, test.tries)))

    def _try(self, one: Try) -> Try:
        if one.error is None:
            return one
        return replace(one, error=TestError(message=self.text(one.error.message), file=self.text(one.error.file), line=one.error.line))

    def listener(self, listener: Callable[[bytes], None]) -> Stream:
        return Stream(self, listener)

    def copy(self, source: BinaryIO, target: BinaryIO) -> None:
        """Copy a file without its secrets."""
        stream = Stream(self, lambda data: _write(target, data))
        while piece := source.read(PIECE_BYTES):
            stream.write(piece)
        stream.close()


class Stream:
    """Passes a stream of bytes on, redacted also where a secret lies across pieces. Holds back what may be the beginning of one."""

    def __init__(self, redactor: Redactor, listener: Callable[[bytes], None]) -> None:
        self._redactor = redactor
        self._listener = listener
        self._held = b""
        self._longest = max(map(len, redactor.forms), default=0)
        self._first = frozenset(form[0] for form in redactor.forms)

    def write(self, data: bytes) -> None:
        if not self._redactor:
            self._listener(data)
            return
        data = self._held + data
        done, passed = 0, list[bytes]()
        undecided = self._undecided(data, 0)
        for match in self._redactor._bytes.finditer(data):
            if match.start() >= undecided:
                break
            passed += (data[done : match.start()], MASK.encode())
            done = match.end()
            undecided = self._undecided(data, done) if done > undecided else undecided
        passed.append(data[done:undecided])
        self._held = data[undecided:]
        if out := b"".join(passed):
            self._listener(out)

    def _undecided(self, data: bytes, start: int) -> int:
        """Where the first possible beginning of a secret lies that `data` does not hold the end of."""
        for place in range(max(start, len(data) - self._longest + 1), len(data)):
            if data[place] in self._first:
                rest = data[place:]
                if any(len(form) > len(rest) and form.startswith(rest) for form in self._redactor.forms):
                    return place
        return len(data)

    def close(self) -> None:
        """Pass on what was held back."""
        held, self._held = self._held, b""
        if held:
            self._listener(self._redactor.data(held))


def _forms(value: str) -> set[str]:
    """A value as it may be written."""
    as_json = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    as_json |= {form.replace("/", "\\/") for form in as_json}
    in_urls = {quote(value, safe="", errors="surrogateescape"), quote(value, errors="surrogateescape"), quote_plus(value, errors="surrogateescape")}
    in_urls |= {re.sub("%..", lambda found: found[0].lower(), form) for form in in_urls}
    in_xml = {escape(value), escape(value, {'"': "&quot;"}), escape(value, {'"': "&quot;", "'": "&apos;"}), escape(value, {'"': "&quot;", "'": "&#39;"})}
    in_xml |= {escape(value, {'"': "&quot;", "'": "&#x27;"}), *(form.replace("\n", "&#10;") for form in in_xml), value.replace("\n", "\r\n")}
    return {value, *as_json, *in_urls, *in_xml}


def _overlap(left: str, right: str, whole: int) -> int:
    """How many characters the end of `left` and the beginning of `right` have in common: at least 4, and half of `whole`; else 0.

    Less is no secret, and a word like any other.
    """
    longest, least = min(len(left), len(right)), max(LEAST_CHARACTERS, (whole + 1) // 2)
    if right[:LEAST_CHARACTERS] not in left[-longest:] or left[-LEAST_CHARACTERS:] not in right[:longest]:
        return 0  # a large report has many texts, and a key many characters
    return next((size for size in range(longest, least - 1, -1) if left.endswith(right[:size])), 0)


def _write(target: BinaryIO, data: bytes) -> None:
    target.write(data)
