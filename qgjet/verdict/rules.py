"""What one attempt came to: the rules from exit code, report and output to an `Outcome`.

Pure and total: every evidence gives an outcome, the same one each time. Green (passed, flaky,
skipped) needs positive proof: a readable report of the asked file, exit code 0, every test come to
its end, and one that really passed or all of them skipped on purpose. The rules are tried in their
order, the first that applies decides; `docs/verdicts.md` explains them and lists the reasons.

The readers (`playwright`, `junit`) turn a report into cases; `blame` decides for each try whether
the app is at fault. Retries are the concern of `qgjet.domain.retry`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec
from msgspec import Struct

from qgjet.domain.events import Outcome, TestResult, Verdict
from qgjet.verdict.evidence import (
    ASSERTIONS,
    CommandEvidence,
    ErrorKind,
    Evidence,
    Phase,
    ReportedCase,
    ReportedError,
    ReportUnreadable,
    RunnerReport,
)
from qgjet.verdict.junit import read_junit
from qgjet.verdict.playwright import read_playwright
from qgjet.verdict.reasons import Reason
from qgjet.verdict.text import bounded_seconds, clean, clean_line

MAX_OUTCOME_BYTES = 512 * 1024
"""Of an encoded outcome: it travels in an event, and NATS takes 1 MiB."""


Run = Evidence | CommandEvidence


def appwright_outcome(evidence: Evidence) -> Outcome:
    """The outcome of an AppWright run. Never raises."""
    report = None
    if evidence.report is not None:
        report = read_playwright(
            evidence.report,
            project_dir=evidence.project_dir,
            test=evidence.test,
            patterns=evidence.patterns,
        )
    finding = _judge(evidence, report)
    if evidence.stopped and not (
        isinstance(report, RunnerReport) and _ended_by_itself(evidence, report, finding)
    ):
        finding = _stopped(evidence, report)
    return _outcome(evidence, report, finding)


def command_outcome(evidence: CommandEvidence) -> Outcome:
    """The outcome of a command: its JUnit report's when one was due or written, otherwise its exit
    code's. Never raises.
    """
    report = (
        None
        if evidence.junit is None
        else read_junit(
            evidence.junit, project_dir=evidence.project_dir, patterns=evidence.patterns
        )
    )
    if evidence.stopped:
        finding = _stopped(evidence, report)
    elif report is not None or evidence.junit_due:
        finding = _judge(evidence, report)
    else:
        finding = _bare_exit(evidence)
    return _outcome(evidence, report, finding)


class Judgement(Struct, frozen=True):
    """A verdict, its reason, and a message."""

    verdict: Verdict
    reason: Reason | None = None
    message: str = ""
    final: bool = False


class _OutputSign(Struct, frozen=True):
    """How Playwright's output reports that it did not come to run tests."""

    reason: Reason
    pattern: re.Pattern[str]


_SYNTAX_ERROR = re.compile(
    r"SyntaxError: (?![\s\S]{0,300}?(?:is not valid JSON|JSON input|in JSON\b))"
)
"""Of a file. One about JSON is of an answer that a server gave."""
_WORKER_TAIL = re.compile(r"\n+Failed worker ran \d+ tests?[.:][\s\S]*")
_PYTEST_NO_TESTS = 5
_NO_TESTS = re.compile(r"(?:Error: )?No tests found")
_OUTPUT_SIGNS = tuple(
    _OutputSign(reason, re.compile(pattern, re.MULTILINE))
    for reason, pattern in (
        (Reason.UNKNOWN_PROJECT, r"^(?:Error: )?Project\(s\) .* not found"),
        (Reason.BAD_OPTION, r"^error: unknown option"),
        (Reason.BAD_OPTION, r"^(?:Error: )?(?:--\S+|Option) .*(?:must be|argument)"),
        (Reason.MODULE_NOT_FOUND, r"^(?:Error: |Error \[\w+\]: )?Cannot find (?:module|package) '"),
        (Reason.SYNTAX_ERROR, rf"^{_SYNTAX_ERROR.pattern}"),
        (Reason.COMMAND_NOT_FOUND, r"^npm error (?:npx canceled|could not determine executable)"),
        (
            Reason.BAD_CONFIG,
            r"does not exist\n\s+at resolveConfigFile|\n\s+at (?:\w+ \()?.*\bconfigLoader\.js",
        ),
    )
)
"""In the output of a run that wrote no report."""
_TESTS_BEGAN = re.compile(r"^Running \d+ tests? using", re.MULTILINE)
_TIMED_OUT = re.compile(r"Timed out waiting [\d.]+m?s for the (?!teardown)")
_STOPPED_EARLY = re.compile(r"Testing stopped early after \d+ maximum allowed failures")
_ERROR_LINE = re.compile(
    r"^(?:\w*Error|error|npm error(?: code)?)(?: \[\w+\])?[: ].*$", re.MULTILINE
)
_NOISE = re.compile(r"npm (?:warn|notice)|Error while running playwright test|\s*at ")
_OUTPUT_CHARS = 64 * 1024
_SIGNAL_NAMES = {1: "SIGHUP", 2: "SIGINT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def _judge(run: Run, report: RunnerReport | ReportUnreadable | None) -> Judgement:
    """What the evidence shows when the agent's own stop is left out of it."""
    if _signal(run) and not _counts_failures(run, report):
        return _killed(run, report)
    if report is None:
        return _without_report(run)
    if isinstance(report, ReportUnreadable):
        return Judgement(Verdict.INFRA_ERROR, Reason.REPORT_UNREADABLE, report.why)
    for rule in _RULES:
        if finding := rule(run, report):
            return finding
    return Judgement(Verdict.INFRA_ERROR, Reason.TESTS_NOT_RUN, "no test passed")


def _signal(run: Run) -> str:
    """What ended the process from outside: a shell reports 128 + n, Python -n, and Playwright exits
    with 130 after SIGINT.
    """
    name, code = clean_line(run.signal, 40), run.exit_code
    if code is None:
        return name or "a signal"
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    return name or (_SIGNAL_NAMES.get(number, f"signal {number}") if number else "")


def _counts_failures(run: Run, report: RunnerReport | ReportUnreadable | None) -> bool:
    """Whether an exit code above 128 is the number of failed tests: a whole report with failures
    beside it shows that.
    """
    above = (
        isinstance(run, CommandEvidence)
        and not run.signal
        and run.exit_code is not None
        and run.exit_code > 128
    )
    return (
        above
        and isinstance(report, RunnerReport)
        and not report.damage
        and not report.contradiction
        and bool(_failing(report))
    )


def _killed(run: Run, report: RunnerReport | ReportUnreadable | None) -> Judgement:
    signal = _signal(run)
    reason = Reason.INTERRUPTED if signal in ("SIGINT", "SIGTERM", "SIGHUP") else Reason.KILLED
    return Judgement(Verdict.INFRA_ERROR, reason, f"ended by {signal} {_moment(run, report)}")


def _moment(run: Run, report: RunnerReport | ReportUnreadable | None) -> str:
    running = _cut_off(report) if isinstance(report, RunnerReport) else []
    return f"after {bounded_seconds(run.duration_s):g} s" + (
        f", during {running[0].result.title}" if running else ""
    )


def _stopped(run: Run, report: RunnerReport | ReportUnreadable | None) -> Judgement:
    moment = _moment(run, report)
    match run.stopped:
        case "cancelled":
            return Judgement(Verdict.CANCELLED, Reason.CANCELLED, f"cancelled {moment}")
        case "deadline":
            return Judgement(Verdict.TIMED_OUT, Reason.DEADLINE, f"deadline reached {moment}")
        case "lease_lost":
            return Judgement(
                Verdict.INFRA_ERROR,
                Reason.LEASE_LOST,
                f"the agent lost its hold on the job {moment}",
            )
        case "drained":
            return Judgement(Verdict.INFRA_ERROR, Reason.DRAINED, f"the agent was drained {moment}")
        case other:
            return Judgement(
                Verdict.INFRA_ERROR,
                Reason.INTERRUPTED,
                f"stopped ({clean_line(other, 40)}) {moment}",
            )


def _ended_by_itself(run: Evidence, report: RunnerReport, finding: Judgement) -> bool:
    """Whether our stop came too late to change anything, so that the report's verdict stands.

    The rules see to it that green needs a whole report; a failed test must have had all its tries.
    A stop leaves tests unfinished and takes the device away, so an infra error is put down to it.
    """
    cut_short = any(len(case.result.tries) <= run.retries for case in _failing(report))
    return not _signal(run) and not cut_short and finding.verdict is not Verdict.INFRA_ERROR


def _without_report(run: Run) -> Judgement:
    """The output is believed only where it shows that no test was started: tests print what they
    like.
    """
    output = _tail(run)
    if run.exit_code in (126, 127):
        return Judgement(Verdict.CONFIG_ERROR, Reason.COMMAND_NOT_FOUND, _error_line(output))
    if run.exit_code != 0 and not _TESTS_BEGAN.search(output):
        for sign in _OUTPUT_SIGNS:
            if sign.pattern.search(output):
                return Judgement(
                    Verdict.CONFIG_ERROR, sign.reason, _error_line(output, sign.pattern)
                )
    line = _error_line(output)
    return Judgement(
        Verdict.INFRA_ERROR,
        Reason.REPORT_MISSING,
        f"exit code {run.exit_code} and no report" + (f": {line}" if line else ""),
    )


def _tail(run: Run) -> str:
    return clean(run.output[-_OUTPUT_CHARS:], 4 * _OUTPUT_CHARS)


def _error_line(output: str, wanted: re.Pattern[str] | None = None) -> str:
    """The line that helps a person most: the `wanted` error, else the first line that names an
    error, else the last one that is not noise.
    """
    errors = _ERROR_LINE.findall(output)
    lines = [line for line in output.split("\n") if line.strip() and not _NOISE.match(line)]
    best = [line for line in errors if wanted and wanted.search(line)] or errors or lines[-1:]
    return clean_line(best[0]) if best else ""


def _last_line(output: str) -> str:
    lines = [line for line in output.split("\n") if line.strip() and not _NOISE.match(line)]
    return clean_line(lines[-1]) if lines else ""


def _bare_exit(run: CommandEvidence) -> Judgement:
    if _signal(run):
        return _killed(run, None)
    if run.exit_code == 0:
        return Judgement(Verdict.PASSED)
    line = _error_line(_tail(run))
    if run.exit_code in (126, 127):
        return Judgement(Verdict.CONFIG_ERROR, Reason.COMMAND_NOT_FOUND, line)
    return Judgement(
        Verdict.FAILED,
        Reason.COMMAND_FAILED,
        f"exit code {run.exit_code}" + (f": {line}" if line else ""),
    )


def _global_timeout(_: Run, report: RunnerReport) -> Judgement | None:
    """Playwright's --global-timeout; the tests it cut off look skipped. A test that had failed
    before is a failure.
    """
    if any(case.result.outcome == "failed" and not case.blame for case in report.cases):
        return None
    late = next((error.text for error in report.errors if _TIMED_OUT.search(error.text)), "")
    return Judgement(Verdict.TIMED_OUT, Reason.GLOBAL_TIMEOUT, late) if late else None


def _no_tests(run: Run, report: RunnerReport) -> Judgement | None:
    """No test case at all: the errors show why. Playwright adds `No tests found` to every error
    that kept it from loading the file.
    """
    if report.cases:
        return None
    errors = [error for error in report.errors if not _NO_TESTS.match(error.text)]
    if not errors:
        return _nothing(run, report)
    for error in errors:
        if error.sign is not None:
            return Judgement(error.sign.verdict, error.sign.reason, error.text)
    not_loaded = len(errors) < len(report.errors)
    if isinstance(run, CommandEvidence) and any(error.kind in ASSERTIONS for error in errors):
        return Judgement(
            Verdict.FAILED,
            Reason.TESTS_FAILED,
            next(error.text for error in errors if error.kind in ASSERTIONS),
        )
    if _SYNTAX_ERROR.match(errors[0].text) and (
        not_loaded or any(error.in_asked_file for error in errors)
    ):
        return Judgement(Verdict.CONFIG_ERROR, Reason.SYNTAX_ERROR, errors[0].text)
    if not_loaded or any(error.in_asked_file for error in errors):
        return Judgement(Verdict.CONFIG_ERROR, Reason.LOAD_ERROR, errors[0].text)
    return Judgement(Verdict.INFRA_ERROR, Reason.SETUP_FAILED, errors[0].text)


def _nothing(run: Run, report: RunnerReport) -> Judgement:
    """Neither a test case nor an error. A command that failed before its first test is tried again;
    pytest exits with 5 when it finds none.
    """
    if (
        isinstance(run, Evidence)
        or run.exit_code == 0
        or (run.exit_code == _PYTEST_NO_TESTS and report.tool.startswith("pytest"))
    ):
        return Judgement(
            Verdict.CONFIG_ERROR,
            Reason.NO_TESTS,
            report.errors[0].text if report.errors else "the report has no tests",
        )
    line = _last_line(_tail(run))
    return Judgement(
        Verdict.INFRA_ERROR,
        Reason.TESTS_NOT_RUN,
        f"exit code {run.exit_code} and no test case in the report" + (f": {line}" if line else ""),
    )


def _mismatch(run: Run, report: RunnerReport) -> Judgement | None:
    if any(case.asked for case in report.cases):
        return None
    files = sorted({case.result.file or case.result.title for case in report.cases})
    asked = run.test if isinstance(run, Evidence) else "the asked file"
    return Judgement(
        Verdict.INFRA_ERROR,
        Reason.REPORT_MISMATCH,
        f"the report has no test of {clean_line(asked)}, but of {clean_line(', '.join(files[:3]))}",
    )


def _interrupted(run: Run, report: RunnerReport) -> Judgement | None:
    """Interrupted tests have the outcome `skipped` and no failure in Playwright's eyes. With
    --max-failures the failed tests are the cause of it.
    """
    cut = _cut_off(report)
    early = any(_STOPPED_EARLY.search(error.text) for error in report.errors) and _failing(report)
    if (
        not cut
        or early
        or (isinstance(run, CommandEvidence) and any(not case.blame for case in _failing(report)))
    ):
        return None
    return Judgement(
        Verdict.INFRA_ERROR,
        Reason.INTERRUPTED,
        f"{cut[0].result.title}: interrupted {_moment(run, None)}",
    )


def _failures(_: Run, report: RunnerReport) -> Judgement | None:
    """Failed tests are about the app unless every failed try of each shows a device, network or
    set-up error.
    """
    failing = _with_own_words(_failing(report))
    if not failing:
        return None
    count = sum(report.totals.get(outcome, 0) for outcome in ("failed", "timed_out"))
    blamed = [(case.blame, case) for case in failing if case.blame]
    if len(blamed) == len(failing):
        blame, case = next(
            (one for one in blamed if one[0].sign.verdict is Verdict.INFRA_ERROR), blamed[0]
        )
        return Judgement(blame.sign.verdict, blame.sign.reason, _described(case, count, blame.text))
    first = next(case for case in failing if not case.blame)
    message = _described(first, count)
    if {case.result.outcome for case in failing if case.words and not case.blame} == {"timed_out"}:
        return Judgement(Verdict.TIMED_OUT, Reason.TEST_TIMEOUT, message)
    return Judgement(
        Verdict.FAILED, Reason.TESTS_FAILED, message, final=any(case.final for case in failing)
    )


def _with_own_words(failing: list[ReportedCase]) -> list[ReportedCase]:
    """Without the cases that only stand for their failed subtests, as Go writes them."""
    ids = [case.result.id for case in failing]
    return [
        case
        for case in failing
        if case.words or not any(other.startswith(case.result.id + "/") for other in ids)
    ]


def _run_errors(_: Run, report: RunnerReport) -> Judgement | None:
    """Green tests and an error outside of them.

    An assertion that nothing waited for is about the app, and so is an error that a test's own code
    threw in its worker. Anything else is a teardown that failed, or a worker that broke afterwards.
    """
    shown = next(
        (error for error in report.errors if error.kind in ASSERTIONS or _in_worker(error)), None
    )
    if shown is not None:
        return Judgement(Verdict.FAILED, Reason.TESTS_FAILED, _WORKER_TAIL.sub("", shown.text))
    for error in report.errors:
        if error.sign is not None:
            return Judgement(error.sign.verdict, error.sign.reason, error.text)
    return (
        Judgement(Verdict.INFRA_ERROR, Reason.TEARDOWN_FAILED, report.errors[0].text)
        if report.errors
        else None
    )


def _in_worker(error: ReportedError) -> bool:
    """Whether the team's own code threw an error in a worker that had run tests. Global teardown
    has no worker.
    """
    own = (
        error.kind is ErrorKind.THROWN and error.sign is None and error.phase is not Phase.TEARDOWN
    )
    return own and bool(_WORKER_TAIL.search(error.text))


def _incomplete(_: Run, report: RunnerReport) -> Judgement | None:
    """A report that is not whole: failures in it count, passes do not."""
    if report.damage:
        return Judgement(
            Verdict.INFRA_ERROR, Reason.REPORT_UNREADABLE, f"the report is damaged: {report.damage}"
        )
    if report.contradiction:
        return Judgement(Verdict.INFRA_ERROR, Reason.REPORT_INCOMPLETE, report.contradiction)
    if report.sharded:
        return Judgement(
            Verdict.CONFIG_ERROR,
            Reason.SHARDED,
            f"only shard {report.sharded} of the tests ran: remove `shard` from the configuration",
        )
    return None


def _not_run(_: Run, report: RunnerReport) -> Judgement | None:
    left = [case for case in report.cases if not case.finished]
    return (
        Judgement(
            Verdict.INFRA_ERROR,
            Reason.TESTS_NOT_RUN,
            f"{left[0].result.title}: did not run, and no failure explains it",
        )
        if left
        else None
    )


def _bad_exit(run: Run, report: RunnerReport) -> Judgement | None:
    """Green tests and no error, but an exit code that is not 0: Playwright does so when flaky tests
    are not allowed.
    """
    if run.exit_code == 0:
        return None
    flaky = _flaky_cases(report)
    if flaky and isinstance(
        run, CommandEvidence
    ):  # the command does not take the failed try for settled, or these were two tests of one name
        return Judgement(
            Verdict.FAILED, Reason.TESTS_FAILED, _described(flaky[0], report.totals["flaky"])
        )
    blamed = [case.tries_blame for case in flaky if case.tries_blame]
    if flaky and run.exit_code == 1 and len(blamed) == len(flaky):
        return Judgement(
            blamed[0].sign.verdict,
            blamed[0].sign.reason,
            _described(flaky[0], report.totals["flaky"], blamed[0].text),
        )
    if flaky and run.exit_code == 1:
        return Judgement(
            Verdict.FAILED, Reason.FLAKY_NOT_ALLOWED, _described(flaky[0], report.totals["flaky"])
        )
    return Judgement(
        Verdict.INFRA_ERROR,
        Reason.EXIT_CODE_UNEXPLAINED,
        f"exit code {run.exit_code} though no test failed",
    )


def _unproven(_: Run, report: RunnerReport) -> Judgement | None:
    """A pass that proves nothing: an expected failure without a device, or "not visible" on a hub
    that did not answer.
    """
    for case in report.cases:
        if case.blame and not case.failing:
            sign = case.blame.sign
            return Judgement(sign.verdict, sign.reason, _described(case, 1, case.blame.text))
    return None


def _skipped(_: Run, report: RunnerReport) -> Judgement | None:
    asked = [case for case in report.cases if case.asked]
    if any(case.result.outcome != "skipped" for case in asked):
        return None
    return Judgement(
        Verdict.SKIPPED,
        Reason.ALL_SKIPPED,
        f"all tests of the file ({len(asked) + report.omitted}) are marked as skipped",
    )


def _flaky(_: Run, report: RunnerReport) -> Judgement | None:
    flaky = _flaky_cases(report)
    return (
        Judgement(Verdict.FLAKY, Reason.FLAKY, _described(flaky[0], report.totals["flaky"]))
        if flaky
        else None
    )


def _passed(_: Run, report: RunnerReport) -> Judgement | None:
    return (
        Judgement(Verdict.PASSED)
        if any(case.asked and case.result.outcome == "passed" for case in report.cases)
        else None
    )


_RULES: tuple[Callable[[Run, RunnerReport], Judgement | None], ...] = (
    _global_timeout,
    _no_tests,
    _mismatch,
    _interrupted,
    _failures,
    _run_errors,
    _incomplete,
    _not_run,
    _bad_exit,
    _unproven,
    _skipped,
    _flaky,
    _passed,
)


def _failing(report: RunnerReport) -> list[ReportedCase]:
    return [case for case in report.cases if case.failing]


def _cut_off(report: RunnerReport) -> list[ReportedCase]:
    return [case for case in report.cases if case.result.outcome == "interrupted"]


def _flaky_cases(report: RunnerReport) -> list[ReportedCase]:
    return [case for case in report.cases if case.result.outcome == "flaky"]


def _described(case: ReportedCase, count: int, why: str = "") -> str:
    """One case: its title, why, and how many share its fate."""
    errors = [one.error.message for one in case.result.tries if one.error]
    others = f"\n(and {count - 1} more)" if count > 1 else ""
    return (
        clean(
            f"{case.result.title}: {why or case.cause or (errors[-1] if errors else case.result.outcome)}",
            2000,
        )
        + others
    )


def _tests(run: Run, report: RunnerReport, finding: Judgement) -> tuple[TestResult, ...]:
    """The tests of a report. When a command failed and only its flaky tests can be why, they
    failed: it does not take their last try for an answer.
    """
    results = tuple(case.result for case in report.cases)
    if isinstance(run, Evidence) or finding.reason is not Reason.TESTS_FAILED or _failing(report):
        return results
    return tuple(
        msgspec.structs.replace(one, outcome="failed") if one.outcome == "flaky" else one
        for one in results
    )


def _outcome(
    run: Run, report: RunnerReport | ReportUnreadable | None, finding: Judgement
) -> Outcome:
    return _fit(
        Outcome(
            verdict=finding.verdict,
            reason=finding.reason.value if finding.reason else "",
            message=clean(finding.message),
            exit_code=run.exit_code,
            signal=clean_line(run.signal, 40),
            duration_s=bounded_seconds(run.duration_s),
            tests=_tests(run, report, finding) if isinstance(report, RunnerReport) else (),
            tests_omitted=report.omitted if isinstance(report, RunnerReport) else 0,
            final=finding.final,
        ),
        run.must_keep,
    )


_ORDER = {"failed": 0, "timed_out": 0, "interrupted": 0, "flaky": 1}
"""What is kept first when there is not room for everything."""


def _fit(outcome: Outcome, must_keep: frozenset[str]) -> Outcome:
    """The outcome within its size: passed tests lose their tries first, then whole tests go, failed
    ones and those that failed before last.
    """
    if _size(outcome) <= MAX_OUTCOME_BYTES:
        return outcome
    slim = [
        msgspec.structs.replace(test, tries=()) if test.outcome not in _ORDER else test
        for test in outcome.tests
    ]
    room = (
        MAX_OUTCOME_BYTES
        - _size(
            msgspec.structs.replace(
                outcome, tests=(), tests_omitted=outcome.tests_omitted + len(slim)
            )
        )
        - len(',"tests":[]')
    )
    kept: set[int] = set()
    for index in sorted(
        range(len(slim)),
        key=lambda index: 0 if slim[index].id in must_keep else _ORDER.get(slim[index].outcome, 2),
    ):
        room -= _size(slim[index]) + 1
        if room < 0:
            break
        kept.add(index)
    return msgspec.structs.replace(
        outcome,
        tests=tuple(slim[index] for index in sorted(kept)),
        tests_omitted=outcome.tests_omitted + len(slim) - len(kept),
    )


def _size(value: Outcome | TestResult) -> int:
    return len(msgspec.json.encode(value))
