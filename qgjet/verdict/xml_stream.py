"""XML of any size, as test tools really write it, as a stream of elements. Pure but for the reads
of its source.

Repaired on the way, because it changes nothing of what the document means: log lines around it, a
wrong or missing name of the encoding, bytes of another encoding, characters that XML forbids, `&`
that stands for itself, a DOCTYPE that defines nothing. A document that defines its own entities is
refused. One that is not well-formed is read as far as lxml recovers it, and reported as damaged.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol
from xml.parsers import expat

from lxml import etree

PIECE_BYTES = 64 * 1024
MAX_TAG_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 200_000
MAX_PROLOG_CHARS = 64 * 1024 * 1024
"""Log lines in front of the document."""
_HELD_CHARS = 256
_TAIL_CHARS = 4096
"""Of what stands in front of the document, where a DOCTYPE is looked for."""

_ROOT = re.compile(r"<(?:[\w.-]+:)?testsuites?(?=[\s/>])")
_BEGINNING = re.compile(
    r"<\?xml\s|<(?:[\w.-]+:)?t(?:e(?:s(?:t(?:s(?:u(?:i(?:t(?:e(?:s)?)?)?)?)?)?)?)?)?\Z"
)
_ENTITY = re.compile(r"<!ENTITY\b")
_DOCTYPE = re.compile(r"<!DOCTYPE\b([^>]*)>?(?:\s|<!--.*?-->|<\?.*?\?>)*\Z", re.DOTALL)
_INTERNAL_SUBSET = re.compile(r"\[|\bSYSTEM\b|\bPUBLIC\b")
_ANSI = re.compile(r"(?:\x1b|&#(?:0*27|[xX]0*1[bB]);)(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])?")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REFERENCE = re.compile(r"&#(?:(\d{1,7})|[xX]([0-9a-fA-F]{1,6}));")
_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")
_DECLARATION = re.compile(r"<\?xml\b[^>]{0,200}\?>")
_DECLARED = re.compile(rb"""<\?xml[^>]{0,200}?\bencoding\s*=\s*["']([\w.:-]{1,40})["']""")
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>")
_HOLD = re.compile(r"[<&\x1b\]]")

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_BOMS_16 = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class XmlError(ValueError):
    """The bytes are no document that can be read."""


class Handler(Protocol):
    """Gets what is found, in the order of the document. Names are without their namespace prefix."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def text(self, text: str) -> None: ...

    def end(self, name: str) -> None: ...


def walk(source: BinaryIO, make: Callable[[], Handler]) -> tuple[Handler, str]:
    """Walk through the documents in `source` that have a `testsuite` or `testsuites` as their root.

    Args:
        source: Opened at its beginning, and seekable.
        make: Makes a handler. It is called again when the document turns out not to be well-formed.

    Returns:
        The handler, and what is damaged in the document; an empty text for a whole one.

    Raises:
        XmlError: There is no such document, or it may not be read.
    """
    source.seek(0)
    walker = _Walker(make())
    try:
        for text in _texts(source):
            walker.feed(text)
        return walker.handler, walker.finish()
    except _NotWellFormed as error:
        source.seek(0)
        return _recovered(source, make()), f"it is not well-formed: {error}"


class _NotWellFormed(Exception):
    pass


class _Walker:
    """Feeds the documents of one text to expat, and passes what stands around them."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self._parser: Any = None
        self._depth = 0
        self._seen_root = False
        self._fed = 0
        self._before = ""
        self._passed = 0
        self._found = 0
        self._clean = _Sanitizer()

    def feed(self, text: str) -> None:
        while text:
            if self._parser is None:
                text = self._start(text)
                if self._parser is None:
                    return
            text = self._parse(self._clean.piece(text))

    def finish(self) -> str:
        while self._parser is not None:
            rest = self._parse(self._clean.rest())
            if self._parser is not None:
                return "it ends in the middle"
            self.feed(rest)
        if not self._found:
            raise XmlError("it has no <testsuites> or <testsuite>")
        return (
            "another document begins behind it and does not end"
            if _BEGINNING.search(self._before)
            else ""
        )

    def _start(self, text: str) -> str:
        """Look for the root of the next document. What stands in front of it is passed."""
        self._before += text
        found = _ROOT.search(self._before)
        if found is None:
            self._passed += len(text)
            if _ENTITY.search(self._before):
                raise XmlError("it has a DTD")
            if self._passed > MAX_PROLOG_CHARS:
                raise XmlError("it has no <testsuites> or <testsuite>")
            self._before = self._before[-_TAIL_CHARS:]
            return ""
        _refuse_dtd(self._before[: found.start()])
        rest, self._before = self._before[found.start() :], ""
        self._found += 1
        self._depth = self._fed = 0
        self._seen_root = False
        self._clean = _Sanitizer()
        self._parser = parser = expat.ParserCreate(encoding="utf-8")
        parser.buffer_text = True
        parser.ordered_attributes = False
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        parser.CharacterDataHandler = self.handler.text
        return rest

    def _parse(self, text: str) -> str:
        """Feed a piece. Returns what follows the document, when it ended in this piece."""
        data = text.encode("utf-8", "replace")
        try:
            self._parser.Parse(data, False)
        except expat.ExpatError as error:
            if self._depth or not self._seen_root:
                raise _NotWellFormed(str(error)) from None
            offset = max(self._parser.ErrorByteIndex - self._fed, 0)
            self._parser = None
            return data[offset:].decode("utf-8", "replace") + self._clean.rest()
        self._fed += len(data)
        if self._fed - max(self._parser.CurrentByteIndex, 0) > MAX_TAG_BYTES:
            raise XmlError(f"it has a tag of more than {MAX_TAG_BYTES} bytes")
        if self._seen_root and self._depth == 0:
            self._parser = None
            return self._clean.rest()
        return ""

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._seen_root = True
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise XmlError(f"it is nested deeper than {MAX_DEPTH} levels")
        self.handler.start(_local(name), {_local(key): value for key, value in attributes.items()})

    def _on_end(self, name: str) -> None:
        self._depth -= 1
        self.handler.end(_local(name))


def _local(name: str) -> str:
    return name.rsplit(":", 1)[-1]


def _refuse_dtd(before: str) -> None:
    """Raises XmlError when what stands in front of the root defines anything, or has it fetched."""
    found = _DOCTYPE.search(before[-_TAIL_CHARS:])
    if _ENTITY.search(before) or (found is not None and _INTERNAL_SUBSET.search(found[1])):
        raise XmlError("it has a DTD")


class _Sanitizer:
    """Makes the pieces of one document legal XML."""

    def __init__(self) -> None:
        self._held = ""
        self._in_cdata = False

    def piece(self, text: str) -> str:
        """The next piece, but for the end of it that may be the beginning of something."""
        text = self._held + text
        found = _HOLD.search(text, max(len(text) - _HELD_CHARS, 0))
        cut = found.start() if found else len(text)
        text, self._held = text[:cut], text[cut:]
        return self._legal(text)

    def rest(self) -> str:
        text, self._held = self._held, ""
        return self._legal(text)

    def _legal(self, text: str) -> str:
        """`text` with only legal characters and references; in CDATA `&` is a character like
        others.
        """
        legal, start = [], 0
        for mark in _CDATA.finditer(text):
            opens = mark[0] != "]]>"
            if opens is self._in_cdata:
                continue
            legal += [self._segment(text[start : mark.start()]), mark[0]]
            self._in_cdata, start = opens, mark.end()
        legal.append(self._segment(text[start:]))
        return "".join(legal)

    def _segment(self, text: str) -> str:
        text = _FORBIDDEN.sub("", _ANSI.sub("", text))
        if self._in_cdata or ("&" not in text and "<?" not in text):
            return text
        text = _REFERENCE.sub(_legal_reference, _DECLARATION.sub("", text))
        return _BARE_AMPERSAND.sub("&amp;", text)


def _legal_reference(found: re.Match[str]) -> str:
    number = int(found[1]) if found[1] else int(found[2], 16)
    legal = (
        number <= 0x10FFFF and not 0xD800 <= number <= 0xDFFF and not _FORBIDDEN.match(chr(number))
    )
    return found[0] if legal else ""


# -- bytes to text ---------------------------------------------------------------------------------------------------


def _texts(source: BinaryIO) -> Iterator[str]:
    """The text of `source`. The bytes decide which encoding it has, and the declaration where they
    leave it open.
    """
    first = source.read(PIECE_BYTES)
    encoding, skip, fallback = _encoding(first)
    decoder = codecs.getincrementaldecoder(encoding)(
        _handler(fallback) if encoding == "utf-8" else "replace"
    )
    yield decoder.decode(first[skip:])
    while piece := source.read(PIECE_BYTES):
        yield decoder.decode(piece)
    yield decoder.decode(b"", True)


def _encoding(first: bytes) -> tuple[str, int, str]:
    """The encoding, the length of the byte order mark, and the encoding of bytes that are no UTF-8."""
    for bom, name in (*_BOMS, *_BOMS_16):
        if first.startswith(bom):
            return name, len(bom), "cp1252"
    start = first.lstrip(b" \t\r\n")[:64]
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        if "<".encode(name) == start[: len("<".encode(name))] and b"\0" in start[:4]:
            return name, 0, "cp1252"
    if b"\0" in first[:64] and first[:64].count(b"\0") >= len(first[:64]) // 3:
        return ("utf-16-be" if first[:1] == b"\0" else "utf-16-le"), 0, "cp1252"
    found = _DECLARED.search(first)
    declared = _known(found[1].decode("ascii").lower()) if found else ""
    if not declared or declared.startswith(("utf", "ascii")):
        return "utf-8", 0, "cp1252"
    if declared.startswith(("iso8859", "cp125", "latin", "koi8", "mac")):
        return "utf-8", 0, declared
    return declared, 0, "cp1252"


def _known(name: str) -> str:
    """Python's name of a text encoding that a document may declare; empty for an unknown one, or
    one that is not like ASCII.
    """
    try:
        info = codecs.lookup(name)
        return info.name if "<?xml a".encode(info.name) == b"<?xml a" else ""
    except (LookupError, UnicodeError, TypeError, AttributeError):
        return ""


def _handler(fallback: str) -> str:
    """An error handler that takes bytes that are no UTF-8 for `fallback`."""
    name = f"qgjet.{fallback}"
    try:
        codecs.lookup_error(name)
    except LookupError:

        def replace(error: UnicodeError) -> tuple[str, int]:
            assert isinstance(error, UnicodeDecodeError)
            return error.object[error.start : error.end].decode(fallback, "replace"), error.end

        codecs.register_error(name, replace)
    return name


# -- what is not well-formed -------------------------------------------------------------------------------------------


def _recovered(source: BinaryIO, handler: Handler) -> Handler:
    """Walk through what lxml can recover of a document that is not well-formed."""
    # no network, no DTD, no entities: what could be fetched or expanded was refused before
    parser = etree.XMLParser(
        target=_Target(handler),
        recover=True,
        no_network=True,
        resolve_entities=False,
        huge_tree=True,
    )
    sanitizer, before, started = _Sanitizer(), "", False
    try:
        for text in _texts(source):
            if not started:
                before += text
                found = _ROOT.search(before)
                if found is None:
                    before = before[-_TAIL_CHARS:]
                    continue
                started, text = True, before[found.start() :]
            parser.feed(sanitizer.piece(text).encode("utf-8", "replace"))
        parser.feed(sanitizer.rest().encode("utf-8", "replace"))
        parser.close()
    except (etree.LxmlError, ValueError, AssertionError) as error:
        if isinstance(error, XmlError):
            raise
    return handler


class _Target:
    """What lxml calls."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._depth = 0

    def start(self, tag: str | bytes, attrib: Any) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise XmlError(f"it is nested deeper than {MAX_DEPTH} levels")
        self._handler.start(_bare(tag), {_bare(key): str(value) for key, value in attrib.items()})

    def end(self, tag: str | bytes) -> None:
        self._depth -= 1
        self._handler.end(_bare(tag))

    def data(self, data: str | bytes) -> None:
        self._handler.text(data if isinstance(data, str) else data.decode("utf-8", "replace"))

    def comment(self, text: str | bytes) -> None:
        return

    def close(self) -> None:
        return


def _bare(name: str | bytes) -> str:
    text = name if isinstance(name, str) else name.decode("utf-8", "replace")
    return _local(text.rsplit("}", 1)[-1])
