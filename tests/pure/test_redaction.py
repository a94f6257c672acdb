"""Secrets are replaced, in every form that is promised and wherever a stream is cut."""

from __future__ import annotations

import io
import json
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet.agents.redaction import Redactor
from qgjet.events import Outcome, TestError, TestResult, Try, Verdict

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
    [HARD, json.dumps(HARD), json.dumps(HARD, ensure_ascii=False), quote(HARD), quote(HARD, safe=""), quote_plus(HARD), escape(HARD), quoteattr(HARD)],
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


@given(st.lists(words, min_size=1, max_size=4), st.lists(st.text("ab/%", max_size=9).map(str.encode), max_size=12))
def test_a_stream_is_redacted_like_the_whole_wherever_it_is_cut(secrets: list[str], pieces: list[bytes]) -> None:
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
    tries = (Try(status="failed", error=TestError(message="got secret1", file="secret1.js", line=3)), Try(status="passed"))
    before = Outcome(
        verdict=Verdict.FAILED, reason="tests_failed", message="no secret1", tests=(TestResult(id="secret1", title="t secret1", outcome="failed", tries=tries),)
    )
    after = Redactor(["secret1", "failed", "tests_failed"]).outcome(before)
    assert (after.verdict, after.reason, after.message) == (Verdict.FAILED, "tests_failed", "no ***")
    assert (after.tests[0].title, after.tests[0].outcome, after.tests[0].id) == ("t ***", "failed", "***")
    assert after.tests[0].tries[0].error == TestError(message="got ***", file="***.js", line=3)
    assert after.tests[0].tries[1] == tries[1]


def test_a_secret_that_was_cut_off_with_the_text_is_no_way_out() -> None:
    redactor = Redactor(["0123456789"])
    assert redactor.text("it is 012345") == "it is ***"
    assert redactor.text("it is 0123456…") == "it is ***"
    assert redactor.text("56789 it is") == "*** it is"
    assert redactor.text("it is 0123") == "it is 0123"
    assert redactor.text("0123456789") == "***"
