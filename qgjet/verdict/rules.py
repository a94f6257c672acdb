"""What one attempt came to: the rules from exit code, report and output to an `Outcome`.

Pure and total: every evidence gives an outcome, the same one each time. Green (passed, flaky, skipped) needs positive proof: a readable report of the asked
file, exit code 0, every test come to its end, and one that really passed or all of them skipped on purpose. The rules are tried in their order, the first that
applies decides; `docs/verdicts.md` explains them and lists the reasons.

What a report looks like is the concern of `qgjet.verdict.reports`; retries are the concern of `qgjet.retry`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum

import msgspec
from msgspec import Struct

from qgjet.events import Outcome, TestResult, Verdict
from qgjet.verdict.reports import Case, Report, Unreadable, bounded_seconds, clean, clean_line, read_junit, read_playwright

MAX_OUTCOME_BYTES = 512 * 1024
"""Of an encoded outcome: it travels in an event, and NATS takes 1 MiB."""


class Reason(StrEnum):
    """Why the verdict is what it is; `docs/verdicts.md` explains each. A passed attempt has none."""

    FLAKY = "flaky"
    ALL_SKIPPED = "all_skipped"

    TESTS_FAILED = "tests_failed"
    TEST_TIMEOUT = "test_timeout"
    FLAKY_NOT_ALLOWED = "flaky_not_allowed"
    COMMAND_FAILED = "command_failed"

    DEADLINE = "deadline"
    GLOBAL_TIMEOUT = "global_timeout"
    CANCELLED = "cancelled"

    NO_TESTS = "no_tests"
    SYNTAX_ERROR = "syntax_error"
    MODULE_NOT_FOUND = "module_not_found"
    LOAD_ERROR = "load_error"
    UNKNOWN_PROJECT = "unknown_project"
    BAD_CONFIG = "bad_config"
    BAD_OPTION = "bad_option"
    COMMAND_NOT_FOUND = "command_not_found"
    INCOMPATIBLE_PLAYWRIGHT = "incompatible_playwright"
    SETTING_MISSING = "setting_missing"
    CREDENTIALS_REFUSED = "credentials_refused"
    APP_MISSING = "app_missing"
    APP_INVALID = "app_invalid"
    SDK_INCOMPLETE = "sdk_incomplete"
    INVALID_INPUT = "invalid_input"

    DEVICE_UNAVAILABLE = "device_unavailable"
    SESSION_LOST = "session_lost"
    PORT_IN_USE = "port_in_use"
    NETWORK = "network"
    WORKER_CRASHED = "worker_crashed"
    SETUP_FAILED = "setup_failed"
    TEARDOWN_FAILED = "teardown_failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    TESTS_NOT_RUN = "tests_not_run"
    EXIT_CODE_UNEXPLAINED = "exit_code_unexplained"
    REPORT_MISSING = "report_missing"
    REPORT_UNREADABLE = "report_unreadable"
    REPORT_MISMATCH = "report_mismatch"
    LEASE_LOST = "lease_lost"
    DRAINED = "drained"
    AGENT_IO = "agent_io"
    RUNNER_FAILED = "runner_failed"


class Evidence(Struct, frozen=True, kw_only=True):
    """What one run of AppWright left behind."""

    exit_code: int | None
    """None: ended by a signal."""
    signal: str = ""
    """Its name, such as SIGKILL."""
    report: bytes | None
    """Playwright's JSON report; None: no file was written."""
    output: str = ""
    """The end of stdout and stderr; 64 KiB of it are looked at."""
    stopped: str = ""
    """Why the agent stopped it: cancelled, deadline, lease_lost, drained; empty: it did not."""
    duration_s: float
    project_dir: str
    """Absolute, symlinks resolved."""
    test: str
    """Path of the asked test file, relative to `project_dir`."""
    retries: int = 0
    """What --retries was."""


class CommandEvidence(Struct, frozen=True, kw_only=True):
    """What one run of the `command` runner left behind."""

    exit_code: int | None
    """None: ended by a signal."""
    signal: str = ""
    junit: bytes | None = None
    """JUnit XML; None: no file was written."""
    junit_due: bool = False
    """The agent's configuration says that the command writes JUnit XML."""
    output: str = ""
    stopped: str = ""
    """As in Evidence, but only when the command was still running then: unlike Playwright's report, JUnit and exit code cannot tell that it was cut short."""
    duration_s: float
    project_dir: str


Run = Evidence | CommandEvidence


def appwright_outcome(evidence: Evidence) -> Outcome:
    """The outcome of an AppWright run. Never raises."""
    report = None if evidence.report is None else read_playwright(evidence.report, project_dir=evidence.project_dir, test=evidence.test)
    finding = _judge(evidence, report)
    if evidence.stopped and not (isinstance(report, Report) and _ended_by_itself(evidence, report, finding)):
        finding = _stopped(evidence, report)
    return _outcome(evidence, report, finding)


def command_outcome(evidence: CommandEvidence) -> Outcome:
    """The outcome of a command: its JUnit report's when one was due or written, otherwise its exit code's. Never raises."""
    report = None if evidence.junit is None else read_junit(evidence.junit, project_dir=evidence.project_dir)
    if evidence.stopped:
        finding = _stopped(evidence, report)
    elif report is not None or evidence.junit_due:
        finding = _judge(evidence, report)
    else:
        finding = _bare_exit(evidence)
    return _outcome(evidence, report, finding)


class _Finding(Struct, frozen=True):
    verdict: Verdict
    reason: Reason | None = None
    message: str = ""


class _Sign(Struct, frozen=True):
    """A text that tells what went wrong without being about the app."""

    verdict: Verdict
    reason: Reason
    pattern: re.Pattern[str]


def _config(reason: Reason, pattern: str) -> _Sign:
    return _Sign(Verdict.CONFIG_ERROR, reason, re.compile(pattern))


def _infra(reason: Reason, pattern: str) -> _Sign:
    return _Sign(Verdict.INFRA_ERROR, reason, re.compile(pattern))


_SETTING = r"\b(?:ANDROID_HOME|ANDROID_SDK_ROOT|JAVA_HOME|BROWSERSTACK_\w+|LAMBDATEST_\w+)"
_TEST_SIGNS = (
    _config(Reason.INCOMPATIBLE_PLAYWRIGHT, r"Fixture .{0,300}cannot be overridden in the configuration"),
    _config(Reason.SETTING_MISSING, _SETTING + r"\b.{0,300}\b(?:not set|are required|is required|was exported)|Device name and osVersion are required"),
    _config(Reason.CREDENTIALS_REFUSED, r"Failed to create session\.[\s\S]{0,500}(?:Authorization required|Unauthorized|Invalid username or|\b401\b)"),
    _config(Reason.SDK_INCOMPLETE, r"build-tools\b.{0,300}(?:Ensure it exists|Please download)|No valid build-tools|Please install emulator from Android SDK"),
    _config(Reason.APP_INVALID, r"getApkDetails: |INSTALL_PARSE_FAILED|INSTALL_FAILED_(?:INVALID_APK|NO_MATCHING_ABIS|OLDER_SDK)|BROWSERSTACK_INVALID_APP"),
    _config(Reason.APP_MISSING, r"Build path not found|Build file not found|File not found at given path|File path is not supported for the given"),
    _config(Reason.APP_MISSING, r"[Aa]pp(?:lication)? at '.{0,300}' (?:does not exist|is not accessible)"),
    _config(Reason.MODULE_NOT_FOUND, r"Cannot find (?:module|package) '"),
    _infra(Reason.WORKER_CRASHED, r"worker process exited unexpectedly"),
    _infra(Reason.PORT_IN_USE, r"EADDRINUSE|Appium server is already running"),
    _infra(Reason.SESSION_LOST, r"invalid session id|[Ss]ession is either terminated or not started|BROWSERSTACK_IDLE_TIMEOUT|Could not proxy command"),
    _infra(Reason.SESSION_LOST, r"instrumentation process (?:is not running|cannot be initialized)"),
    _infra(Reason.DEVICE_UNAVAILABLE, r"Failed to create session|Unable to connect to \"https?:|No connected iPhone|osascript|\badb: "),
    _infra(Reason.DEVICE_UNAVAILABLE, r"[Cc]ould not find (?:an? |any )?(?:online|connected|attached|available)(?: \w+)? devices?\b"),
    _infra(Reason.DEVICE_UNAVAILABLE, r"[Ee]rror: device\b.{0,80}\b(?:offline|not found|unauthorized)|no devices/emulators found|No installed emulators"),
    _infra(Reason.DEVICE_UNAVAILABLE, r"Failed to start emulator|Emulator process exited|BROWSERSTACK_\w*QUEUE|All parallel tests are currently in use"),
    _infra(Reason.NETWORK, r"\b(?:ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)\b|socket hang up|TypeError: fetch failed"),
)
"""In the errors of tests. Written so that words of the app under test (`Invalid credentials`, a JSON SyntaxError) are not taken for ours."""
_NO_TESTS = re.compile(r"No tests found")
_RUN_SIGNS = (
    _config(Reason.UNKNOWN_PROJECT, r"Project\(s\) .* not found|No projects matched|Please specify the project name|Project name is required"),
    _config(Reason.SYNTAX_ERROR, r"\bSyntaxError: "),
    _config(Reason.LOAD_ERROR, r"duplicate test title|item focused with '\.only'"),
    _config(Reason.LOAD_ERROR, r"did not expect test[\w.]*\(\) to be called|Requiring @playwright/test second time"),
    *_TEST_SIGNS,
)
"""In errors outside of tests."""
_OUTPUT_SIGNS = (
    _config(Reason.UNKNOWN_PROJECT, r"Project\(s\) .* not found"),
    _config(Reason.BAD_OPTION, r"error: unknown option"),
    _config(Reason.MODULE_NOT_FOUND, r"Cannot find (?:module|package) '"),
    _config(Reason.SYNTAX_ERROR, r"\bSyntaxError: "),
    _config(Reason.COMMAND_NOT_FOUND, r"npm error (?:npx canceled|could not determine executable)"),
    _config(Reason.BAD_CONFIG, r"does not exist\n\s+at resolveConfigFile|\n\s+at (?:\w+ \()?.*\bconfigLoader\.js"),
)
"""In the output of a run that wrote no report: how Playwright says that it did not come to run tests."""
_TESTS_BEGAN = re.compile(r"^Running \d+ tests? using", re.MULTILINE)
_TIMED_OUT = re.compile(r"Timed out waiting [\d.]+m?s for the (?!teardown)")
_STOPPED_EARLY = re.compile(r"Testing stopped early after \d+ maximum allowed failures")
_ERROR_LINE = re.compile(r"^(?:\w*Error|error|npm error(?: code)?)(?: \[\w+\])?[: ].*$", re.MULTILINE)
_NOISE = re.compile(r"npm (?:warn|notice)|Error while running playwright test|\s*at ")
_OUTPUT_CHARS = 64 * 1024
_SIGNAL_NAMES = {1: "SIGHUP", 2: "SIGINT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def _judge(run: Run, report: Report | Unreadable | None) -> _Finding:
    """What the evidence says when the agent's own stop is left out of it."""
    if _signal(run):
        return _killed(run, report)
    if report is None:
        return _without_report(run)
    if isinstance(report, Unreadable) or report.contradiction:
        why = report.why if isinstance(report, Unreadable) else report.contradiction
        return _Finding(Verdict.INFRA_ERROR, Reason.REPORT_UNREADABLE, why)
    for rule in _RULES:
        if finding := rule(run, report):
            return finding
    return _Finding(Verdict.INFRA_ERROR, Reason.TESTS_NOT_RUN, "no test passed")


def _signal(run: Run) -> str:
    """What ended the process from outside: a shell reports 128 + n, Python -n, and Playwright exits with 130 after SIGINT."""
    name, code = clean_line(run.signal, 40), run.exit_code
    if code is None:
        return name or "a signal"
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    return name or (_SIGNAL_NAMES.get(number, f"signal {number}") if number else "")


def _killed(run: Run, report: Report | Unreadable | None) -> _Finding:
    signal = _signal(run)
    reason = Reason.INTERRUPTED if signal in ("SIGINT", "SIGTERM", "SIGHUP") else Reason.KILLED
    return _Finding(Verdict.INFRA_ERROR, reason, f"ended by {signal} {_moment(run, report)}")


def _moment(run: Run, report: Report | Unreadable | None) -> str:
    running = _cut_off(report) if isinstance(report, Report) else []
    return f"after {bounded_seconds(run.duration_s):g} s" + (f", during {running[0].result.title}" if running else "")


def _stopped(run: Run, report: Report | Unreadable | None) -> _Finding:
    moment = _moment(run, report)
    match run.stopped:
        case "cancelled":
            return _Finding(Verdict.CANCELLED, Reason.CANCELLED, f"cancelled {moment}")
        case "deadline":
            return _Finding(Verdict.TIMED_OUT, Reason.DEADLINE, f"deadline reached {moment}")
        case "lease_lost":
            return _Finding(Verdict.INFRA_ERROR, Reason.LEASE_LOST, f"the agent lost its hold on the job {moment}")
        case "drained":
            return _Finding(Verdict.INFRA_ERROR, Reason.DRAINED, f"the agent was drained {moment}")
        case other:
            return _Finding(Verdict.INFRA_ERROR, Reason.INTERRUPTED, f"stopped ({clean_line(other, 40)}) {moment}")


def _ended_by_itself(run: Evidence, report: Report, finding: _Finding) -> bool:
    """Whether our stop came too late to change anything, so that the report's verdict stands.

    The rules see to it that green needs a whole report; a failed test must have had all its tries. A stop leaves tests unfinished and takes the device away,
    so an infra error is put down to it.
    """
    cut_short = any(len(case.result.tries) <= run.retries for case in _failing(report))
    return not _signal(run) and not cut_short and finding.verdict is not Verdict.INFRA_ERROR


def _without_report(run: Run) -> _Finding:
    """The output is believed only where it says that no test was started: tests print what they like."""
    output = _tail(run)
    if run.exit_code in (126, 127):
        return _Finding(Verdict.CONFIG_ERROR, Reason.COMMAND_NOT_FOUND, _error_line(output))
    if run.exit_code != 0 and not _TESTS_BEGAN.search(output) and (sign := _sign(output, _OUTPUT_SIGNS)):
        return _Finding(sign.verdict, sign.reason, _error_line(output, sign.pattern))
    line = _error_line(output)
    return _Finding(Verdict.INFRA_ERROR, Reason.REPORT_MISSING, f"exit code {run.exit_code} and no report" + (f": {line}" if line else ""))


def _tail(run: Run) -> str:
    return clean(run.output[-_OUTPUT_CHARS:], 4 * _OUTPUT_CHARS)


def _error_line(output: str, wanted: re.Pattern[str] | None = None) -> str:
    """The line that helps a person most: the `wanted` error, else the first line that names an error, else the last one that is not noise."""
    errors = _ERROR_LINE.findall(output)
    lines = [line for line in output.split("\n") if line.strip() and not _NOISE.match(line)]
    best = [line for line in errors if wanted and wanted.search(line)] or errors or lines[-1:]
    return clean_line(best[0]) if best else ""


def _bare_exit(run: CommandEvidence) -> _Finding:
    if _signal(run):
        return _killed(run, None)
    if run.exit_code == 0:
        return _Finding(Verdict.PASSED)
    line = _error_line(_tail(run))
    if run.exit_code in (126, 127):
        return _Finding(Verdict.CONFIG_ERROR, Reason.COMMAND_NOT_FOUND, line)
    return _Finding(Verdict.FAILED, Reason.COMMAND_FAILED, f"exit code {run.exit_code}" + (f": {line}" if line else ""))


def _global_timeout(_: Run, report: Report) -> _Finding | None:
    """Playwright's --global-timeout; the tests it cut off look skipped."""
    late = next((error.text for error in report.errors if _TIMED_OUT.search(error.text)), "")
    return _Finding(Verdict.TIMED_OUT, Reason.GLOBAL_TIMEOUT, late) if late else None


def _no_tests(_: Run, report: Report) -> _Finding | None:
    """No test at all: the errors say why. Playwright adds `No tests found` to every error that kept it from loading the file."""
    if report.cases:
        return None
    errors = [error for error in report.errors if not _NO_TESTS.search(error.text)]
    if not errors:
        return _Finding(Verdict.CONFIG_ERROR, Reason.NO_TESTS, report.errors[0].text if report.errors else "the report has no tests")
    for error in errors:
        if sign := _sign(error.text, _RUN_SIGNS):
            return _Finding(sign.verdict, sign.reason, error.text)
    if len(errors) < len(report.errors) or any(error.in_asked_file for error in errors):
        return _Finding(Verdict.CONFIG_ERROR, Reason.LOAD_ERROR, errors[0].text)
    return _Finding(Verdict.INFRA_ERROR, Reason.SETUP_FAILED, errors[0].text)


def _mismatch(run: Run, report: Report) -> _Finding | None:
    if any(case.asked for case in report.cases):
        return None
    files = sorted({case.result.file or case.result.title for case in report.cases})
    asked = run.test if isinstance(run, Evidence) else "the asked file"
    return _Finding(Verdict.INFRA_ERROR, Reason.REPORT_MISMATCH, f"the report has no test of {clean_line(asked)}, but of {clean_line(', '.join(files[:3]))}")


def _interrupted(run: Run, report: Report) -> _Finding | None:
    """Interrupted tests have the outcome `skipped` and no failure in Playwright's eyes. With --max-failures the failed tests are the cause of it."""
    cut = _cut_off(report)
    early = any(_STOPPED_EARLY.search(error.text) for error in report.errors) and _failing(report)
    if not cut or early:
        return None
    return _Finding(Verdict.INFRA_ERROR, Reason.INTERRUPTED, f"{cut[0].result.title}: interrupted {_moment(run, None)}")


def _failures(_: Run, report: Report) -> _Finding | None:
    """Failed tests are about the app unless the last try of each shows a device, network or set-up error."""
    failing = _failing(report)
    if not failing:
        return None
    signs = [_blame(case) for case in failing]
    blamed = [(sign, case) for sign, case in zip(signs, failing, strict=True) if sign]
    if len(blamed) == len(failing):
        sign, case = next(((sign, case) for sign, case in blamed if sign.verdict is Verdict.INFRA_ERROR), blamed[0])
        return _Finding(sign.verdict, sign.reason, _told(case, failing, _cause(case, sign)))
    first = next(case for sign, case in zip(signs, failing, strict=True) if not sign)
    if all(case.result.outcome == "timed_out" for case in failing):
        return _Finding(Verdict.TIMED_OUT, Reason.TEST_TIMEOUT, _told(first, failing))
    return _Finding(Verdict.FAILED, Reason.TESTS_FAILED, _told(first, failing))


def _run_errors(_: Run, report: Report) -> _Finding | None:
    """Green tests and an error outside of them: a teardown that failed, a worker that broke afterwards."""
    for error in report.errors:
        if sign := _sign(error.text, _RUN_SIGNS):
            return _Finding(sign.verdict, sign.reason, error.text)
    return _Finding(Verdict.INFRA_ERROR, Reason.TEARDOWN_FAILED, report.errors[0].text) if report.errors else None


def _not_run(_: Run, report: Report) -> _Finding | None:
    left = [case for case in report.cases if not case.finished]
    return _Finding(Verdict.INFRA_ERROR, Reason.TESTS_NOT_RUN, f"{left[0].result.title}: did not run, and no failure says why") if left else None


def _bad_exit(run: Run, report: Report) -> _Finding | None:
    """Green tests and no error, but an exit code that is not 0: Playwright does so when flaky tests are not allowed."""
    if run.exit_code == 0:
        return None
    flaky = _flaky_cases(report)
    if flaky and run.exit_code == 1 and isinstance(run, Evidence):
        return _Finding(Verdict.FAILED, Reason.FLAKY_NOT_ALLOWED, _told(flaky[0], flaky))
    return _Finding(Verdict.INFRA_ERROR, Reason.EXIT_CODE_UNEXPLAINED, f"exit code {run.exit_code} though no test failed")


def _skipped(_: Run, report: Report) -> _Finding | None:
    asked = [case for case in report.cases if case.asked]
    if any(case.result.outcome != "skipped" for case in asked):
        return None
    return _Finding(Verdict.SKIPPED, Reason.ALL_SKIPPED, f"all tests of the file ({len(asked)}) are marked as skipped")


def _flaky(_: Run, report: Report) -> _Finding | None:
    flaky = _flaky_cases(report)
    return _Finding(Verdict.FLAKY, Reason.FLAKY, _told(flaky[0], flaky)) if flaky else None


def _passed(_: Run, report: Report) -> _Finding | None:
    return _Finding(Verdict.PASSED) if any(case.asked and case.result.outcome == "passed" for case in report.cases) else None


_RULES: tuple[Callable[[Run, Report], _Finding | None], ...] = (
    _global_timeout,
    _no_tests,
    _mismatch,
    _interrupted,
    _failures,
    _run_errors,
    _not_run,
    _bad_exit,
    _skipped,
    _flaky,
    _passed,
)


def _failing(report: Report) -> list[Case]:
    return [case for case in report.cases if case.result.outcome in ("failed", "timed_out")]


def _cut_off(report: Report) -> list[Case]:
    return [case for case in report.cases if case.result.outcome == "interrupted"]


def _flaky_cases(report: Report) -> list[Case]:
    return [case for case in report.cases if case.result.outcome == "flaky"]


def _sign(text: str, signs: Iterable[_Sign]) -> _Sign | None:
    return next((sign for sign in signs if sign.pattern.search(text)), None)


def _blame(case: Case) -> _Sign | None:
    """What is to blame for a failed test instead of the app. A dead device may show only in the test's second error: infra counts wherever it stands."""
    signs = [sign for text in case.causes if (sign := _sign(text, _TEST_SIGNS))]
    return next((sign for sign in signs if sign.verdict is Verdict.INFRA_ERROR), signs[0] if signs else None)


def _cause(case: Case, sign: _Sign) -> str:
    return next(text for text in case.causes if sign.pattern.search(text))


def _told(case: Case, cases: list[Case], why: str = "") -> str:
    """One case as a sentence: its title, why, and how many share its fate."""
    errors = [try_.error.message for try_ in case.result.tries if try_.error]
    others = f"\n(and {len(cases) - 1} more)" if len(cases) > 1 else ""
    return clean(f"{case.result.title}: {why or (errors[-1] if errors else case.result.outcome)}", 2000) + others


def _outcome(run: Run, report: Report | Unreadable | None, finding: _Finding) -> Outcome:
    return _fit(
        Outcome(
            verdict=finding.verdict,
            reason=finding.reason.value if finding.reason else "",
            message=clean(finding.message),
            exit_code=run.exit_code,
            signal=clean_line(run.signal, 40),
            duration_s=bounded_seconds(run.duration_s),
            tests=tuple(case.result for case in report.cases) if isinstance(report, Report) else (),
        )
    )


_ORDER = {"failed": 0, "timed_out": 0, "interrupted": 0, "flaky": 1}
"""What is kept first when there is not room for everything."""


def _fit(outcome: Outcome) -> Outcome:
    """The outcome within its size: passed tests lose their tries first, then whole tests go, failed ones last."""
    if _size(outcome) <= MAX_OUTCOME_BYTES:
        return outcome
    slim = [msgspec.structs.replace(test, tries=()) if test.outcome not in _ORDER else test for test in outcome.tests]
    room = MAX_OUTCOME_BYTES - _size(msgspec.structs.replace(outcome, tests=(), tests_omitted=len(slim))) - len(',"tests":[]')
    kept: set[int] = set()
    for index in sorted(range(len(slim)), key=lambda index: _ORDER.get(slim[index].outcome, 2)):
        room -= _size(slim[index]) + 1
        if room < 0:
            break
        kept.add(index)
    return msgspec.structs.replace(outcome, tests=tuple(slim[index] for index in sorted(kept)), tests_omitted=len(slim) - len(kept))


def _size(value: Outcome | TestResult) -> int:
    return len(msgspec.json.encode(value))
