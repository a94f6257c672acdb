"""What must not change a verdict, and what must never make one greener."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pure.test_verdicts import (
    PASS,
    a_report,
    a_suite,
    a_test,
    a_try,
    an_error,
    judge,
    judge_command,
)
from qgjet.domain.events import PASSING, Verdict
from qgjet.verdict.classification import classify
from qgjet.verdict.patterns import catalogue, default_patterns

KNOWN = [
    example
    for one in catalogue()["pattern"]
    for example in one["examples"]
    if not example.startswith("SyntaxError: ")
]
"""Without syntax errors: one that a test raises itself is of a text that it parsed."""
ASSERTIONS = [
    "Error: expect(received).toBe(expected)\n\nExpected: 42\nReceived: 41",
    "AssertionError: 'ECONNREFUSED' == 'Connected'",
    "AssertionError [ERR_ASSERTION]: device offline",
    "Error: the total is wrong\n\nexpect(received).toEqual(expected)",
    "Error: the banner shows socket hang up",
    "Error: the app says ECONNRESET\n\nCall Log:\n- Timeout 300ms exceeded while waiting on the predicate",
]
TOOLS = [
    'Error: Element with path "text(Pay)" not visible',
    "Test timeout of 2000ms exceeded.",
    "Error: Element was not found on the screen",
]
WORDS = st.sampled_from(
    [
        *KNOWN,
        "ECONNREFUSED",
        "device offline",
        "SyntaxError: x",
        "No tests found",
        "expect(received).toBe(expected)",
    ]
)
MESSAGES = st.sampled_from([*KNOWN, *ASSERTIONS, *TOOLS, "Error: boom"])
STATUSES = {"passed": "passed", "failed": "failed", "timedOut": "failed"}
CHEAP = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ORDER = [
    {Verdict.PASSED},
    {Verdict.FLAKY, Verdict.SKIPPED},
    {
        Verdict.FAILED,
        Verdict.TIMED_OUT,
        Verdict.INFRA_ERROR,
        Verdict.CONFIG_ERROR,
        Verdict.CANCELLED,
    },
]


def greenness(verdict: Verdict) -> int:
    return next(index for index, verdicts in enumerate(ORDER) if verdict in verdicts)


@st.composite
def some_tests(draw: st.DrawFn) -> list[dict[str, Any]]:
    tests = []
    for index in range(draw(st.integers(1, 4))):
        tries = []
        for _ in range(draw(st.integers(1, 2))):
            failed = draw(st.booleans())
            tries.append(
                a_try("failed", *draw(st.lists(MESSAGES, min_size=1, max_size=2)))
                if failed
                else a_try()
            )
            if not failed:
                break
        tests.append(a_test(*tries, title=f"t{index}"))
    return tests


def exit_code_of(tests: list[dict[str, Any]]) -> int:
    return int(any(test["tests"][0]["status"] == "unexpected" for test in tests))


def counted(tests: list[dict[str, Any]]) -> dict[str, int]:
    statuses = [test["tests"][0]["status"] for test in tests]
    return {name: statuses.count(name) for name in ("expected", "unexpected", "flaky", "skipped")}


def verdict_of(tests: list[dict[str, Any]], **more: Any) -> Verdict:
    return judge(
        a_report(a_suite(*tests), stats=more.pop("stats", counted(tests))),
        more.pop("exit_code", exit_code_of(tests)),
        **more,
    ).verdict


@CHEAP
@given(tests=some_tests(), words=st.lists(WORDS, min_size=1, max_size=3))
def test_what_a_test_prints_changes_no_verdict(
    tests: list[dict[str, Any]], words: list[str]
) -> None:
    chatty = copy.deepcopy(tests)
    for test in chatty:
        for one in test["tests"][0]["results"]:
            one["stdout"] = [{"text": f"{word}\n"} for word in words]
            one["stderr"] = [{"text": word} for word in words]
    assert verdict_of(chatty, output="\n".join(words)) == verdict_of(tests)


@CHEAP
@given(tests=some_tests(), word=WORDS)
def test_a_source_excerpt_and_a_stack_change_no_verdict(
    tests: list[dict[str, Any]], word: str
) -> None:
    line = word.split("\n")[0]
    shown = copy.deepcopy(tests)
    for test in shown:
        for one in test["tests"][0]["results"]:
            for error in [*one["errors"], *([one["error"]] if "error" in one else [])]:
                error["message"] += (
                    f"\n\n  2 | // {line}\n> 3 | expect(x).toBe('{line}');\n    |           ^\n  4 | // {line}\n\n    at /srv/shop/tests/login.spec.ts:3:1"
                )
    assert verdict_of(shown) == verdict_of(tests)


@CHEAP
@given(assertion=st.sampled_from(ASSERTIONS), screen=WORDS)
def test_a_text_of_the_screen_changes_no_verdict(assertion: str, screen: str) -> None:
    first = screen.split("\n")[0]
    for message in (
        f'{assertion}\n\nExpected: "Welcome"\nReceived: "{first}"',
        f"Error: the banner shows {first}",
        f'AssertionError: "{first}" == "Welcome"',
    ):
        assert verdict_of([a_test(a_try("failed", message))]) is Verdict.FAILED


@CHEAP
@given(
    assertion=st.sampled_from(ASSERTIONS),
    infra=st.lists(st.sampled_from(KNOWN), min_size=1, max_size=3),
    where=st.sampled_from(["errors", "tries", "tests", "run"]),
)
def test_an_infrastructure_error_after_a_failed_assertion_never_hides_it(
    assertion: str, infra: list[str], where: str
) -> None:
    tests, errors = [a_test(a_try("failed", assertion))], ()
    if where == "errors":
        tests = [a_test(a_try("failed", assertion, *infra))]
    elif where == "tries":
        tests = [a_test(a_try("failed", assertion), *[a_try("failed", one) for one in infra])]
    elif where == "tests":
        tests += [
            a_test(a_try("failed", one), title=f"other {index}") for index, one in enumerate(infra)
        ]
    else:
        errors = tuple(an_error(one) for one in infra)
    outcome = judge(a_report(a_suite(*tests), errors=errors), 1)
    assert outcome.verdict is Verdict.FAILED
    assert assertion.split("\n")[0] in outcome.message


@CHEAP
@given(tests=some_tests(), data=st.data())
def test_removing_tests_from_a_report_never_makes_it_greener(
    tests: list[dict[str, Any]], data: st.DataObject
) -> None:
    kept = data.draw(st.lists(st.sampled_from(range(len(tests))), unique=True, max_size=len(tests)))
    fewer = [test for index, test in enumerate(tests) if index in kept]
    assume(len(fewer) < len(tests))
    for exit_code in (0, exit_code_of(tests)):
        before = verdict_of(tests, exit_code=exit_code)
        after = verdict_of(fewer, stats=counted(tests), exit_code=exit_code)
        assert greenness(after) >= greenness(before)
        assert after not in PASSING


def cases(outcomes: list[str]) -> list[str]:
    inner = {
        "passed": "",
        "failed": "<failure message='41 is not 42'/>",
        "error": "<error message='connect ECONNREFUSED 127.0.0.1:4723'/>",
        "skipped": "<skipped/>",
    }
    return [
        f"<testcase classname='c' name='t{index}'>{inner[outcome]}</testcase>"
        for index, outcome in enumerate(outcomes)
    ]


@CHEAP
@given(
    outcomes=st.lists(
        st.sampled_from(["passed", "failed", "error", "skipped"]), min_size=1, max_size=5
    ),
    data=st.data(),
)
def test_removing_test_cases_from_junit_never_makes_it_greener(
    outcomes: list[str], data: st.DataObject
) -> None:
    counts = f"tests='{len(outcomes)}' failures='{outcomes.count('failed')}' errors='{outcomes.count('error')}' skipped='{outcomes.count('skipped')}'"
    whole = cases(outcomes)
    kept = data.draw(st.lists(st.sampled_from(range(len(whole))), unique=True))
    before = judge_command(f"<testsuite {counts}>{''.join(whole)}</testsuite>", 0).verdict
    after = judge_command(
        f"<testsuite {counts}>{''.join(case for index, case in enumerate(whole) if index in kept)}</testsuite>",
        0,
    ).verdict
    assert greenness(after) >= greenness(before)


def escaped(text: str) -> str:
    return (
        text.replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace('"', "&quot;")
        .replace("\n", "&#10;")
    )


@CHEAP
@given(message=MESSAGES)
def test_how_a_tool_splits_a_message_changes_nobodys_blame(message: str) -> None:
    first, _, rest = message.partition("\n")
    stack = "\n    at Object.<anonymous> (/srv/shop/tests/a.test.js:3:7)"
    written = {
        "attribute": f'<failure message="{escaped(message)}"/>',
        "text": f"<failure>{escaped(message)}</failure>",
        "text with a stack": f"<failure>{escaped(message + stack)}</failure>",
        "both": f'<failure message="{escaped(message)}">{escaped(message + stack)}</failure>',
        "first line and rest": f'<failure message="{escaped(first)}">{escaped(rest)}</failure>',
        "first line and all": f'<failure message="{escaped(first)}">{escaped(message + stack)}</failure>',
        "generic": f'<failure message="Failed">{escaped(message)}</failure>',
        "error": f'<error message="{escaped(message)}"/>',
    }
    found = {
        how: judge_command(f"<testsuite><testcase name='t'>{mark}</testcase></testsuite>", 1)
        for how, mark in written.items()
    }
    assert len({(outcome.verdict, outcome.reason) for outcome in found.values()}) == 1, found


@CHEAP
@given(
    message=st.sampled_from([*KNOWN, *ASSERTIONS]), output=st.lists(WORDS, min_size=1, max_size=3)
)
def test_output_in_junit_changes_no_verdict(message: str, output: list[str]) -> None:
    said = escaped("\n".join(output))
    mark = f'<failure message="{escaped(message)}"/>'
    bare = judge_command(f"<testsuite><testcase name='t'>{mark}</testcase></testsuite>", 1)
    with_output = f"<testsuite><testcase name='t'>{mark}<system-out>{said}</system-out></testcase><system-err>{said}</system-err></testsuite>"
    assert judge_command(with_output, 1, output="\n".join(output)).verdict == bare.verdict
    passed = f"<testsuite><testcase name='t'><system-out>{said}</system-out></testcase></testsuite>"
    assert judge_command(passed, 0).verdict is Verdict.PASSED


@CHEAP
@given(text=st.text(max_size=300), details=st.text(max_size=300), type_name=st.text(max_size=40))
def test_any_text_is_classified(text: str, details: str, type_name: str) -> None:
    found = classify(text, details=details, type_name=type_name, patterns=default_patterns())
    assert found == classify(
        text, details=details, type_name=type_name, patterns=default_patterns()
    )
    assert json.dumps(found.text)


def test_a_passing_report_is_the_ground_of_these_properties() -> None:
    assert verdict_of([PASS]) is Verdict.PASSED
    found = [
        judge_command(f"<testsuite>{''.join(cases([outcome]))}</testsuite>", 1).verdict
        for outcome in ("failed", "error")
    ]
    assert found == [Verdict.FAILED, Verdict.INFRA_ERROR]
