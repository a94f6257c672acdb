"""The rules from evidence to verdict: recorded runs, one test per rule, and what holds for any
bytes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgjet.domain import events
from qgjet.domain.events import PASSING, Outcome, Try, Verdict
from qgjet.verdict.evidence import CommandEvidence, Evidence
from qgjet.verdict.playwright import MAX_TRIES
from qgjet.verdict.reasons import Reason
from qgjet.verdict.rules import MAX_OUTCOME_BYTES, appwright_outcome, command_outcome
from qgjet.verdict.text import MAX_MESSAGE_BYTES

ROOT = Path(__file__).parents[2]
RECORDED = sorted(
    path.parent for path in (ROOT / "tests/data/appwright-reports").glob("*/expected.json")
)
PROJECT = "/srv/shop"
ASKED = "tests/login.spec.ts"


def an_error(message: str, *, file: str = f"{PROJECT}/{ASKED}", line: int = 3) -> dict[str, Any]:
    return {
        "message": message,
        "stack": f"{message}\n    at {file}:{line}:1",
        "location": {"file": file, "line": line, "column": 1},
    }


def a_try(status: str = "passed", *errors: str) -> dict[str, Any]:
    """One result as Playwright writes it: `error` is the first, `errors` has all of them with
    excerpt and stack.
    """
    first = {"error": an_error(errors[0])} if errors else {}
    excerpt = (
        "\n\n> 3 | expect(1).toBe(2);\n    |           ^\n    at /srv/shop/tests/login.spec.ts:3:1"
    )
    return {
        "status": status,
        "duration": 1500,
        "retry": 0,
        "errors": [an_error(error + excerpt) for error in errors],
        **first,
    }


def a_test(
    *tries: dict[str, Any],
    title: str = "logs in",
    status: str | None = None,
    expected: str = "passed",
    id: str = "",
) -> dict[str, Any]:
    """A spec with one test; `status` is what Playwright would compute."""
    statuses = [result["status"] for result in tries]
    ran = [s for s in statuses if s not in ("skipped", "interrupted")]
    computed = (
        "skipped"
        if not ran
        else "expected"
        if set(ran) == {expected}
        else "flaky"
        if expected in ran
        else "unexpected"
    )
    test = {
        "status": status or computed,
        "expectedStatus": expected,
        "projectName": "android",
        "results": list(tries),
    }
    return {
        "title": title,
        "id": id or title,
        "file": "login.spec.ts",
        "line": 2,
        "ok": True,
        "tests": [test],
    }


def a_suite(*specs: dict[str, Any], file: str = "login.spec.ts") -> dict[str, Any]:
    return {"title": file, "file": file, "specs": [{**spec, "file": file} for spec in specs]}


def a_report(
    *suites: dict[str, Any],
    errors: tuple[dict[str, Any], ...] = (),
    root: str = f"{PROJECT}/tests",
    stats: dict[str, int] | None = None,
) -> bytes:
    config = {"rootDir": root, "configFile": f"{PROJECT}/appwright.config.ts", "version": "1.59.1"}
    return json.dumps(
        {"config": config, "suites": list(suites), "errors": list(errors), "stats": stats or {}}
    ).encode()


def report_of(*specs: dict[str, Any], **more: Any) -> bytes:
    return a_report(a_suite(*specs), **more)


def judge(report: bytes | None, exit_code: int | None = 0, **more: Any) -> Outcome:
    return appwright_outcome(
        Evidence(
            **{
                "exit_code": exit_code,
                "report": report,
                "duration_s": 12.5,
                "project_dir": PROJECT,
                "test": ASKED,
                **more,
            }
        )
    )


def judge_command(
    junit: bytes | str | None = None, exit_code: int | None = 0, **more: Any
) -> Outcome:
    data = junit.encode() if isinstance(junit, str) else junit
    return command_outcome(
        CommandEvidence(
            **{
                "exit_code": exit_code,
                "junit": data,
                "duration_s": 12.5,
                "project_dir": PROJECT,
                **more,
            }
        )
    )


def said(outcome: Outcome) -> tuple[Verdict, str]:
    return outcome.verdict, outcome.reason


PASS = a_test(a_try())
FAIL = a_test(
    a_try(
        "failed",
        "Error: total is wrong\n\nexpect(received).toBe(expected)\n\nExpected: 42\nReceived: 41",
    ),
    title="counts",
)
SKIP = a_test(a_try("skipped"), title="tour", expected="skipped")
CUT = a_test(a_try("interrupted"), title="slow")
NEVER = a_test(title="third")
LATE = a_test(a_try("timedOut", "Test timeout of 2000ms exceeded."), title="hangs")
NO_TESTS = {
    "message": "Error: No tests found.\nMake sure that arguments are regular expressions matching test files."
}


class TestRecordedRuns:
    @pytest.mark.parametrize("run", RECORDED, ids=lambda run: run.name)
    def test_a_recorded_run_gets_the_verdict_that_a_person_gave_it(self, run: Path) -> None:
        expected = json.loads((run / "expected.json").read_text())
        outcome = recorded(run)
        assert (outcome.verdict, outcome.reason, outcome.exit_code) == (
            expected["verdict"],
            expected["reason"],
            expected["exit_code"],
        )
        assert bool(outcome.message) == (outcome.verdict is not Verdict.PASSED)

    @pytest.mark.parametrize("run", RECORDED, ids=lambda run: run.name)
    def test_a_recorded_run_is_never_green_when_its_exit_code_was_not_0_or_its_report_is_lost(
        self, run: Path
    ) -> None:
        assert recorded(run, exit_code=1).verdict not in PASSING
        assert recorded(run, exit_code=0, report=None).verdict not in PASSING
        assert recorded(run, exit_code=0, report=b"").verdict not in PASSING
        assert recorded(run, exit_code=None, signal="SIGKILL").verdict is Verdict.INFRA_ERROR

    def test_the_tests_of_a_run_are_told_with_title_place_and_every_try(self) -> None:
        outcome = recorded(ROOT / "tests/data/appwright-reports/flaky-r1")
        failure = "Error: first attempt always fails\n\nexpect(received).toBeGreaterThan(expected)\n\nExpected: > 0\nReceived:   0"
        first = Try(
            status="failed",
            duration_s=0.006,
            error=events.TestError(message=failure, file="tests/flaky.spec.ts", line=3),
        )
        assert outcome.tests == (
            events.TestResult(
                id="b862a406253815a75d4a-9967c019243959ef3347",
                title="login sometimes slow",
                file="tests/flaky.spec.ts",
                line=2,
                outcome="flaky",
                tries=(first, Try(status="passed", duration_s=0.005)),
            ),
        )
        assert outcome.message == f"login sometimes slow: {failure}"

    def test_a_test_in_describes_carries_their_titles(self) -> None:
        assert [
            test.title for test in recorded(ROOT / "tests/data/appwright-reports/pass-r0").tests
        ] == [
            "onboarding \u203a shows welcome copy",
            "onboarding \u203a skips tour",
        ]

    def test_tests_that_a_shared_helper_declares_belong_to_the_file_that_called_it(self) -> None:
        outcome = recorded(ROOT / "tests/data/appwright-reports/plain-shared-helper")
        assert (outcome.verdict, outcome.tests[0].file) == (Verdict.PASSED, "lib/shared.ts")


def recorded(run: Path, **more: Any) -> Outcome:
    expected = json.loads((run / "expected.json").read_text())
    report = (run / "report.json").read_bytes() if (run / "report.json").exists() else None
    output = (run / "output.txt").read_text()
    return judge(
        **{
            "report": report,
            "exit_code": expected["exit_code"],
            "output": output,
            "test": expected["test"],
            **more,
        }
    )


class TestGreen:
    def test_a_test_that_passed_with_exit_code_0_is_passed_and_needs_no_reason(self) -> None:
        outcome = judge(report_of(PASS, SKIP))
        assert (said(outcome), outcome.message, outcome.duration_s) == (
            (Verdict.PASSED, ""),
            "",
            12.5,
        )

    def test_a_test_that_passes_on_its_second_try_is_flaky_and_shows_its_failure(self) -> None:
        outcome = judge(
            report_of(PASS, a_test(a_try("failed", "Error: too slow"), a_try(), title="pays"))
        )
        assert (said(outcome), outcome.message) == (
            (Verdict.FLAKY, "flaky"),
            "pays: Error: too slow",
        )
        assert [try_.status for try_ in outcome.tests[1].tries] == ["failed", "passed"]

    def test_tests_that_are_all_marked_as_skipped_are_skipped(self) -> None:
        assert said(judge(report_of(SKIP, SKIP))) == (Verdict.SKIPPED, "all_skipped")

    def test_a_failure_that_was_expected_is_a_pass(self) -> None:
        outcome = judge(report_of(a_test(a_try("failed", "Error: known bug"), expected="failed")))
        assert (outcome.verdict, outcome.tests[0].outcome, outcome.tests[0].tries[0].status) == (
            Verdict.PASSED,
            "passed",
            "failed",
        )

    def test_a_serial_group_that_passes_when_it_is_run_again_is_flaky_and_its_waiting_tests_passed(
        self,
    ) -> None:
        waiting = a_test(a_try("skipped"), a_try(), title="waits")
        outcome = judge(report_of(a_test(a_try("failed", "Error: x"), a_try()), waiting))
        assert (outcome.verdict, [test.outcome for test in outcome.tests]) == (
            Verdict.FLAKY,
            ["flaky", "passed"],
        )

    def test_tests_of_a_set_up_project_may_stand_beside_those_of_the_asked_file(self) -> None:
        assert (
            judge(a_report(a_suite(PASS, file="../setup/auth.setup.ts"), a_suite(PASS))).verdict
            is Verdict.PASSED
        )


class TestNeverGreen:
    def test_exit_code_0_without_a_report_is_not_passed(self) -> None:
        assert said(judge(None, 0)) == (Verdict.INFRA_ERROR, "report_missing")
        assert said(judge(None, 0, output="SyntaxError: x")) == (
            Verdict.INFRA_ERROR,
            "report_missing",
        )

    def test_exit_code_0_with_a_failed_test_is_failed(self) -> None:
        assert said(judge(report_of(PASS, FAIL), 0)) == (Verdict.FAILED, "tests_failed")

    def test_exit_code_0_with_a_test_that_playwright_calls_unexpected_is_failed(self) -> None:
        assert said(judge(report_of(PASS, a_test(a_try(), status="unexpected")), 0)) == (
            Verdict.FAILED,
            "tests_failed",
        )

    def test_a_report_that_counts_failures_and_shows_none_is_not_believed(self) -> None:
        outcome = judge(report_of(PASS, stats={"expected": 1, "unexpected": 1}), 0)
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "report_incomplete"),
            "the report counts 1 failed tests and names none",
        )

    def test_an_interrupted_test_is_not_a_skipped_one(self) -> None:
        outcome = judge(report_of(PASS, CUT, NEVER), 0)
        assert (said(outcome), [test.outcome for test in outcome.tests]) == (
            (Verdict.INFRA_ERROR, "interrupted"),
            ["passed", "interrupted", "skipped"],
        )

    def test_a_test_that_never_ran_is_not_a_skipped_one(self) -> None:
        assert said(judge(report_of(PASS, NEVER), 0)) == (Verdict.INFRA_ERROR, "tests_not_run")
        assert said(judge(report_of(a_test(a_try("skipped"))), 0)) == (
            Verdict.INFRA_ERROR,
            "tests_not_run",
        )

    def test_a_test_without_a_try_is_not_passed_whatever_its_status_says(self) -> None:
        assert said(judge(report_of(a_test(status="expected")), 0)) == (
            Verdict.INFRA_ERROR,
            "tests_not_run",
        )
        assert said(judge(report_of(a_test(status="expected", expected="skipped")), 0)) == (
            Verdict.INFRA_ERROR,
            "tests_not_run",
        )

    def test_a_test_that_passed_is_not_believed_when_playwright_calls_it_skipped(self) -> None:
        assert said(judge(report_of(a_test(a_try(), status="skipped")), 0)) == (
            Verdict.INFRA_ERROR,
            "tests_not_run",
        )

    def test_a_test_that_failed_and_then_skipped_its_retry_is_failed(self) -> None:
        assert (
            said(
                judge(
                    report_of(
                        a_test(
                            a_try("failed", "Error: x"),
                            a_try("skipped"),
                            status="flaky",
                            expected="skipped",
                        )
                    ),
                    0,
                )
            )[0]
            is Verdict.FAILED
        )

    def test_an_empty_report_has_no_tests(self) -> None:
        assert said(judge(a_report(), 0)) == (Verdict.CONFIG_ERROR, "no_tests")
        assert said(judge(report_of(), 0)) == (Verdict.CONFIG_ERROR, "no_tests")

    def test_green_tests_with_an_error_outside_of_them_are_not_passed(self) -> None:
        assert said(judge(report_of(PASS, errors=(an_error("Error: teardown broke"),)), 0)) == (
            Verdict.INFRA_ERROR,
            "teardown_failed",
        )

    def test_green_tests_with_another_exit_code_than_0_are_not_passed(self) -> None:
        outcome = judge(report_of(PASS), 1)
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "exit_code_unexplained"),
            "exit code 1 though no test failed",
        )
        assert judge(report_of(SKIP), 1).verdict is Verdict.INFRA_ERROR

    def test_flaky_tests_with_exit_code_1_are_flaky_tests_that_were_not_allowed(self) -> None:
        flaky = report_of(a_test(a_try("failed", "Error: x"), a_try()))
        assert said(judge(flaky, 1)) == (Verdict.FAILED, "flaky_not_allowed")
        assert said(judge(flaky, 2)) == (Verdict.INFRA_ERROR, "exit_code_unexplained")


class TestReportOfTheAskedFile:
    @pytest.mark.parametrize(
        "file",
        [
            "other.spec.ts",
            "sub/login.spec.ts",
            "sub/tests/login.spec.ts",
            "../login.spec.ts",
            "login.spec.tsx",
            "mylogin.spec.ts",
            "",
        ],
    )
    def test_a_report_of_another_file_is_not_the_answer(self, file: str) -> None:
        assert said(judge(a_report(a_suite(PASS, file=file)), 0)) == (
            Verdict.INFRA_ERROR,
            "report_mismatch",
        )
        assert said(judge(a_report(a_suite(FAIL, file=file)), 1)) == (
            Verdict.INFRA_ERROR,
            "report_mismatch",
        )

    def test_tests_of_other_files_do_not_make_a_skipped_file_green(self) -> None:
        assert (
            judge(a_report(a_suite(SKIP), a_suite(PASS, file="../setup/auth.setup.ts"))).verdict
            is Verdict.SKIPPED
        )

    def test_a_failed_set_up_project_fails_the_job(self) -> None:
        outcome = judge(a_report(a_suite(FAIL, file="../setup/auth.setup.ts"), a_suite(NEVER)), 1)
        assert (said(outcome), outcome.tests[0].file) == (
            (Verdict.FAILED, "tests_failed"),
            "setup/auth.setup.ts",
        )

    def test_files_are_relative_to_the_project_and_not_to_the_test_directory(self) -> None:
        assert judge(report_of(FAIL), 1).tests[0].file == ASKED

    def test_a_report_may_see_the_project_at_another_place_such_as_a_container_mount(self) -> None:
        report = report_of(FAIL).replace(b"/srv/shop", b"/app")
        test = judge(report, 1).tests[0]
        assert (test.file, test.tries[0].error) == (
            ASKED,
            events.TestError(
                message=FAIL["tests"][0]["results"][0]["error"]["message"], file=ASKED, line=3
            ),
        )

    def test_a_file_of_another_project_with_a_like_path_is_not_the_asked_one(self) -> None:
        assert said(
            judge(report_of(PASS).replace(b"/srv/shop", b"/app"), test="login.spec.ts")
        ) == (Verdict.INFRA_ERROR, "report_mismatch")
        moved = a_report(a_suite(PASS, file="sub/tests/login.spec.ts"), root="/app").replace(
            b"/srv/shop", b"/app"
        )
        assert said(judge(moved)) == (Verdict.INFRA_ERROR, "report_mismatch")
        nested = report_of(PASS).replace(b"/srv/shop", b"/srv/shop/sub")
        assert said(judge(nested)) == (Verdict.INFRA_ERROR, "report_mismatch")

    def test_a_directory_stands_for_the_files_in_it(self) -> None:
        assert judge(report_of(PASS), test="tests").verdict is Verdict.PASSED
        assert judge(report_of(PASS), test="test").verdict is Verdict.INFRA_ERROR

    @pytest.mark.parametrize("test", ["", ".", "..", "/", "../shop2/tests/login.spec.ts"])
    def test_a_path_that_names_no_file_of_the_project_asks_for_nothing(self, test: str) -> None:
        for file in ("login.spec.ts", "../../shop2/tests/login.spec.ts"):
            assert said(judge(a_report(a_suite(PASS, file=file)), test=test)) == (
                Verdict.INFRA_ERROR,
                "report_mismatch",
            )


class TestUnreadableReports:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b" \n",
            b"{",
            b"null",
            b"[]",
            b"{}",
            b'"x"',
            b'{"suites": null}',
            b'{"suites": {}}',
            b'{"suites": [1]}',
            b"\x00\xff",
            b"[" * 100_000,
        ],
    )
    def test_bytes_that_are_no_report_are_an_infra_error(self, data: bytes) -> None:
        assert said(judge(data, 0)) == (Verdict.INFRA_ERROR, "report_unreadable")

    def test_a_truncated_report_is_an_infra_error(self) -> None:
        whole = report_of(PASS, FAIL)
        assert {said(judge(whole[:length], 1)) for length in range(len(whole))} == {
            (Verdict.INFRA_ERROR, "report_unreadable")
        }

    def test_a_status_that_nobody_knows_is_not_guessed_at(self) -> None:
        assert said(judge(report_of(a_test(a_try("great"), status="expected")))) == (
            Verdict.INFRA_ERROR,
            "report_unreadable",
        )
        assert said(judge(report_of(a_test(a_try("timedOut"), expected="timedOut")))) == (
            Verdict.INFRA_ERROR,
            "report_unreadable",
        )

    def test_a_report_nested_too_deep_is_an_infra_error(self) -> None:
        assert said(judge(b'{"suites":[' * 5000 + b"]}" * 5000)) == (
            Verdict.INFRA_ERROR,
            "report_unreadable",
        )

    def test_the_size_of_a_report_is_no_verdict(self) -> None:
        assert said(judge(report_of(PASS) + b" " * 80 * 2**20)) == (Verdict.PASSED, "")

    def test_half_an_emoji_in_a_message_does_not_lose_the_report(self) -> None:
        broken = report_of(FAIL).replace(
            b"total is wrong", rb"total \ud83d is wrong \ude00 \ud83d\ude00"
        )
        outcome = judge(broken, 1)
        assert said(outcome) == (Verdict.FAILED, "tests_failed")
        assert outcome.message.startswith("counts: Error: total \ufffd is wrong \ufffd \U0001f600")

    def test_bytes_that_are_no_utf_8_do_not_lose_the_report(self) -> None:
        assert said(judge(report_of(FAIL).replace(b"total", b"\xff\xfe"), 1)) == (
            Verdict.FAILED,
            "tests_failed",
        )


class TestNoReport:
    @pytest.mark.parametrize(
        ("output", "reason"),
        [
            (
                'Error: Project(s) "nope" not found. Available projects: "android"\n    at filterProjects (x.js:80:11)',
                "unknown_project",
            ),
            (
                "Error: /srv/shop/nope.ts does not exist\n    at resolveConfigFile (/x/configLoader.js:321:11)",
                "bad_config",
            ),
            (
                "Error: set SHOP_ENV first\n    at Object.<anonymous> (/srv/shop/a.ts:1:7)\n    at loadUserConfig (/x/configLoader.js:107:89)",
                "bad_config",
            ),
            (
                "SyntaxError: /srv/shop/appwright.config.ts: Unexpected token (1:16)\n\n> 1 | export default {{",
                "syntax_error",
            ),
            (
                "throw err;\n\nError: Cannot find module '/srv/shop/node_modules/@playwright/test/cli.js'\n    at x",
                "module_not_found",
            ),
            ("error: unknown option '--nope'", "bad_option"),
            (
                'npm error npx canceled due to missing packages and no YES option: ["appwright@0.1.1"]',
                "command_not_found",
            ),
        ],
    )
    def test_output_that_says_why_no_test_was_started_is_a_config_error(
        self, output: str, reason: str
    ) -> None:
        outcome = judge(
            None,
            1,
            output=f"npm warn Unknown user config\n\x1b[31m{output}\x1b[39m\nError while running playwright test: undefined\n",
        )
        assert said(outcome) == (Verdict.CONFIG_ERROR, reason)
        assert outcome.message in output
        assert outcome.message.lower().startswith(("error", "syntaxerror", "npm error"))

    def test_output_of_tests_that_did_start_is_not_searched_for_config_errors(self) -> None:
        outcome = judge(
            None,
            1,
            output="\nRunning 1 test using 1 worker\n\nSyntaxError: Unexpected token in JSON\n",
        )
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "report_missing"),
            "exit code 1 and no report: SyntaxError: Unexpected token in JSON",
        )

    def test_a_command_that_the_shell_does_not_find_is_a_config_error(self) -> None:
        outcome = judge(None, 127, output="sh: 1: appwright: not found\n")
        assert (said(outcome), outcome.message) == (
            (Verdict.CONFIG_ERROR, "command_not_found"),
            "sh: 1: appwright: not found",
        )

    def test_a_silent_end_without_a_report_is_an_infra_error(self) -> None:
        outcome = judge(None, 1)
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "report_missing"),
            "exit code 1 and no report",
        )


class TestNoTests:
    @pytest.mark.parametrize(
        ("message", "verdict", "reason"),
        [
            (
                "SyntaxError: /srv/shop/tests/login.spec.ts: Unexpected token (2:39)\n\n> 2 | const x = ;",
                Verdict.CONFIG_ERROR,
                "syntax_error",
            ),
            (
                "Error: Cannot find module './helper'\nRequire stack:\n- x",
                Verdict.CONFIG_ERROR,
                "module_not_found",
            ),
            (
                "TypeError: Cannot read properties of undefined (reading 'y')",
                Verdict.CONFIG_ERROR,
                "load_error",
            ),
            ("Error: connect ECONNREFUSED 127.0.0.1:80", Verdict.INFRA_ERROR, "network"),
        ],
    )
    def test_the_error_beside_no_tests_found_is_the_one_that_counts(
        self, message: str, verdict: Verdict, reason: str
    ) -> None:
        outcome = judge(a_report(errors=(an_error(message), NO_TESTS)), 1)
        assert said(outcome) == (verdict, reason)
        assert outcome.message == message.split("\n\n>")[0]

    def test_no_tests_found_alone_is_a_config_error(self) -> None:
        assert said(judge(a_report(errors=(NO_TESTS,)), 1)) == (Verdict.CONFIG_ERROR, "no_tests")

    def test_pass_with_no_tests_does_not_pass(self) -> None:
        assert judge(a_report(), 0, output="No tests").verdict is Verdict.CONFIG_ERROR

    @pytest.mark.parametrize(
        ("message", "verdict", "reason"),
        [
            (
                "Error: The ANDROID_HOME environment variable is not set. \nPlease set it",
                Verdict.CONFIG_ERROR,
                "setting_missing",
            ),
            (
                "Error: BROWSERSTACK_USERNAME and BROWSERSTACK_ACCESS_KEY are required environment variables",
                Verdict.CONFIG_ERROR,
                "setting_missing",
            ),
            (
                "Error: File not found at given path: builds/app.apk",
                Verdict.CONFIG_ERROR,
                "app_missing",
            ),
            (
                "Error: Build path not found. Please set the build path in appwright.config.ts",
                Verdict.CONFIG_ERROR,
                "app_missing",
            ),
            (
                "Error: Capability to run all projects is not supported. Please specify the project name with --project flag.",
                Verdict.CONFIG_ERROR,
                "unknown_project",
            ),
            (
                "Error: item focused with '.only' is not allowed due to the 'forbidOnly' option",
                Verdict.CONFIG_ERROR,
                "load_error",
            ),
            ("Error: No installed emulators found.", Verdict.INFRA_ERROR, "device_unavailable"),
            (
                "FetchError: request to https://x/upload failed, reason: getaddrinfo ENOTFOUND x",
                Verdict.INFRA_ERROR,
                "network",
            ),
            ("Error: seed data missing", Verdict.INFRA_ERROR, "setup_failed"),
            (
                "Error: Timed out waiting 60000ms from config.webServer.",
                Verdict.INFRA_ERROR,
                "setup_failed",
            ),
            (
                "Timed out waiting 5s for the global setup to run",
                Verdict.TIMED_OUT,
                "global_timeout",
            ),
        ],
    )
    def test_an_error_of_the_global_set_up_is_judged_by_its_text(
        self, message: str, verdict: Verdict, reason: str
    ) -> None:
        error = an_error(message, file=f"{PROJECT}/node_modules/appwright/dist/global-setup.js")
        assert said(judge(a_report(errors=(error,)), 1)) == (verdict, reason)

    def test_a_thrown_string_is_an_error_too(self) -> None:
        outcome = judge(
            a_report(errors=({"value": "'The ANDROID_HOME environment variable is not set.'"},)), 1
        )
        assert said(outcome) == (Verdict.CONFIG_ERROR, "setting_missing")

    def test_an_error_that_kept_the_file_from_loading_is_a_load_error_wherever_it_is_placed(
        self,
    ) -> None:
        error = an_error("Error: something new", file=f"{PROJECT}/lib/page.ts")
        assert said(judge(a_report(errors=(error, NO_TESTS)), 1)) == (
            Verdict.CONFIG_ERROR,
            "load_error",
        )

    def test_an_error_placed_in_the_asked_file_is_a_load_error(self) -> None:
        assert said(judge(a_report(errors=(an_error("Error: something new"),)), 1)) == (
            Verdict.CONFIG_ERROR,
            "load_error",
        )


class TestSignals:
    @pytest.mark.parametrize("specs", [(PASS,), (FAIL,), (SKIP,), (PASS, CUT)])
    @pytest.mark.parametrize(
        ("exit_code", "signal", "reason"),
        [
            (130, "", "interrupted"),
            (143, "", "interrupted"),
            (137, "", "killed"),
            (139, "", "killed"),
            (-9, "", "killed"),
            (None, "SIGTERM", "interrupted"),
            (None, "", "killed"),
        ],
    )
    def test_a_run_that_somebody_else_ended_is_an_infra_error(
        self, specs: tuple[dict[str, Any], ...], exit_code: int | None, signal: str, reason: str
    ) -> None:
        assert said(judge(report_of(*specs), exit_code, signal=signal)) == (
            Verdict.INFRA_ERROR,
            reason,
        )

    def test_the_message_names_signal_time_and_the_test_that_was_running(self) -> None:
        assert (
            judge(report_of(PASS, CUT), 130).message == "ended by SIGINT after 12.5 s, during slow"
        )

    def test_a_killed_run_is_not_a_config_error_because_of_its_output(self) -> None:
        assert said(judge(None, 137, output="SyntaxError: x")) == (Verdict.INFRA_ERROR, "killed")

    def test_interrupted_tests_without_a_signal_are_an_infra_error(self) -> None:
        assert said(judge(report_of(FAIL, CUT), 1)) == (Verdict.INFRA_ERROR, "interrupted")

    def test_tests_interrupted_because_the_maximum_of_failures_was_reached_leave_the_run_failed(
        self,
    ) -> None:
        stopped = {
            "message": "\x1b[31mTesting stopped early after 1 maximum allowed failures.\x1b[39m"
        }
        assert said(judge(report_of(FAIL, CUT, NEVER, errors=(stopped,)), 1)) == (
            Verdict.FAILED,
            "tests_failed",
        )
        assert said(judge(report_of(FAIL, CUT, errors=(stopped,)), 1, stopped="cancelled")) == (
            Verdict.FAILED,
            "tests_failed",
        )
        assert said(judge(report_of(PASS, CUT, errors=(stopped,)), 1)) == (
            Verdict.INFRA_ERROR,
            "interrupted",
        )

    def test_the_global_timeout_is_timed_out_though_its_tests_look_skipped(self) -> None:
        late = (
            {"message": "\x1b[31mTimed out waiting 5s for the test suite to run\x1b[39m"},
            {"message": "Timed out waiting 5s for the teardown for test suite to run"},
        )
        outcome = judge(report_of(PASS, a_test(a_try("skipped")), NEVER, errors=late), 1)
        assert (said(outcome), outcome.message) == (
            (Verdict.TIMED_OUT, "global_timeout"),
            "Timed out waiting 5s for the test suite to run",
        )

    def test_a_teardown_that_timed_out_after_green_tests_is_an_infra_error(self) -> None:
        late = {"message": "Timed out waiting 5s for the teardown for global teardown to run"}
        assert said(judge(report_of(PASS, errors=(late,)), 1)) == (
            Verdict.INFRA_ERROR,
            "teardown_failed",
        )


class TestOurOwnStop:
    STOPS = (
        ("cancelled", Verdict.CANCELLED),
        ("deadline", Verdict.TIMED_OUT),
        ("lease_lost", Verdict.INFRA_ERROR),
        ("drained", Verdict.INFRA_ERROR),
    )

    @pytest.mark.parametrize(("stopped", "verdict"), STOPS)
    @pytest.mark.parametrize(
        ("report", "exit_code"),
        [
            (None, 143),
            (None, 1),
            (b"{", 1),
            (report_of(PASS, CUT), 130),
            (report_of(PASS, CUT), 1),
            (report_of(PASS), 130),
            (report_of(PASS, NEVER), 0),
            (report_of(FAIL, CUT), 1),
            (report_of(PASS), 1),
            (report_of(PASS), None),
            (a_report(), 130),
        ],
    )
    def test_a_run_that_we_stopped_is_what_we_stopped_it_for(
        self, stopped: str, verdict: Verdict, report: bytes | None, exit_code: int | None
    ) -> None:
        assert said(judge(report, exit_code, stopped=stopped)) == (verdict, stopped)

    @pytest.mark.parametrize("stopped", [stopped for stopped, _ in STOPS])
    @pytest.mark.parametrize(
        ("report", "exit_code", "expected"),
        [
            (report_of(PASS, SKIP), 0, (Verdict.PASSED, "")),
            (report_of(SKIP), 0, (Verdict.SKIPPED, "all_skipped")),
            (report_of(PASS, FAIL), 1, (Verdict.FAILED, "tests_failed")),
            (report_of(FAIL, NEVER), 1, (Verdict.FAILED, "tests_failed")),
            (report_of(LATE), 1, (Verdict.TIMED_OUT, "test_timeout")),
            (a_report(errors=(NO_TESTS,)), 1, (Verdict.CONFIG_ERROR, "no_tests")),
        ],
    )
    def test_a_run_that_had_ended_by_itself_keeps_its_verdict(
        self, stopped: str, report: bytes, exit_code: int, expected: tuple[Verdict, str]
    ) -> None:
        assert said(judge(report, exit_code, stopped=stopped)) == expected

    def test_a_failed_test_that_had_retries_left_was_cut_short(self) -> None:
        assert said(judge(report_of(FAIL), 1, stopped="cancelled", retries=1)) == (
            Verdict.CANCELLED,
            "cancelled",
        )

    def test_an_infra_error_is_put_down_to_the_stop_because_it_takes_the_device_away(self) -> None:
        lost = a_test(a_try("failed", "RequestError: connect ECONNREFUSED 127.0.0.1:4723"))
        assert said(judge(report_of(lost), 1, stopped="deadline")) == (
            Verdict.TIMED_OUT,
            "deadline",
        )

    def test_the_message_says_which_test_was_running(self) -> None:
        assert (
            judge(report_of(PASS, CUT), 130, stopped="deadline").message
            == "deadline reached after 12.5 s, during slow"
        )

    def test_a_stop_of_an_unknown_kind_is_an_infra_error(self) -> None:
        assert said(judge(None, 143, stopped="eclipse")) == (Verdict.INFRA_ERROR, "interrupted")


class TestFailures:
    def test_the_message_is_the_first_failed_test_with_its_error_and_the_number_of_others(
        self,
    ) -> None:
        other = a_test(a_try("failed", "Error: boom"), title="other")
        assert judge(report_of(PASS, FAIL, other), 1).message == (
            "counts: Error: total is wrong\n\nexpect(received).toBe(expected)\n\nExpected: 42\nReceived: 41\n(and 1 more)"
        )

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (
                'Error: Failed to create session.\nUnable to connect to "http://127.0.0.1:4723/", make sure',
                "device_unavailable",
            ),
            (
                "Error: Failed to create session.\nCould not find a driver for automationName 'uiautomator2'",
                "device_unavailable",
            ),
            (
                "WebDriverError: Could not find a connected Android device in 20000ms",
                "device_unavailable",
            ),
            ("Error: Command failed: adb install x\nadb: device offline", "device_unavailable"),
            ("Error: device offline", "device_unavailable"),
            (
                "Error: All parallel tests are currently in use, including the queued tests",
                "device_unavailable",
            ),
            ("RequestError: connect ECONNREFUSED 127.0.0.1:4723", "network"),
            ("Error: getaddrinfo EAI_AGAIN hub.browserstack.com", "network"),
            ("Error: socket hang up", "network"),
            ("TypeError: fetch failed", "network"),
            (
                "Error: Appium server is already running. Please stop the server before running tests.",
                "port_in_use",
            ),
            ("Error: listen EADDRINUSE: address already in use 0.0.0.0:4723", "port_in_use"),
            ("Error: worker process exited unexpectedly (code=7, signal=null)", "worker_crashed"),
            ("WebDriverError: invalid session id", "session_lost"),
            ("WebDriverError: Could not proxy command to the remote server", "session_lost"),
            (
                "WebDriverError: the instrumentation process is not running (probably crashed)",
                "session_lost",
            ),
            (
                'Error: Failed to click on the element with path "text("Pay")": RequestError: connect ECONNRESET 10.0.0.1:443',
                "network",
            ),
        ],
    )
    def test_a_failure_of_device_or_network_is_an_infra_error(
        self, message: str, reason: str
    ) -> None:
        assert said(judge(report_of(PASS, a_test(a_try("failed", message))), 1)) == (
            Verdict.INFRA_ERROR,
            reason,
        )

    @pytest.mark.parametrize(
        ("message", "reason"),
        [
            (
                'Error: Fixture "device" cannot be overridden in the configuration "use" section.',
                "incompatible_playwright",
            ),
            (
                "Error: getApkDetails: Command failed: aapt dump badging bad.apk\nERROR: dump failed",
                "app_invalid",
            ),
            (
                "Error: Error reading /sdk/build-tools. Ensure it exists or download from Android Studio",
                "sdk_incomplete",
            ),
            ("Error: Failed to create session.\nAuthorization required", "credentials_refused"),
            (
                "Error: Failed to create session.\n[BROWSERSTACK_INVALID_APP_CAP] The app_url is invalid",
                "app_invalid",
            ),
            (
                "Error: Failed to create session.\nNeither ANDROID_HOME nor ANDROID_SDK_ROOT environment variable was exported",
                "setting_missing",
            ),
            (
                "Error: adb: failed to install a.apk: Failure [INSTALL_FAILED_NO_MATCHING_ABIS]",
                "app_invalid",
            ),
            (
                "Error: Device name and osVersion are required for running tests on BrowserStack",
                "setting_missing",
            ),
        ],
    )
    def test_a_failure_of_the_set_up_is_a_config_error(self, message: str, reason: str) -> None:
        assert said(judge(report_of(a_test(a_try("failed", message))), 1)) == (
            Verdict.CONFIG_ERROR,
            reason,
        )

    @pytest.mark.parametrize(
        "message",
        [
            'Error: \x1b[2mexpect(\x1b[22mreceived).toBe(expected)\n\nExpected: "Welcome"\nReceived: "connect ECONNREFUSED 10.0.0.1:80"',
            'Error: Element with path "textContains("ETIMEDOUT")" not visible',
            'Error: Element with path "/ANDROID_HOME is not set/" is not found',
            "SyntaxError: Unexpected token '<', \"<html>\" is not valid JSON",
            "Error: Invalid username or password was not shown",
            "Error: could not find device card in the list",
            "Error: trusted device not found in the account",
            "TypeError: Cannot read properties of undefined (reading 'x')\n\n> 3 | await connect('ECONNREFUSED');",
            "'just text'",
        ],
    )
    def test_words_of_the_app_under_test_are_not_taken_for_ours(self, message: str) -> None:
        assert said(judge(report_of(a_test(a_try("failed", message))), 1)) == (
            Verdict.FAILED,
            "tests_failed",
        )

    def test_a_dead_farm_that_shows_only_in_the_second_error_is_an_infra_error(self) -> None:
        died = a_test(
            a_try(
                "failed",
                "Error: Element was not found on the screen",
                "RequestError: connect ECONNREFUSED 127.0.0.1:4723",
            )
        )
        outcome = judge(report_of(died), 1)
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "network"),
            "logs in: RequestError: connect ECONNREFUSED 127.0.0.1:4723",
        )

    def test_the_cause_of_an_error_is_read_too(self) -> None:
        failed = a_try("failed", "Error: seeding failed")
        failed["error"]["cause"] = {"message": "Error: connect ECONNREFUSED 127.0.0.1:80"}
        assert said(judge(report_of(a_test(failed)), 1)) == (Verdict.INFRA_ERROR, "network")

    def test_one_real_failure_among_infra_errors_makes_the_job_failed(self) -> None:
        lost = a_test(a_try("failed", "Error: socket hang up"), title="lost")
        outcome = judge(report_of(lost, FAIL), 1)
        assert said(outcome) == (Verdict.FAILED, "tests_failed")
        assert outcome.message.startswith("counts: ")

    def test_a_try_that_failed_because_of_the_app_stands_whatever_the_other_tries_show(
        self,
    ) -> None:
        infra, real = a_try("failed", "Error: socket hang up"), a_try("failed", "Error: boom")
        assert judge(report_of(a_test(infra, real)), 1).verdict is Verdict.FAILED
        outcome = judge(report_of(a_test(real, infra)), 1)
        assert (outcome.verdict, outcome.message) == (Verdict.FAILED, "logs in: Error: boom")

    def test_infra_and_config_errors_together_are_tried_again(self) -> None:
        infra = a_test(a_try("failed", "Error: socket hang up"))
        config = a_test(a_try("failed", "Error: Cannot find module 'x'"))
        assert said(judge(report_of(config, infra), 1)) == (Verdict.INFRA_ERROR, "network")

    def test_tests_that_all_timed_out_are_timed_out(self) -> None:
        outcome = judge(report_of(PASS, LATE), 1)
        assert (said(outcome), outcome.message) == (
            (Verdict.TIMED_OUT, "test_timeout"),
            "hangs: Test timeout of 2000ms exceeded.",
        )
        assert outcome.tests[1].outcome == outcome.tests[1].tries[0].status == "timed_out"

    def test_a_timeout_beside_a_failure_is_failed(self) -> None:
        assert said(judge(report_of(LATE, FAIL), 1)) == (Verdict.FAILED, "tests_failed")

    def test_a_timeout_on_a_dead_device_is_an_infra_error(self) -> None:
        late = a_test(
            a_try(
                "timedOut",
                "Test timeout of 2000ms exceeded.",
                "RequestError: connect ECONNREFUSED 127.0.0.1:4723",
            )
        )
        assert said(judge(report_of(late), 1)) == (Verdict.INFRA_ERROR, "network")

    def test_a_test_that_should_have_failed_and_passed_says_so(self) -> None:
        assert (
            judge(report_of(a_test(a_try(), expected="failed")), 1).message
            == "logs in: Expected to fail, but passed."
        )

    def test_an_error_in_the_teardown_of_green_tests_is_judged_by_its_text(self) -> None:
        lost = an_error("Error: connect ECONNREFUSED 127.0.0.1:4723\n    at x")
        assert said(judge(report_of(PASS, errors=(lost,)), 1)) == (Verdict.INFRA_ERROR, "network")


class TestTexts:
    def test_ansi_codes_and_control_characters_are_removed(self) -> None:
        dirty = (
            "\x1b[31mError: \x1b]8;;http://x\x07link\x1b]8;;\x07\x1b[39m\x00\x07 a\r\nb\u202e\x9b1m"
        )
        outcome = judge(
            report_of(a_test(a_try("failed", dirty), title="\x1b[1mbold\x1b[22m\nand \x00 more")), 1
        )
        assert outcome.message == "bold and more: Error: link a\nb"
        assert outcome.tests[0].title == "bold and more"

    def test_long_messages_are_cut_at_2_kb_of_utf_8(self) -> None:
        outcome = judge(report_of(a_test(a_try("failed", "Error: " + "ä€😀" * 5000)), FAIL), 1)
        error = outcome.tests[0].tries[0].error
        assert error is not None
        assert MAX_MESSAGE_BYTES - 8 < len(error.message.encode()) <= MAX_MESSAGE_BYTES
        assert len(outcome.message.encode()) <= MAX_MESSAGE_BYTES
        assert error.message.endswith("…")
        assert outcome.message.endswith("…\n(and 1 more)")

    @pytest.mark.parametrize(
        "place",
        [
            "/usr/lib/node/x.js",
            f"{PROJECT}2/tests/login.spec.ts",
            f"{PROJECT}/../etc/passwd",
            f"{PROJECT}/node_modules/appwright/a.js",
        ],
    )
    def test_places_outside_of_the_project_are_not_told(self, place: str) -> None:
        failed = {
            "status": "failed",
            "error": an_error("Error: x", file=place, line=7),
            "errors": [an_error("Error: x", file=place, line=7)],
        }
        assert judge(report_of(a_test(failed, status="unexpected")), 1).tests[0].tries[
            0
        ].error == events.TestError(message="Error: x")

    def test_the_place_of_an_error_in_a_library_is_the_line_of_the_test_that_called_it(
        self,
    ) -> None:
        failed = {
            "status": "failed",
            "error": {"message": "Error: x"},
            "errors": [],
            "errorLocation": {"file": f"{PROJECT}/lib/page.ts", "line": 9, "column": 1},
        }
        assert judge(report_of(a_test(failed, status="unexpected")), 1).tests[0].tries[
            0
        ].error == events.TestError(message="Error: x", file="lib/page.ts", line=9)

    @pytest.mark.parametrize(
        ("duration_s", "told"),
        [(float("nan"), 0.0), (float("inf"), 1e9), (-1.0, 0.0), (1.23456, 1.235)],
    )
    def test_durations_are_finite_and_not_negative(self, duration_s: float, told: float) -> None:
        assert judge(report_of(PASS), duration_s=duration_s).duration_s == told

    def test_lone_surrogates_of_undecodable_output_and_paths_can_be_stored(self) -> None:
        outcome = judge(
            report_of(PASS), test="tests/\udcff.spec.ts", signal="\udcff", output="\udcff"
        )
        assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome
        assert size(judge(None, 1, output="Error: \udcff")) > 0

    def test_line_numbers_are_bounded(self) -> None:
        assert [
            judge(report_of({**PASS, "line": line})).tests[0].line for line in (-1, 7, 10**20)
        ] == [0, 7, 2**31 - 1]

    def test_tests_that_share_an_id_get_their_own(self) -> None:
        assert [test.id for test in judge(report_of(PASS, PASS, PASS)).tests] == [
            "logs in",
            "logs in#2",
            "logs in#3",
        ]


class TestSize:
    def test_passed_tests_lose_their_tries_first(self) -> None:
        passed = [a_test(a_try(), title=f"passed {n} " + "x" * 80) for n in range(1900)]
        outcome = judge(report_of(*passed, FAIL), 1)
        assert size(outcome) <= MAX_OUTCOME_BYTES
        assert (outcome.tests_omitted, outcome.tests[0].tries, len(outcome.tests[-1].tries)) == (
            0,
            (),
            1,
        )

    def test_failed_tests_stay_when_tests_have_to_go_and_the_order_is_kept(self) -> None:
        passed = [a_test(a_try(), title=f"passed {n} " + "x" * 300) for n in range(3000)]
        flaky = a_test(a_try("failed", "Error: x"), a_try(), title="flaky")
        outcome = judge(report_of(*passed, flaky, *passed, FAIL), 1)
        assert MAX_OUTCOME_BYTES * 0.99 < size(outcome) <= MAX_OUTCOME_BYTES
        assert [test.title for test in outcome.tests[-2:]] == ["flaky", "counts"]
        assert len(outcome.tests) + outcome.tests_omitted == 6002
        assert outcome.tests[0].title.startswith("passed 0 ")

    def test_many_failed_tests_with_long_errors_fit(self) -> None:
        failed = [
            a_test(a_try("failed", '"\\' * 4000), title='"' * 1000, id='"' * 1000)
            for _ in range(300)
        ]
        outcome = judge(report_of(*failed), 1)
        assert size(outcome) <= MAX_OUTCOME_BYTES
        assert len(outcome.tests) + outcome.tests_omitted == 300

    def test_of_many_tries_the_first_and_the_last_are_kept(self) -> None:
        outcome = judge(report_of(a_test(*[a_try("failed", f"Error: {n}") for n in range(500)])), 1)
        messages = [try_.error.message for try_ in outcome.tests[0].tries if try_.error]
        assert (len(messages), messages[0], messages[-1]) == (MAX_TRIES, "Error: 0", "Error: 499")


def size(outcome: Outcome) -> int:
    return len(msgspec.json.encode(outcome))


def junit(*cases: str, attributes: str = "") -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites {attributes}><testsuite name="s">{"".join(cases)}</testsuite></testsuites>'


JUNIT_PASS = '<testcase classname="Login" name="logs in" time="1.5"/>'
JUNIT_FAIL = (
    '<testcase classname="Cart" name="counts" file="tests/cart.yaml" line="4">'
    '<failure message="41 is not 42" type="AssertionError">at x</failure></testcase>'
)
JUNIT_SKIP = '<testcase name="tour"><skipped/></testcase>'


class TestCommand:
    def test_without_junit_the_exit_code_decides(self) -> None:
        assert said(judge_command()) == (Verdict.PASSED, "")
        failed = judge_command(exit_code=3, output="starting\nassertion failed: no cart\n")
        assert (said(failed), failed.message) == (
            (Verdict.FAILED, "command_failed"),
            "exit code 3: assertion failed: no cart",
        )

    def test_a_signal_is_an_infra_error(self) -> None:
        assert said(judge_command(exit_code=None, signal="SIGKILL")) == (
            Verdict.INFRA_ERROR,
            "killed",
        )
        assert said(judge_command(junit(JUNIT_PASS), exit_code=143)) == (
            Verdict.INFRA_ERROR,
            "interrupted",
        )

    def test_a_command_that_is_not_there_is_a_config_error(self) -> None:
        assert said(judge_command(exit_code=127)) == (Verdict.CONFIG_ERROR, "command_not_found")
        assert said(judge_command(exit_code=126, junit_due=True)) == (
            Verdict.CONFIG_ERROR,
            "command_not_found",
        )

    @pytest.mark.parametrize(("stopped", "verdict"), TestOurOwnStop.STOPS)
    def test_our_own_stop_decides_because_junit_cannot_tell_that_it_was_cut_short(
        self, stopped: str, verdict: Verdict
    ) -> None:
        assert said(judge_command(junit(JUNIT_PASS), stopped=stopped)) == (verdict, stopped)
        assert said(judge_command(stopped=stopped)) == (verdict, stopped)

    def test_green_junit_with_exit_code_0_is_passed(self) -> None:
        outcome = judge_command(junit(JUNIT_PASS, JUNIT_SKIP))
        assert said(outcome) == (Verdict.PASSED, "")
        assert outcome.tests[0] == events.TestResult(
            id="Login::logs in",
            title="Login \u203a logs in",
            outcome="passed",
            tries=(Try(status="passed", duration_s=1.5),),
        )

    def test_exit_code_0_without_the_junit_that_was_due_is_not_passed(self) -> None:
        assert said(judge_command(None, junit_due=True)) == (Verdict.INFRA_ERROR, "report_missing")

    @pytest.mark.parametrize(
        "data",
        [b"", b"<", b"<testsuites>", b"<html/>", b"\xff\xfe", b'{"suites": []}', b"<testsuite"],
    )
    def test_exit_code_0_with_junit_that_cannot_be_read_is_not_passed(self, data: bytes) -> None:
        assert said(judge_command(data)) == (Verdict.INFRA_ERROR, "report_unreadable")

    def test_junit_without_test_cases_after_exit_code_0_is_a_config_error(self) -> None:
        assert said(judge_command(junit())) == (Verdict.CONFIG_ERROR, "no_tests")
        assert said(judge_command('<?xml version="1.0" encoding="nope"?><testsuite/>')) == (
            Verdict.CONFIG_ERROR,
            "no_tests",
        )

    def test_junit_without_test_cases_after_another_exit_code_is_tried_again_and_shows_the_last_line(
        self,
    ) -> None:
        outcome = judge_command(
            "<testsuite tests='0'/>", 1, output="starting\nbefore all: no cart service\n"
        )
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "tests_not_run"),
            "exit code 1 and no test case in the report: before all: no cart service",
        )

    def test_pytest_says_by_its_exit_code_that_it_found_no_test(self) -> None:
        assert said(
            judge_command(
                "<testsuites name='pytest tests'><testsuite name='pytest' tests='0'/></testsuites>",
                5,
            )
        ) == (Verdict.CONFIG_ERROR, "no_tests")
        assert said(judge_command("<testsuite tests='0'/>", 5)) == (
            Verdict.INFRA_ERROR,
            "tests_not_run",
        )

    def test_failures_are_failed_whatever_the_exit_code_says(self) -> None:
        for exit_code in (0, 1):
            outcome = judge_command(junit(JUNIT_PASS, JUNIT_FAIL), exit_code)
            assert (said(outcome), outcome.message) == (
                (Verdict.FAILED, "tests_failed"),
                "Cart \u203a counts: 41 is not 42\nat x",
            )
            assert (outcome.tests[1].file, outcome.tests[1].line) == ("tests/cart.yaml", 4)

    def test_green_junit_with_another_exit_code_than_0_is_not_passed(self) -> None:
        assert said(judge_command(junit(JUNIT_PASS), 1)) == (
            Verdict.INFRA_ERROR,
            "exit_code_unexplained",
        )

    def test_junit_that_counts_failures_and_shows_none_is_not_believed(self) -> None:
        assert said(judge_command(junit(JUNIT_PASS, attributes='tests="2" errors="1"'))) == (
            Verdict.INFRA_ERROR,
            "report_incomplete",
        )

    def test_test_cases_that_are_all_skipped_are_skipped(self) -> None:
        assert said(judge_command(junit(JUNIT_SKIP, '<testcase name="x" status="notrun"/>'))) == (
            Verdict.SKIPPED,
            "all_skipped",
        )

    def test_an_error_of_the_device_is_an_infra_error(self) -> None:
        error = '<testcase name="x"><error message="Error: connect ECONNREFUSED 127.0.0.1:4723"/></testcase>'
        assert said(judge_command(junit(JUNIT_PASS, error), 1)) == (Verdict.INFRA_ERROR, "network")

    def test_an_assertion_about_the_words_of_a_device_error_is_a_failure(self) -> None:
        failure = '<testcase name="x"><failure type="AssertionError" message="connect ECONNREFUSED"/></testcase>'
        assert said(judge_command(junit(failure), 1)) == (Verdict.FAILED, "tests_failed")

    def test_surefires_flaky_failures_are_failed_tries_of_a_passed_test(self) -> None:
        failure = '<flakyFailure message="too slow"><stackTrace>too slow at y</stackTrace><system-out>z</system-out></flakyFailure>'
        flaky = f'<testcase name="x" time="2">{failure}</testcase>'
        outcome = judge_command(junit(flaky))
        assert said(outcome) == (Verdict.FLAKY, "flaky")
        tries = (
            Try(status="failed", error=events.TestError(message="too slow at y")),
            Try(status="passed", duration_s=2.0),
        )
        assert (outcome.tests[0].outcome, outcome.tests[0].tries) == ("flaky", tries)

    def test_surefires_reruns_are_further_tries_of_a_failed_test(self) -> None:
        failed = '<testcase name="x"><failure message="first"/><rerunFailure message="second"/></testcase>'
        messages = [
            try_.error.message
            for try_ in judge_command(junit(failed), 1).tests[0].tries
            if try_.error
        ]
        assert messages == ["first", "second"]

    @pytest.mark.parametrize(
        "dtd",
        [
            '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
            '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
            '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">',
        ],
    )
    def test_a_dtd_is_refused_and_with_it_every_entity(self, dtd: str) -> None:
        outcome = judge_command(
            f"{dtd}<testsuite><testcase name='x'><failure>&b;&e;</failure></testcase></testsuite>"
        )
        assert (said(outcome), outcome.message) == (
            (Verdict.INFRA_ERROR, "report_unreadable"),
            "JUnit report cannot be read: it has a DTD",
        )

    def test_junit_nested_very_deep_is_read(self) -> None:
        deep = b"<testsuite>" * 50_000 + JUNIT_PASS.encode() + b"</testsuite>" * 50_000
        assert judge_command(deep).verdict is Verdict.PASSED

    @pytest.mark.parametrize("file", ["/etc/passwd", "../x", "/srv/shop2/x"])
    def test_files_outside_of_the_project_are_not_told(self, file: str) -> None:
        test = judge_command(junit(f'<testcase name="x" file="{file}" line="3"/>')).tests[0]
        assert (test.file, test.line) == ("", 0)


class TestReasons:
    def test_every_reason_is_documented_with_its_verdict_and_nothing_else_is(self) -> None:
        text = (ROOT / "docs/verdicts.md").read_text().split("## Reasons")[1]
        rows = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE))
        assert set(rows) == {reason.value for reason in Reason}
        assert set(rows.values()) <= {verdict.value for verdict in Verdict}


# What holds for any evidence.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
)
STATUSES = st.sampled_from(["passed", "failed", "timedOut", "skipped", "interrupted"])
TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "Error: socket hang up",
            "Error: boom",
            "Error: Cannot find module 'x'",
            "No tests found",
            "\x1b[31mx",
            "\x00\u202e",
        ]
    ),
)
ERRORS = st.builds(
    an_error,
    TEXTS,
    file=st.sampled_from([f"{PROJECT}/{ASKED}", "/elsewhere", "", "\x00"]),
    line=st.integers(-5, 10**20),
)
TRIES = st.fixed_dictionaries(
    {"status": STATUSES, "duration": st.floats(-1, 1e300), "errors": st.lists(ERRORS, max_size=2)},
    optional={"error": ERRORS},
)
TESTS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["expected", "unexpected", "flaky", "skipped"]),
        "expectedStatus": st.sampled_from(["passed", "failed", "skipped"]),
        "results": st.lists(TRIES, max_size=3),
    }
)
SPECS = st.fixed_dictionaries(
    {
        "title": TEXTS,
        "id": TEXTS,
        "file": st.just("login.spec.ts"),
        "line": st.integers(-5, 10**20),
        "tests": st.lists(TESTS, max_size=2),
    }
)
SUITES = st.fixed_dictionaries(
    {
        "title": TEXTS,
        "file": st.sampled_from(["login.spec.ts", "login.spec.ts", "other.spec.ts", "../x.ts"]),
        "specs": st.lists(SPECS, max_size=3),
    }
)
REPORTS = st.builds(
    lambda suites, errors, stats: a_report(*suites, errors=tuple(errors), stats=stats),
    st.lists(SUITES, max_size=2),
    st.lists(ERRORS, max_size=1),
    st.fixed_dictionaries({"unexpected": st.integers(0, 2)}),
)
EXITS = st.fixed_dictionaries(
    {
        "exit_code": st.sampled_from([0, 0, 0, 1, 130, 137, None])
        | st.none()
        | st.integers(-300, 300),
        "signal": st.sampled_from(["", "", "SIGKILL"]) | st.text(max_size=5),
        "output": st.text(max_size=200),
        "stopped": st.sampled_from(["", "", "cancelled", "deadline", "lease_lost", "drained"])
        | st.text(max_size=5),
        "duration_s": st.floats(),
    }
)
CHEAP = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check_any(outcome: Outcome, again: Outcome, exit_code: int | None) -> None:
    """What every outcome must be: the same each time, within its size, clean, and green only after
    exit code 0.
    """
    data = msgspec.json.encode(outcome)
    assert outcome == again
    assert len(data) <= MAX_OUTCOME_BYTES
    assert msgspec.json.decode(data, type=Outcome) == outcome
    assert outcome.reason in {"", *Reason}
    assert len(outcome.message.encode()) <= MAX_MESSAGE_BYTES
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", outcome.message)
    assert exit_code == 0 or outcome.verdict not in PASSING


class TestAnyEvidence:
    @CHEAP
    @given(
        report=st.binary() | JSON.map(lambda value: json.dumps(value).encode()) | REPORTS,
        exits=EXITS,
    )
    def test_any_bytes_give_one_bounded_outcome(self, report: bytes, exits: dict[str, Any]) -> None:
        check_any(judge(report, **exits), judge(report, **exits), exits["exit_code"])

    @CHEAP
    @given(report=REPORTS, exits=EXITS)
    def test_green_needs_every_test_to_have_ended_as_expected_and_no_error_outside(
        self, report: bytes, exits: dict[str, Any]
    ) -> None:
        outcome = judge(report, **exits)
        if outcome.verdict in PASSING:
            tests = [
                test
                for suite in json.loads(report)["suites"]
                for spec in suite["specs"]
                for test in spec["tests"]
            ]
            assert exits["exit_code"] == 0
            assert not exits["signal"].strip()
            assert not json.loads(report)["errors"]
            assert not any(test["status"] == "unexpected" for test in tests)
            assert not any(
                result["status"] == "interrupted" for test in tests for result in test["results"]
            )
            assert all(test["results"] or test["expectedStatus"] == "skipped" for test in tests)

    @CHEAP
    @given(report=REPORTS, exits=EXITS)
    def test_passed_needs_a_test_of_the_asked_file_that_really_passed(
        self, report: bytes, exits: dict[str, Any]
    ) -> None:
        if judge(report, **exits).verdict in (Verdict.PASSED, Verdict.FLAKY):
            asked = [
                test
                for suite in json.loads(report)["suites"]
                if suite["file"] == "login.spec.ts"
                for spec in suite["specs"]
                for test in spec["tests"]
            ]
            assert any(
                result["status"] == test["expectedStatus"] != "skipped"
                for test in asked
                for result in test["results"]
            )

    @CHEAP
    @given(run=st.sampled_from(RECORDED), data=st.data())
    def test_a_damaged_report_never_makes_a_red_run_green(
        self, run: Path, data: st.DataObject
    ) -> None:
        path = run / "report.json"
        report = bytearray(path.read_bytes() if path.exists() else b"{}")
        for _ in range(data.draw(st.integers(1, 3))):
            report[data.draw(st.integers(0, len(report) - 1))] = data.draw(st.integers(0, 255))
        cut = (
            bytes(report[: data.draw(st.integers(0, len(report)))])
            if data.draw(st.booleans())
            else bytes(report)
        )
        outcome = recorded(run, report=cut)
        check_any(outcome, recorded(run, report=cut), outcome.exit_code)
        assert outcome.verdict not in PASSING or recorded(run).verdict in PASSING

    @CHEAP
    @given(
        output=st.text()
        | st.sampled_from(["SyntaxError: x", "Error: Cannot find module 'x'", "\x1b[31mError: x"]),
        exits=EXITS,
    )
    def test_no_report_is_never_green(self, output: str, exits: dict[str, Any]) -> None:
        exits = {**exits, "output": output}
        check_any(judge(None, **exits), judge(None, **exits), exits["exit_code"])
        assert judge(None, **exits).verdict not in PASSING


NAMES = st.sampled_from(
    [
        "testsuites",
        "testsuite",
        "testcase",
        "failure",
        "error",
        "skipped",
        "flakyFailure",
        "rerunError",
        "stackTrace",
        "system-out",
        "x",
    ]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        [
            "name",
            "classname",
            "file",
            "line",
            "time",
            "failures",
            "errors",
            "message",
            "type",
            "status",
        ]
    ),
    st.text("ab1/.-,é", max_size=6),
)


def an_element(name: str, attributes: dict[str, str], children: list[str]) -> str:
    written = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f"<{name}{written}>{''.join(children)}</{name}>"


ELEMENTS = st.recursive(
    st.text("abc ", max_size=5),
    lambda inner: st.builds(an_element, NAMES, ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=12,
)
JUNITS = st.builds(
    an_element,
    st.sampled_from(["testsuites", "testsuite"]),
    ATTRIBUTES,
    st.lists(ELEMENTS, max_size=4),
).map(str.encode)


class TestAnyCommand:
    @CHEAP
    @given(data=st.none() | st.binary() | JUNITS, due=st.booleans(), exits=EXITS)
    def test_any_bytes_give_one_bounded_outcome(
        self, data: bytes | None, due: bool, exits: dict[str, Any]
    ) -> None:
        outcome = judge_command(data, junit_due=due, **exits)
        check_any(outcome, judge_command(data, junit_due=due, **exits), exits["exit_code"])

    @CHEAP
    @given(data=st.none() | st.binary() | JUNITS, exits=EXITS)
    def test_where_junit_is_due_green_needs_a_test_case_and_no_failure(
        self, data: bytes | None, exits: dict[str, Any]
    ) -> None:
        outcome = judge_command(data, junit_due=True, **exits)
        if outcome.verdict in PASSING:
            assert data is not None
            assert b"<testcase" in data
            assert outcome.tests
            assert not any(test.outcome == "failed" for test in outcome.tests)
            assert outcome.verdict is Verdict.SKIPPED or any(
                test.outcome in ("passed", "flaky") for test in outcome.tests
            )
