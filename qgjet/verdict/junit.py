"""Reads JUnit XML of any tool and any size. Pure but for the reads of its source.

Any bytes give a `RunnerReport` or a `ReportUnreadable`, never an exception. `docs/verdicts.md` has
a table of what tools write and how it is read; each row has a test.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from io import BytesIO
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain.events import TestError, TestResult, Try, Verdict
from qgjet.verdict.blame import blame_of_case, cause_of_case, settled
from qgjet.verdict.classification import classify
from qgjet.verdict.collector import CaseCollector
from qgjet.verdict.evidence import (
    ErrorKind,
    Phase,
    ReportedCase,
    ReportedError,
    ReportUnreadable,
    RunnerReport,
    TryEvidence,
)
from qgjet.verdict.paths import ProjectTree, as_posix
from qgjet.verdict.patterns import Patterns, Sign, Swallowed
from qgjet.verdict.playwright import MAX_TRIES
from qgjet.verdict.reasons import Reason
from qgjet.verdict.text import MAX_RAW_CHARS, bounded_line, bounded_seconds, clean, clean_line
from qgjet.verdict.xml_stream import XmlError, walk

MAX_MARKS = 200
"""Failures of one test case that are read."""
MAX_SUITE_ERRORS = 1000
MAX_OPEN_CASES = 20_000
MAX_OPEN_BYTES = 16 * 1024 * 1024
"""Of test cases that wait for another try of theirs further down in the document."""
_OF = " \u203a "

_FAILURES = frozenset({"failure", "error"})
_RERUNS = frozenset({"rerunfailure", "rerunerror"})
_FLAKES = frozenset({"flakyfailure", "flakyerror"})
_SKIPS = frozenset({"skipped", "ignored", "disabled", "pending", "skip", "notrun"})
_MARKS = _FAILURES | _RERUNS | _FLAKES | _SKIPS
_OUTPUT = frozenset({"system-out", "system-err"})

_PASSED = frozenset(
    {"", "success", "successful", "succeeded", "passed", "pass", "ok", "run", "completed", "complete", "done", "finished", "executed",
     "true", "warning", "warn", "passedwithwarnings", "flaky", "fixed", "active", "enabled", "xpass"}
)  # fmt: skip
_NO = frozenset({"false", "no", "0"})
_YES = frozenset({"true", "yes", "1"})
_STATUS_ATTRIBUTES = ("status", "result", "outcome", "state")
_FAILED = frozenset(
    {"failed", "fail", "failure", "error", "errored", "broken", "crashed", "invalid"}
)
_TIMED_OUT = frozenset({"timeout", "timedout", "timed_out", "timed-out"})
_SKIPPED = frozenset(
    {
        "skipped",
        "skip",
        "ignored",
        "disabled",
        "notrun",
        "not_run",
        "not run",
        "suppressed",
        "todo",
        "inconclusive",
        "notexecuted",
        "not_executed",
        "xfail",
    }
)
_UNFINISHED = frozenset(
    {
        "canceled",
        "cancelled",
        "stopped",
        "aborted",
        "interrupted",
        "running",
        "pending",
        "inprogress",
        "in_progress",
        "queued",
        "unknown",
    }
)


_NOT_LOADED = {
    "collection failure": Sign(Verdict.CONFIG_ERROR, Reason.LOAD_ERROR),
    "internal error": Sign(Verdict.INFRA_ERROR, Reason.SETUP_FAILED),
}
"""Messages of pytest about what is no test."""


class _Mark(Struct):
    """An element inside a test case or a suite that shows how it went."""

    kind: str
    type: str
    message: str
    text: str = ""


class _Suite(Struct):
    """A suite that is open in the document."""

    identity: tuple[str, ...]
    tests: int
    failures: int
    left_out: int
    """Tests that it counts as skipped; a tool may leave them out."""
    refusal: str = ""
    """The attribute that shows that it did not pass."""
    named: int = 0
    named_failures: int = 0
    named_skips: int = 0


class _OpenCase(Struct):
    """A test case with its tries so far."""

    result: TestResult
    tries: list[Try]
    evidence: list[TryEvidence]
    outcomes: list[str]
    size: int = 0


class _Reader:
    """Collects the test cases of one document while it is walked through."""

    def __init__(self, tree: ProjectTree, patterns: Patterns) -> None:
        self._tree, self._patterns = tree, patterns
        self.collector = CaseCollector()
        self.errors: list[ReportedError] = []
        self.contradiction = ""
        self.tool = ""
        """pytest names its suite after itself."""
        self._path: list[str] = []
        self._suites: list[_Suite] = []
        self._attributes: dict[str, str] | None = None
        self._marks: list[_Mark] = []
        self._in_mark = 0
        self._suite_mark: _Mark | None = None
        self._swallowed: list[Swallowed] = []
        self._line = ""
        self._open: OrderedDict[tuple[str, ...], _OpenCase] = OrderedDict()
        self._open_bytes = 0
        self._outer: list[tuple[dict[str, str] | None, list[_Mark], list[Swallowed]]] = []
        """What is open around a test case: nothing, or another test case."""
        self._numbered = 0

    # -- what the walk calls -----------------------------------------------------------------------------------------

    def start(self, name: str, attributes: dict[str, str]) -> None:
        kind = name.lower()
        attributes = {key.lower(): value for key, value in attributes.items()}
        self._path.append(kind)
        if kind in ("testsuites", "testsuite"):
            self._numbered += 1
            self._suites.append(_suite(attributes, kind, self._numbered))
            self.tool = self.tool or attributes.get("name", "")[:40]
        elif kind == "testcase":
            self._outer.append((self._attributes, self._marks, self._swallowed))
            self._attributes, self._marks, self._swallowed = attributes, [], []
        elif (
            kind in _MARKS
            and not self._in_mark
            and (self._attributes is not None or kind in _FAILURES)
        ):
            self._mark(
                _Mark(
                    kind,
                    attributes.get("type", "")[:MAX_RAW_CHARS],
                    attributes.get("message", "")[:MAX_RAW_CHARS],
                )
            )

    def text(self, text: str) -> None:
        if self._path and self._path[-1] in _OUTPUT:
            if self._attributes is not None:
                self._output(text)
            return
        mark = self._suite_mark or (self._marks[-1] if self._marks and self._in_mark else None)
        if (
            mark is not None
            and self._in_mark
            and not _OUTPUT.intersection(self._path[self._in_mark :])
        ):
            mark.text += text[: MAX_RAW_CHARS - len(mark.text)]

    def end(self, name: str) -> None:
        kind = self._path.pop() if self._path else name.lower()
        if self._in_mark and len(self._path) < self._in_mark:
            self._end_mark()
        elif kind in _OUTPUT:
            self._output("\n")
        elif kind == "testcase" and self._attributes is not None:
            self._end_case(self._attributes)
        elif kind in ("testsuites", "testsuite") and self._suites:
            self._end_suite(self._suites.pop())

    def finish(self) -> None:
        """Read what is open: the last tries, and suites that a broken document never closed."""
        if self._attributes is not None:
            self._attributes = None
        while self._suites:
            self._end_suite(self._suites.pop())
        for case in self._open.values():
            self._collect(case)
        self._open.clear()

    # -- marks, cases, suites ----------------------------------------------------------------------------------------

    def _mark(self, mark: _Mark) -> None:
        self._in_mark = len(self._path)
        if self._attributes is None:
            self._suite_mark = mark
        elif len(self._marks) < MAX_MARKS:
            self._marks.append(mark)

    def _end_mark(self) -> None:
        self._in_mark = 0
        mark, self._suite_mark = self._suite_mark, None
        if mark is None:
            return
        for suite in self._suites:
            suite.named_failures += 1
        if len(self.errors) < MAX_SUITE_ERRORS:
            self.errors.append(self._error(mark, Phase.OUTSIDE))

    def _output(self, text: str) -> None:
        """Look for swallowed errors in the lines of a test case's output."""
        if "\n" not in text:
            self._line = (self._line + text)[:MAX_RAW_CHARS]
            return
        lines = (self._line + text).split("\n")
        self._line = lines.pop()[:MAX_RAW_CHARS]
        for line in lines:
            found = (
                self._patterns.swallowed(clean(line[:MAX_RAW_CHARS]))
                if len(self._swallowed) < MAX_TRIES
                else None
            )
            if found is not None and not self._patterns.is_benign(found.error):
                self._swallowed.append(found)

    def _error(self, mark: _Mark, phase: Phase) -> ReportedError:
        error = classify(
            mark.message,
            details=mark.text,
            type_name=mark.type,
            patterns=self._patterns,
            phase=phase,
        )
        if error.sign is None and mark.message in _NOT_LOADED:
            return replace(error, sign=_NOT_LOADED[mark.message])
        return error

    def _end_case(self, attributes: dict[str, str]) -> None:
        for mark in self._marks:
            mark.message, mark.text = _ESCAPES.sub("", mark.message), _ESCAPES.sub("", mark.text)
        outcome = _outcome(attributes, self._marks)
        duration_s = seconds_of(attributes.get("time", ""))
        tries = self._tries(attributes, outcome, duration_s)
        if outcome == "failed" and all(one.status == "timed_out" for one, _ in tries):
            outcome = "timed_out"
        for suite in self._suites:
            suite.named += 1
            suite.named_failures += outcome in ("failed", "timed_out")
            suite.named_failures += (
                sum(one.status == "failed" for one, _ in tries) if outcome == "flaky" else 0
            )
            suite.named_skips += outcome == "skipped"
        result = self._result(attributes, outcome)
        self._numbered += 1
        name = attributes.get("name", "") or str(self._numbered)
        where = tuple(part for suite in self._suites for part in suite.identity)
        self._add(
            (
                *where,
                attributes.get("classname", ""),
                name,
                attributes.get("file", ""),
                attributes.get("line", ""),
            ),
            result,
            tries,
        )
        self._attributes, self._marks, self._swallowed = (
            self._outer.pop() if self._outer else (None, [], [])
        )

    def _result(self, attributes: dict[str, str], outcome: str) -> TestResult:
        name, group = attributes.get("name", ""), self._group(attributes.get("classname", ""))
        file = self._tree.relative(path) if (path := as_posix(attributes.get("file", ""))) else ""
        return TestResult(
            id=clean_line(f"{group}::{name}", 200),
            title=clean_line(_OF.join(filter(None, (group, name)))),
            file=file,
            line=bounded_line(_count(attributes.get("line"))) if file else 0,
            outcome=outcome,
        )

    def _group(self, classname: str) -> str:
        """The class name. One that is an absolute path is made relative, or becomes its last part."""
        if not re.match(r"/|[A-Za-z]:[\\/]|\\\\|file:", classname):
            return classname
        return (
            self._tree.relative(as_posix(classname) or "/")
            or re.split(r"[\\/]", classname.rstrip("\\/"))[-1]
        )

    def _tries(
        self, attributes: dict[str, str], outcome: str, duration_s: float
    ) -> list[tuple[Try, TryEvidence]]:
        """The tries of one element.

        Several failures beside each other are of one try. Surefire's order: the failure is the
        first try, its reruns follow; of a flaky test the failed tries come before the pass.
        """
        failures = [mark for mark in self._marks if mark.kind in _FAILURES]
        again = [mark for mark in self._marks if mark.kind in _RERUNS | _FLAKES]
        groups = [failures] * bool(failures) + [[mark] for mark in again]
        status = outcome if outcome in ("timed_out", "interrupted") else "failed"
        tries = [self._failed_try(group, status) for group in groups]
        if outcome in ("failed", "timed_out") and not tries:
            tries = [self._failed_try([_Mark("failure", "", _worded(attributes))], status)]
        if tries and outcome in ("failed", "timed_out", "interrupted"):
            tries[0] = (
                replace(tries[0][0], duration_s=duration_s),
                replace(tries[0][1], swallowed=tuple(self._swallowed)),
            )
            return tries
        last = "passed" if outcome == "flaky" else outcome
        swallowed = tuple(self._swallowed)
        return [
            *tries,
            (
                Try(status=last, duration_s=duration_s),
                TryEvidence(failed=False, as_expected=last == "passed", swallowed=swallowed),
            ),
        ]

    def _failed_try(self, marks: list[_Mark], status: str) -> tuple[Try, TryEvidence]:
        errors = tuple(self._error(one, Phase.BODY) for mark in marks for one in _single(mark))
        if (
            status == "failed"
            and errors
            and all(error.kind is ErrorKind.TIME_LIMIT and error.sign is None for error in errors)
        ):
            status = "timed_out"
        shown = "\n".join(_shown(mark) for mark in marks[:MAX_TRIES])
        message = (
            clean(shown)
            or next((clean_line(mark.type) for mark in marks if mark.type), "")
            or "No error message."
        )
        return Try(status=status, error=TestError(message=message)), TryEvidence(
            failed=True, as_expected=False, errors=errors
        )

    def _add(
        self, key: tuple[str, ...], result: TestResult, tries: list[tuple[Try, TryEvidence]]
    ) -> None:
        """Add the tries to those of the same test: some tools write each try as a test case of its
        own.
        """
        case = self._open.get(key)
        if case is None:
            case = self._open[key] = _OpenCase(result, [], [], [])
            while len(self._open) > 1 and (
                len(self._open) > MAX_OPEN_CASES or self._open_bytes > MAX_OPEN_BYTES
            ):
                oldest = self._open.popitem(last=False)[1]
                self._open_bytes -= oldest.size
                self._collect(oldest)
        elif case.evidence and tries and _is_clean_up(tries):
            _join(case, tries)
            return
        if len(case.tries) > 2 * MAX_TRIES:
            del case.tries[MAX_TRIES:-MAX_TRIES]
        case.tries += [one for one, _ in tries]
        case.evidence += [
            evidence
            for _, evidence in tries
            if len(case.evidence) < MAX_MARKS or not evidence.failed
        ]
        case.outcomes.append(result.outcome)
        added = sum(_size(one, evidence) for one, evidence in tries)
        case.size += added
        self._open_bytes += added

    def _collect(self, case: _OpenCase) -> None:
        outcome = settled(_merged(case.outcomes), case.evidence, self._patterns)
        half = MAX_TRIES // 2
        tries = (
            case.tries if len(case.tries) <= MAX_TRIES else case.tries[:half] + case.tries[-half:]
        )
        self.collector.add(
            ReportedCase(
                result=replace(case.result, outcome=outcome, tries=tuple(tries)),
                finished=outcome != "interrupted",
                blame=blame_of_case(outcome, case.evidence, self._patterns),
                cause=cause_of_case(outcome, case.evidence, self._patterns),
                words=any(error.heads for one in case.evidence for error in one.errors),
                final=outcome in ("failed", "timed_out")
                and any(error.final for one in case.evidence for error in one.errors),
            )
        )

    def _end_suite(self, suite: _Suite) -> None:
        missing = suite.tests - suite.named - max(suite.left_out - suite.named_skips, 0)
        if suite.identity[0] == "pytest" and suite.named:
            missing = 0  # it counts subtests, and names the test around them; it writes the file as a whole
        if suite.refusal and not suite.named_failures:
            self.contradiction = f"a suite has {suite.refusal} and names no failure"
        elif suite.failures > suite.named_failures:
            self.contradiction = f"the report counts {suite.failures} failed tests and names {suite.named_failures or 'none'}"
        elif missing > 0 and not self.contradiction:
            self.contradiction = f"the report counts {suite.tests} tests and names {suite.named}"


def read_junit(
    source: bytes | BinaryIO, *, project_dir: str, patterns: Patterns
) -> RunnerReport | ReportUnreadable:
    """Read JUnit XML.

    Args:
        source: The file, opened at its beginning, or its bytes. It must be seekable.
        project_dir: Absolute path of the project.
        patterns: The catalogue of errors that are not about the app.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    tree = ProjectTree(home=re.sub(r"/+$", "", project_dir) or "/")
    try:
        reader, damage = walk(file, lambda: _Reader(tree, patterns))
    except (XmlError, ValueError, LookupError) as error:
        return ReportUnreadable(clean(f"JUnit report cannot be read: {error}"))
    assert isinstance(reader, _Reader)
    reader.finish()
    if damage and not reader.collector.cases and not reader.errors:
        return ReportUnreadable(clean(f"JUnit report cannot be read: {damage}"))
    return RunnerReport(
        cases=tuple(reader.collector.cases),
        omitted=reader.collector.omitted,
        totals=dict(reader.collector.totals),
        errors=tuple(reader.errors),
        contradiction=reader.contradiction,
        tool=reader.tool,
        damage=damage,
    )


def _suite(attributes: dict[str, str], kind: str, number: int) -> _Suite:
    """A suite that begins. Tests of two suites are tries of one test only where both suites have
    the same name.
    """
    identity = tuple(attributes.get(name, "") for name in ("name", "hostname", "package", "id"))
    words = {
        name: attributes[name]
        for name in (*_STATUS_ATTRIBUTES, "success", "passed")
        if attributes.get(name)
    }
    bad = [f'{name}="{value}"' for name, value in words.items() if _is_bad(name, value)]
    return _Suite(
        identity=identity if identity[0] or kind == "testsuites" else (*identity, str(number)),
        tests=max(_count(attributes.get(name)) for name in ("tests", "total")),
        failures=max(_count(attributes.get(name)) for name in ("failures", "failed", "failure"))
        + max(_count(attributes.get(name)) for name in ("errors", "error")),
        left_out=sum(
            _count(attributes.get(name)) for name in ("skipped", "disabled", "ignored", "skip")
        ),
        refusal=clean_line(bad[0], 80) if bad else "",
    )


def _is_bad(name: str, value: str) -> bool:
    word = value.strip().lower()
    return (
        word in _NO if name in ("success", "passed") else word in _FAILED | _TIMED_OUT | _UNFINISHED
    )


def _words(attributes: dict[str, str]) -> set[str]:
    return {attributes.get(name, "").strip().lower() for name in _STATUS_ATTRIBUTES}


def _outcome(attributes: dict[str, str], marks: list[_Mark]) -> str:
    kinds = {mark.kind for mark in marks}
    words = _words(attributes)
    flags = {
        name: attributes.get(name, "").strip().lower()
        for name in ("success", "passed", "failed", "error")
    }
    refused = (
        flags["success"] in _NO
        or flags["passed"] in _NO
        or flags["failed"] in _YES
        or flags["error"] in _YES
    )
    if words & _TIMED_OUT:
        return "timed_out"
    if kinds & (_FAILURES | _RERUNS) or words & _FAILED or (refused and not kinds & _SKIPS):
        return "failed"
    if not kinds & _SKIPS and (words & _UNFINISHED or not _is_known(attributes)):
        return "interrupted"
    if (
        kinds & _SKIPS
        or words & _SKIPPED
        or attributes.get("executed", "").strip().lower() == "false"
    ):
        return "skipped"
    return (
        "flaky"
        if kinds & _FLAKES or attributes.get("flaky", "").strip().lower() == "true"
        else "passed"
    )


def _size(one: Try, evidence: TryEvidence) -> int:
    """About how many bytes a try takes in memory."""
    errors = sum(200 + len(error.text) + sum(map(len, error.heads)) for error in evidence.errors)
    return 500 + (len(one.error.message) if one.error else 0) + errors


def _is_known(attributes: dict[str, str]) -> bool:
    """Whether the words for the outcome are known. An unknown one proves no pass; a number is no
    word.
    """
    words = {attributes.get(name, "").strip().lower() for name in ("status", "result", "outcome")}
    known = _PASSED | _SKIPPED | _FAILED | _TIMED_OUT | _UNFINISHED
    return all(word in known or word.replace(".", "").isdecimal() for word in words)


def _worded(attributes: dict[str, str]) -> str:
    """The attributes of a failure that has no element."""
    written = [
        f'{name}="{clean_line(attributes[name], 80)}"'
        for name in (*_STATUS_ATTRIBUTES, "success")
        if attributes.get(name)
    ]
    return f"The report has {' '.join(written)} and no message." if written else ""


def _merged(outcomes: list[str]) -> str:
    """What several elements of one test come to: the last one counts, and none before it is
    forgotten.
    """
    last = outcomes[-1]
    if len(outcomes) == 1 or last in ("failed", "timed_out"):
        return last
    if "interrupted" in outcomes:
        return "interrupted"
    failed = any(one in ("failed", "timed_out") for one in outcomes)
    if last == "skipped":
        return (
            "failed"
            if failed
            else next((one for one in reversed(outcomes) if one != "skipped"), "skipped")
        )
    return "flaky" if failed or "flaky" in outcomes else last


def _is_clean_up(tries: list[tuple[Try, TryEvidence]]) -> bool:
    """Whether an element reports only the clean-up after the try before it, as pytest writes it."""
    errors = [error for _, evidence in tries for error in evidence.errors]
    return bool(errors) and all(error.phase is Phase.TEARDOWN for error in errors)


def _join(case: _OpenCase, tries: list[tuple[Try, TryEvidence]]) -> None:
    """Add the errors of the clean-up to the last try."""
    errors = tuple(error for _, evidence in tries for error in evidence.errors)
    messages = "\n".join(one.error.message for one, _ in tries if one.error)
    last = case.tries[-1]
    before = last.error.message + "\n" if last.error else ""
    case.tries[-1] = replace(
        last, status="failed", error=TestError(message=clean(before + messages))
    )
    case.evidence[-1] = replace(
        case.evidence[-1], failed=True, as_expected=False, errors=case.evidence[-1].errors + errors
    )
    case.outcomes[-1] = "failed"


_ESCAPES = re.compile(r"#x(?:1B|9B)(?:\[[0-?]*[ -/]*[@-~])?|#x[01][0-9A-F](?![0-9A-Fa-f])")
"""How pytest writes characters that XML forbids: `#x1B[31m`."""
_SEVERAL = re.compile(r"\s*(?:.* failed:\s+)?Several failures occurred:\s+")
_NUMBERED = re.compile(r"(?:\A|\n\n)\d+\) ")
_GO_PLACE = re.compile(r"^\s+[\w./-]+\.go:\d+: ", re.MULTILINE)


def _single(mark: _Mark) -> list[_Mark]:
    """One mark for each failure that a tool writes into one: Robot Framework numbers them, Go gives
    each its place.
    """
    if found := _SEVERAL.match(mark.message):
        texts = [text for text in _NUMBERED.split(mark.message[found.end() :]) if text.strip()]
        return [_Mark(mark.kind, mark.type, text) for text in texts[:MAX_MARKS]] or [mark]
    places = list(_GO_PLACE.finditer(mark.text[:MAX_RAW_CHARS])) if mark.message == "Failed" else []
    if len(places) < 2:
        return [mark]
    ends = [place.start() for place in places[1:]] + [len(mark.text)]
    return [
        _Mark(mark.kind, mark.type, "", mark.text[place.end() : end])
        for place, end in zip(places, ends, strict=True)
    ][:MAX_MARKS]


def _shown(mark: _Mark) -> str:
    whole = (
        mark.text
        if mark.text.strip().startswith(mark.message.strip())
        else f"{mark.message}\n{mark.text}"
    )
    return clean(whole) if whole.strip() else ""


def _count(text: str | None) -> int:
    """A count as tools write it: `12`, `2.0`, `1,234`; 0 for what is none."""
    text = text.strip().replace(",", "") if text is not None else ""
    return int(text.split(".")[0]) if re.fullmatch(r"\d{1,18}(?:\.0*)?", text, re.ASCII) else 0


_CLOCK = re.compile(r"(?:(\d+)\.)?(\d{1,4}):(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)$")
_PARTS = re.compile(
    r"([\d.,]+(?:e-?\d+)?)\s*(milliseconds?|minutes?|mins?|ms|µs|us|ns|seconds?|secs?|s|m|hours?|h)?",
    re.IGNORECASE,
)
_UNITS = {
    "ms": 0.001,
    "mi": 60.0,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
    "s": 1.0,
    "se": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "ho": 3600.0,
}


def seconds_of(text: str) -> float:
    """A duration as tools write it: `1.5`, `0,160`, `1,234.5`, `1.5s`, `150 ms`, `2m 3s`,
    `00:00:01.5`, `PT1.5S`; 0 for what is none.
    """
    text = text.strip()[:60]
    if found := _CLOCK.match(text):
        days, hours, minutes, seconds = found.groups()
        return bounded_seconds(
            int(days or 0) * 86_400 + int(hours) * 3600 + int(minutes) * 60 + _number(seconds)
        )
    text = re.sub(r"^P(?:T|(?=\d))", "", text)
    total, end = 0.0, 0
    for found in _PARTS.finditer(text):
        if text[end : found.start()].strip():
            return 0.0
        total += _number(found[1]) * _unit(found[2])
        end = found.end()
    return bounded_seconds(total) if end and not text[end:].strip() else 0.0


def _unit(name: str | None) -> float:
    name = (name or "s").lower()
    if name.startswith("milli"):
        return 0.001
    return _UNITS.get(name, 0.0) or _UNITS[name[:2]]


def _number(text: str) -> float:
    """A number with a decimal point or comma; the other one of the two separates thousands."""
    if text.rfind(",") > text.rfind("."):
        whole, _, fraction = text.rpartition(",")
        text = (
            whole.replace(".", "").replace(",", "") + "." + fraction
            if text.count(",") == 1
            else text.replace(",", "")
        )
    else:
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return 0.0
