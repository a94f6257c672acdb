"""Secrets are replaced, in every form that is promised and wherever a stream is cut."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet.domain.events import Outcome, TestError, TestResult, Try, Verdict
from qgjet.runners.redaction import (
    LEAST_LINE,
    PIECE_BYTES,
    Content,
    Redactor,
    _core,
    _forms,
    content_of,
)

KEY = "-----BEGIN TEST KEY-----\nMIIBVAIBADANBgkqhkiG9w0BAQEFAASC\nqN3x7vJp0Zs8/T2mKf4u+o1Lr6Bd9wQe\nWm8=\n-----END TEST KEY-----\n"
HARD = "p\"a\\s/s w&rd<é>'%+\n1"


def streamed(redactor: Redactor, pieces: list[bytes]) -> bytes:
    out = bytearray()
    stream = redactor.listener(out.extend)
    for piece in pieces:
        stream.write(piece)
    stream.close()
    return bytes(out)


@pytest.mark.parametrize(
    "form",
    [
        HARD,
        json.dumps(HARD),
        json.dumps(HARD, ensure_ascii=False),
        quote(HARD),
        quote(HARD, safe=""),
        quote_plus(HARD),
        escape(HARD),
        quoteattr(HARD),
    ],
)
def test_a_secret_is_found_as_json_urls_and_xml_write_it(form: str) -> None:
    redactor = Redactor([HARD])
    out = redactor.data(f"<<{form}>>".encode()).decode()
    assert "***" in out
    assert len(out) <= len('<<"***">>')
    assert redactor.text(f"<<{form}>>") == out


def test_the_longest_goes_first() -> None:
    redactor = Redactor(["abcd", "abcdefgh", "cdef"])
    assert redactor.data(b"abcdefgh abcd cdef abcdef") == b"*** *** *** ***ef"


def test_short_values_and_none_leave_everything_as_it_is() -> None:
    for redactor in (Redactor(["abc", ""]), Redactor()):
        assert not redactor
        assert redactor.data(b"abc") == b"abc"
        assert redactor.text("abc") == "abc"
        assert streamed(redactor, [b"a", b"bc"]) == b"abc"


def test_what_cannot_be_a_secret_is_passed_on_at_once() -> None:
    out = bytearray()
    stream = Redactor(["secret"]).listener(out.extend)
    stream.write(b"line\nsec")
    assert out == b"line\n"
    stream.write(b"ond\nsecre")
    assert out == b"line\nsecond\n"
    stream.write(b"t\n")
    assert out == b"line\nsecond\n***\n"


def test_the_longer_of_two_is_waited_for() -> None:
    assert streamed(Redactor(["abcd", "abcdefgh"]), [b"abcd", b"ef", b"gh!"]) == b"***!"
    assert streamed(Redactor(["abcd", "abcdefgh"]), [b"abcd", b"ef!"]) == b"***ef!"


words = st.text("ab/%", min_size=4, max_size=7)


@given(
    st.lists(words, min_size=1, max_size=4),
    st.lists(st.text("ab/%", max_size=9).map(str.encode), max_size=12),
)
def test_a_stream_is_redacted_like_the_whole_wherever_it_is_cut(
    secrets: list[str], pieces: list[bytes]
) -> None:
    redactor = Redactor(secrets)
    assert streamed(redactor, pieces) == redactor.data(b"".join(pieces))


@given(st.binary(max_size=200), st.integers(1, 7))
def test_bytes_of_any_kind_pass(data: bytes, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert streamed(Redactor(["secret"]), pieces) == data.replace(b"secret", b"***")


def test_a_copy_of_a_large_file_is_redacted() -> None:
    source = io.BytesIO((b"x" * 1000 + b"secret") * 2000)
    target = io.BytesIO()
    Redactor(["secret"]).copy(source, target)
    assert target.getvalue() == (b"x" * 1000 + b"***") * 2000


def test_the_texts_of_an_outcome_are_redacted() -> None:
    tries = (
        Try(status="failed", error=TestError(message="got secret1", file="secret1.js", line=3)),
        Try(status="passed"),
    )
    before = Outcome(
        verdict=Verdict.FAILED,
        reason="tests_failed",
        message="no secret1",
        tests=(TestResult(id="secret1", title="t secret1", outcome="failed", tries=tries),),
    )
    after = Redactor(["secret1", "failed", "tests_failed"]).outcome(before)
    assert (after.verdict, after.reason, after.message) == (
        Verdict.FAILED,
        "tests_failed",
        "no ***",
    )
    assert (after.tests[0].title, after.tests[0].outcome, after.tests[0].id) == (
        "t ***",
        "failed",
        "***",
    )
    assert after.tests[0].tries[0].error == TestError(message="got ***", file="***.js", line=3)
    assert after.tests[0].tries[1] == tries[1]


def test_a_secret_that_was_cut_off_with_the_text_is_no_way_out() -> None:
    redactor = Redactor(["0123456789"])
    assert redactor.text("it is 012345") == "it is ***"
    assert redactor.text("it is 0123456…") == "it is ***"
    assert redactor.text("56789 it is") == "*** it is"
    assert redactor.text("it is 0123") == "it is 0123"
    assert redactor.text("0123456789") == "***"


# -- values with several lines -----------------------------------------------------------------------------------------

FORMS = {
    "block": lambda key: key,
    "prefixed": lambda key: "".join(f"12:00:01 [key] {line}\n" for line in key.splitlines()),
    "indented": lambda key: "key: |\n" + "".join(f"\t  {line}  \n" for line in key.splitlines()),
    "joined by nothing": lambda key: key.replace("\n", ""),
    "joined by spaces": lambda key: key.replace("\n", " "),
    "joined by a written line break": lambda key: key.replace("\n", "\\n"),
    "carriage returns": lambda key: key.replace("\n", "\r\n"),
    "JSON": json.dumps,
    "JSON of an indented key": lambda key: json.dumps(key.replace("\n", "\n  ")),
    "JSON with escaped slashes": lambda key: json.dumps(key).replace("/", "\\/"),
    "URL": quote,
    "form": quote_plus,
    "XML": lambda key: quoteattr(key).replace("\n", "&#xA;"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_line_of_a_key_is_left_however_it_is_written(form: Callable[[str], str]) -> None:
    redactor = Redactor([KEY])
    written = form(KEY)
    out = redactor.data(written.encode()).decode()
    assert "***" in out
    for line in KEY.split():
        assert line == "Wm8=" or line not in out
    assert "MIIB" not in out
    assert "Zs8" not in out, "part of a line that JSON and URLs write differently"
    assert redactor.text(written).replace(" ", "") == out.replace(" ", "")
    assert (
        streamed(redactor, [written[at : at + 7].encode() for at in range(0, len(written), 7)])
        == out.encode()
    )


def test_a_key_that_is_printed_whole_becomes_one_mask() -> None:
    assert Redactor([KEY]).data(f"key:\n{KEY}end\n".encode()) == b"key:\n***end\n"
    assert Redactor([KEY]).text(f"key: {KEY.strip()}!") == "key: ***!"
    assert Redactor(["secret\n"]).text("it is secret!") == "it is ***!", (
        "a file that was read with the end of its line"
    )


def test_short_lines_are_found_together_only() -> None:
    redactor = Redactor(["ab12\ncd34\nef56"])
    assert (
        redactor.text("ab12 cd34 ef56, ab12cd34ef56, ab12\n  cd34, ef56!")
        == "***, ***, ab12\n  cd34, ef56!"
    )


line = st.text("abAB12/+= \t\"'<&%\\é", max_size=20)
secrets_of_lines = st.builds(
    lambda lines, end: end.join(lines),
    st.lists(line, min_size=2, max_size=6),
    st.sampled_from(["\n", "\r\n"]),
)
WRITTEN = (
    lambda text: text,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: quote(text),
    lambda text: quote(text, safe=""),
    lambda text: quote_plus(text),
    lambda text: escape(text),
    lambda text: quoteattr(text)[1:-1],
)


@given(
    secrets_of_lines,
    st.sampled_from(["", "    ", "12:00 [key] ", "\t| "]),
    st.sampled_from(["\n", "\r\n", " ", "", "\\n", ", "]),
    st.sampled_from(WRITTEN),
    st.integers(1, 40),
)
def test_no_line_of_any_secret_is_left(
    secret: str, before: str, between: str, written: Callable[[str], str], size: int
) -> None:
    lines = [one.strip() for one in secret.splitlines()]
    text = written("begin\n" + between.join(before + one for one in lines) + "\nend")
    redactor = Redactor([secret])
    data = text.encode()
    out = redactor.data(data).decode()
    for one in lines:
        if len(one) >= LEAST_LINE:
            assert one not in out
            assert written(one) not in out
            assert written(one) not in redactor.text(text)
    assert (
        streamed(redactor, [data[at : at + size] for at in range(0, len(data), size)])
        == out.encode()
    )
    for encoding in ("utf-16-le", "utf-32-be"):
        assert redactor.data(text.encode(encoding), Content(encoding)).decode(encoding) == out


@given(st.text("abAB12/+=_ \n\"'<&%\\é😀", max_size=30))
def test_every_way_to_write_a_text_leaves_its_core_alone(text: str) -> None:
    assert all(_core(text) in form for form in _forms(text))


# -- content types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "content"),
    [
        (b"", Content.TEXT),
        (b"plain text", Content.TEXT),
        (b"\xef\xbb\xbfwith a mark", Content.TEXT),
        ("äöü".encode("latin-1"), Content.TEXT),
        (b"\x1b[31mred", Content.TEXT),
        ("text".encode("utf-16"), Content.UTF_16_LE),
        (b"\xfe\xff" + "text".encode("utf-16-be"), Content.UTF_16_BE),
        ("text".encode("utf-32"), Content.UTF_32_LE),
        (b"\0\0\xfe\xff" + "text".encode("utf-32-be"), Content.UTF_32_BE),
        (b"\x89PNG\r\n\x1a\n", Content.MEDIA),
        (b"\xff\xd8\xff\xe0", Content.MEDIA),
        (b"PK\x03\x04...", Content.MEDIA),
        (b"\x1f\x8b\x08...", Content.MEDIA),
        (b"\x1a\x45\xdf\xa3...", Content.MEDIA),
        (b"\0\0\0\x20ftypisom", Content.MEDIA),
        (b"PKI is no archive", Content.TEXT),
        (b"a\0b", Content.BINARY),
        (b"x" * 65535 + b"\0", Content.BINARY),
        (b"x" * 65536 + b"\0", Content.TEXT),
    ],
)
def test_the_content_decides_how_a_file_is_redacted(head: bytes, content: Content) -> None:
    assert content_of(head) is content


def test_a_log_is_text_whatever_was_printed() -> None:
    for head in (b"a\0b", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"):
        assert content_of(head, is_text=True) is Content.TEXT
    assert content_of("text".encode("utf-16"), is_text=True) is Content.UTF_16_LE


def test_text_after_a_byte_order_mark_is_redacted_in_both_encodings() -> None:
    out = Redactor(["secret12"]).data(
        b"\xff\xfe" + "secret12,".encode("utf-16-le") + b"secret12", Content.UTF_16_LE
    )
    assert out == b"\xff\xfe" + "***,***".encode("utf-16-le")


def test_in_a_binary_file_nothing_moves() -> None:
    redactor = Redactor(["secret12", "abcd"])
    data = b"\0abcd\0secret12\1" + "secret12".encode("utf-16-le") + b"\0\1"
    assert redactor.data(data, Content.BINARY) == b"\0abcd\0********\1" + b"*" * 16 + b"\0\1"


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_copy_asks_before_each_piece_whether_it_is_needed() -> None:
    class Unneeded(Exception):
        pass

    pieces = iter(range(3))

    def check() -> None:
        if next(pieces) == 2:
            raise Unneeded

    source, target = io.BytesIO(b"x" * 10 * PIECE_BYTES), io.BytesIO()
    with pytest.raises(Unneeded):
        Redactor(["secret"]).copy(source, target, check=check)
    assert source.tell() == len(target.getvalue()) == 2 * PIECE_BYTES


def test_a_copy_reads_no_more_than_it_is_told() -> None:
    target = io.BytesIO()
    Redactor(["secret"]).copy(io.BytesIO(b"a secret, and more"), target, size=8)
    assert target.getvalue() == b"a ***"


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0, 0),
        (2, 2),
        (3, 8),
        (7, 8),
        (8, 8),
        (9, 9),
        (10, 23),
        (16, 23),
        (17, 23),
        (22, 23),
        (23, 23),
        (25, 25),
    ],
)
def test_a_cut_goes_around_a_secret(at: int, expected: int) -> None:
    """Also around one that lies across the end of another."""
    data = b"a secret secondndfourth !"
    redactor = Redactor(["secret", "secondnd", "ndfourth"])
    assert redactor.boundary(io.BytesIO(data), at) == expected
    assert Redactor().boundary(io.BytesIO(data), at) == at
