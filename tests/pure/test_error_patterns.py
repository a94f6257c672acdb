"""The catalogue of errors that are not about the app: every entry does what its examples say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from qgjet.domain.events import Verdict
from qgjet.errors import InvalidSettings
from qgjet.verdict.classification import classify
from qgjet.verdict.evidence import CommandEvidence, ErrorKind
from qgjet.verdict.patterns import Sign, catalogue, default_patterns, patterns_with
from qgjet.verdict.reasons import Reason
from qgjet.verdict.rules import command_outcome

PATTERNS = default_patterns()
KNOWN = [(one, example) for one in catalogue()["pattern"] for example in one["examples"]]
OF_THE_APP = (
    "banner shows Session is either terminated or not started",
    "the page shows socket hang up, not Thank you",
    "the app says ECONNRESET",
    'Failed to tap: Element "//*[contains(@text, "ETIMEDOUT")]" not visible',
    'Element with path "textContains("ETIMEDOUT")" not visible',
    "socket hang up is not Thank you",
    "connect ECONNREFUSED 127.0.0.1:4723 is shown instead of Welcome",
    'Assertion is false: "Session is either terminated or not started" is not visible',
    "Device offline banner is missing",
    "Connection refused is what the banner says",
    "Network error shown to the user",
    "Payment timed out",
    "Timed out waiting for the cart",
    "session expired",
    "Login failed: invalid credentials",
    "Could not find product in cart",
    "Unable to find element with text Pay",
    "Unauthorized is shown to a user who is signed in",
    "the list has no devices",
    "503 items in the cart, not 3",
)


@pytest.mark.parametrize(
    ("known", "example"), KNOWN, ids=lambda value: value[:60] if isinstance(value, str) else ""
)
def test_an_example_shows_what_its_pattern_says(known: dict[str, Any], example: str) -> None:
    found = classify(example, patterns=PATTERNS)
    assert found.sign == Sign(Verdict(known["verdict"]), Reason(known["reason"])), found


def test_every_pattern_has_a_source_and_an_example() -> None:
    for table in ("pattern", "tool", "swallowed", "benign", "final"):
        for one in catalogue()[table]:
            assert one["source"]
            assert one["examples"]
    assert {one["verdict"] for one in catalogue()["pattern"]} == {"infra_error", "config_error"}


def test_no_pattern_matches_every_text() -> None:
    for table, key in (
        ("pattern", "head"),
        ("tool", "head"),
        ("final", "head"),
        ("benign", "error"),
        ("swallowed", "line"),
    ):
        assert [
            one[key] for one in catalogue()[table] if re.match(one[key], "boom", re.MULTILINE)
        ] == []


@pytest.mark.parametrize(
    "example", [example for one in catalogue()["tool"] for example in one["examples"]]
)
def test_an_error_of_the_tool_itself_is_no_sign(example: str) -> None:
    found = classify(example, patterns=PATTERNS)
    assert found.sign is None
    assert found.kind in (ErrorKind.TOOL, ErrorKind.TIME_LIMIT, ErrorKind.ASSERTION)


@pytest.mark.parametrize(
    "line", [example for one in catalogue()["swallowed"] for example in one["examples"]]
)
def test_a_line_of_a_swallowed_error_is_recognised(line: str) -> None:
    assert PATTERNS.swallowed(line) is not None
    assert PATTERNS.swallowed(f"> {line}") is None


@pytest.mark.parametrize(
    "error", [example for one in catalogue()["benign"] for example in one["examples"]]
)
def test_an_answer_about_the_screen_is_benign(error: str) -> None:
    assert PATTERNS.is_benign(error)
    assert PATTERNS.sign((error,)) is None


def test_a_missing_snapshot_is_final() -> None:
    for one in catalogue()["final"]:
        for example in one["examples"]:
            assert classify(example, patterns=PATTERNS).final


@pytest.mark.parametrize("text", OF_THE_APP)
@pytest.mark.parametrize(
    "prefix", ["", "Error: ", "java.lang.RuntimeException: ", "E   Exception: "]
)
def test_words_of_the_app_are_no_sign(text: str, prefix: str) -> None:
    assert classify(prefix + text, patterns=PATTERNS).sign is None


@pytest.mark.parametrize(
    ("_", "example"), KNOWN, ids=lambda value: value[:60] if isinstance(value, str) else ""
)
def test_a_sign_inside_a_sentence_or_an_assertion_is_none(_: dict[str, Any], example: str) -> None:
    first = example.split("\n")[0]
    for text in (
        f"the banner shows {first}",
        f"AssertionError: {first}",
        f"expected '{first}' to equal 'Welcome'",
        f"expect(received).toBe(expected)\n\n{first}",
    ):
        assert classify(text, patterns=PATTERNS).sign is None, text


class TestPatternsOfAUser:
    JUNIT = b'<testsuite><testcase name="t"><failure message="%s"/></testcase></testsuite>'

    def verdict(self, message: bytes, **own: tuple[str, ...]) -> tuple[Verdict, str]:
        patterns = patterns_with(own.get("infra", ()), own.get("config", ()))
        outcome = command_outcome(
            CommandEvidence(
                exit_code=1,
                junit=self.JUNIT % message,
                junit_due=True,
                duration_s=1,
                project_dir="/p",
                patterns=patterns,
            )
        )
        return outcome.verdict, outcome.reason

    def test_they_are_matched_at_the_head_of_an_error(self) -> None:
        own = ("FarmLink: cable \\d+ is loose",)
        assert self.verdict(b"FarmLink: cable 7 is loose") == (Verdict.FAILED, "tests_failed")
        assert self.verdict(b"FarmLink: cable 7 is loose", infra=own) == (
            Verdict.INFRA_ERROR,
            "known_infra",
        )
        assert self.verdict(b"the page shows FarmLink: cable 7 is loose", infra=own) == (
            Verdict.FAILED,
            "tests_failed",
        )
        assert self.verdict(b"AssertionError: FarmLink: cable 7 is loose", infra=own) == (
            Verdict.FAILED,
            "tests_failed",
        )
        assert self.verdict(b"FarmLink: cable 7 is loose", config=own) == (
            Verdict.CONFIG_ERROR,
            "bad_config",
        )

    @pytest.mark.parametrize("pattern", ["(", ".*", "", "x|", "(?P<p0>a)", "a{99999999999}"])
    def test_one_that_cannot_be_used_is_refused_by_its_key(self, pattern: str) -> None:
        with pytest.raises(InvalidSettings) as refused:
            patterns_with((pattern,))
        assert refused.value.field == "verdicts.infra"
