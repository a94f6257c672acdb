"""What is at fault for a failed try: the app, or something around it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qgjet.domain.events import Verdict
from qgjet.verdict.classification import heads_of
from qgjet.verdict.evidence import (
    ABOUT_THE_APP,
    FAILING,
    Blame,
    ErrorKind,
    Phase,
    ReportedError,
    TryEvidence,
)
from qgjet.verdict.patterns import Patterns, Sign, Swallowed
from qgjet.verdict.reasons import Reason

_NOT_VISIBLE = re.compile(r"^Expected: true\s+Received: false$", re.MULTILINE)
_UNKNOWN = Sign(Verdict.INFRA_ERROR, Reason.SESSION_LOST)
"""Of a swallowed error that the catalogue does not know: the screen was not checked, whatever the
cause.
"""


def blame_of(one: TryEvidence, patterns: Patterns) -> Blame | None:
    """What is at fault for a failed try instead of the app; None when the app is.

    The errors are read in their order. A failed assertion, or an error of the test's own code, is a
    statement about the
    app: what the clean-up reports after it changes nothing. An error of the tool ("not visible") or a time limit is
    weaker: a sign in a later error explains it, and so does a WebDriver error that AppWright swallowed.
    """
    found: Blame | None = None
    for error in _with_words(one.errors):
        if error.sign is not None:
            if found is None or error.sign.verdict is Verdict.INFRA_ERROR is not found.sign.verdict:
                found = Blame(error.sign, error.text)
        elif error.kind in ABOUT_THE_APP and (found is None or error.phase is Phase.BODY):
            # `expect(await element.isVisible()).toBe(true)` means no more than AppWright's own "not
            # visible"
            return (
                swallowed_blame(one, patterns)
                if found is None and _NOT_VISIBLE.search(error.text)
                else None
            )
    return found or swallowed_blame(one, patterns)


def blame_of_case(outcome: str, tries: Sequence[TryEvidence], patterns: Patterns) -> Blame | None:
    """See `ReportedCase.blame`. One failed try that the app is to blame for is enough for a failing
    case to be about the app.
    """
    if outcome in FAILING:
        found = [
            blame_of(one, patterns)
            for one in _tries_with_words(
                [one for one in tries if one.failed and not one.as_expected]
            )
        ]
        return found[-1] if found and all(found) else None
    good = [one for one in tries if one.as_expected]
    if outcome not in ("passed", "flaky") or not good:
        return None
    return _void(good[-1], patterns) if good[-1].failed else swallowed_blame(good[-1], patterns)


def blame_of_failed_tries(tries: Sequence[TryEvidence], patterns: Patterns) -> Blame | None:
    """What is at fault for all failed tries of a flaky case instead of the app; None when the app
    is for one.
    """
    found = [blame_of(one, patterns) for one in tries if one.failed and not one.as_expected]
    return found[-1] if found and all(found) else None


def _void(one: TryEvidence, patterns: Patterns) -> Blame | None:
    """Why an expected failure proves nothing: any sign in it, wherever it stands, or a clean-up
    that did not end.
    """
    for error in one.errors:
        if error.sign is not None:
            return Blame(error.sign, error.text)
    late = next((error for error in one.errors if error.kind is ErrorKind.TIME_LIMIT), None)
    if late is not None:
        return Blame(Sign(Verdict.INFRA_ERROR, Reason.TEARDOWN_FAILED), late.text)
    return swallowed_blame(
        TryEvidence(failed=True, as_expected=True, swallowed=one.swallowed), patterns
    )


def _tries_with_words(tries: list[TryEvidence]) -> list[TryEvidence]:
    """The tries that have a message; all of them when none does. Some tools report a failure twice,
    once without its message.
    """
    return [one for one in tries if any(error.heads for error in one.errors)] or tries


def _with_words(errors: tuple[ReportedError, ...]) -> list[ReportedError]:
    return [error for error in errors if error.heads] or list(errors)


def settled(outcome: str, tries: Sequence[TryEvidence], patterns: Patterns) -> str:
    """The outcome of a case, with what its tries prove.

    A pass that proves nothing does not settle a failure of the app, and a failure that the runner
    calls final is never an expected one.
    """
    if (
        outcome == "flaky"
        and blame_of_case(outcome, tries, patterns)
        and not blame_of_failed_tries(tries, patterns)
    ):
        return "failed"
    if outcome in ("passed", "flaky") and any(
        one.as_expected and one.failed and any(error.final for error in one.errors) for one in tries
    ):
        return "failed"
    return outcome


def cause_of_case(outcome: str, tries: Sequence[TryEvidence], patterns: Patterns) -> str:
    """See `ReportedCase.cause`."""
    failed = [one for one in tries if one.failed and not one.as_expected]
    if outcome not in FAILING or not failed or blame_of(failed[-1], patterns) is None:
        return ""
    about_the_app = [one for one in failed if blame_of(one, patterns) is None and one.errors]
    return about_the_app[-1].errors[0].text if about_the_app else ""


def swallowed_blame(one: TryEvidence, patterns: Patterns) -> Blame | None:
    """What a WebDriver error that AppWright printed instead of throwing means: the screen was not
    checked.
    """
    for line in one.swallowed:
        if not _about_another_element(line, one):
            sign = patterns.sign(heads_of(line.error)) or _UNKNOWN
            return Blame(sign, f"AppWright could not check an element: {line.error}")
    return None


def _about_another_element(line: Swallowed, one: TryEvidence) -> bool:
    """Whether the failure names its element, and the swallowed line another one."""
    named = [error.text for error in one.errors if "lement with path" in error.text]
    return bool(line.path and named) and not any(line.path in text for text in named)
