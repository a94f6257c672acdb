"""Playwright JSON and JUnit XML as test results.

Reports come from other people's code: any bytes give a `Report` or an `Unreadable`, never an exception. What a report means for the job is decided in
`qgjet.verdict.rules`; here it is only read, cleaned (no ANSI codes, no control characters, bounded texts) and made relative to the project's directory.
A large report takes a while (about 0.1 s for each MB of tests and errors): read it off the event loop.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal
from xml.parsers import expat

import msgspec
from msgspec import Struct

from qgjet.events import TestError, TestResult, Try

MAX_REPORT_BYTES = 64 * 2**20
"""A larger report is not read."""
MAX_PARTS = 1_000_000
"""Objects of a JSON report, elements of an XML one: 64 MiB of nothing but `{},` would take the agent 3 GB and a minute to look at."""
MAX_MESSAGE_BYTES = 2048
MAX_TRIES = 20
"""Tries kept of one test: the first and the last ones."""
_MAX_TITLE_BYTES = 512
_MAX_RAW_CHARS = 16 * 1024
"""Of one error text, before it is cleaned: keeps the patterns' cost bounded."""
_MAX_PATH_BYTES = 1024
_MAX_LINE = 2**31 - 1
_MAX_SECONDS = 1e9
_OF = " \u203a "
"""Between the titles of a test and its describes, as Playwright prints them."""

_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x9b[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Bidirectional overrides are among them: they make a terminal show a text that is not there."""
_SOURCE_OR_STACK = re.compile(r"\s*(?:>\s*)?\d+ \||\s+\||\s+at ")
_ASSERTION = re.compile(r"\bexpect(?:\.\w+)?\(")
_SELECTOR = re.compile(r'path "[\s\S]{0,500}?"(?=(?: is)? not |: )')
"""AppWright names the element in its errors: `Element with path "text("ETIMEDOUT")" not visible` is about the app, not the network."""


class Case(Struct, frozen=True, kw_only=True):
    """One test of a report, with what the rules have to know beyond its result."""

    result: TestResult
    asked: bool = True
    """It belongs to the file that the job asked for; others come from set-up projects, or from another run."""
    finished: bool = True
    """False: it should have run and did not come to an end. Playwright calls such tests `skipped`."""
    causes: tuple[str, ...] = ()
    """The errors of the last try that no assertion raised: texts that may tell about the device or the network."""


class RunError(Struct, frozen=True, kw_only=True):
    """An error outside of any test: loading files, global set-up, teardown."""

    text: str
    in_asked_file: bool = False


class Report(Struct, frozen=True, kw_only=True):
    cases: tuple[Case, ...] = ()
    errors: tuple[RunError, ...] = ()
    contradiction: str = ""
    """How the report disagrees with itself; nothing in it can be believed then."""


class Unreadable(Struct, frozen=True):
    """The bytes are no report."""

    why: str


def read_playwright(data: bytes, *, project_dir: str, test: str) -> Report | Unreadable:
    """Read the file that Playwright's `json` reporter wrote."""
    if refusal := _refuse_size(data, b"{"):
        return refusal
    try:
        report = _decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Unreadable(clean(f"report cannot be read: {error}"))
    tree = _tree(report, project_dir, test)
    cases = _unique(_case(test_, spec, titles, file, tree, report) for file, titles, spec in _specs(report.suites) for test_ in spec.tests)
    errors = tuple(_run_error(error, tree) for error in report.errors)
    return Report(cases=cases, errors=errors, contradiction=_miscount(report.stats.unexpected, cases))


def read_junit(data: bytes, *, project_dir: str) -> Report | Unreadable:
    """Read JUnit XML of any tool; Surefire's `flakyFailure` and `rerunFailure` are understood.

    Documents with a DTD are refused, and with it every entity that could be expanded or fetched.
    """
    if refusal := _refuse_size(data, b"<"):
        return refusal
    reader = _JunitReader(Tree(home=posixpath.normpath(project_dir), asked=""))
    try:
        reader.read(data)
    except (expat.ExpatError, ValueError, LookupError) as error:
        return Unreadable(clean(f"JUnit report cannot be read: {error}"))
    cases = _unique(reader.cases)
    return Report(cases=cases, contradiction=_miscount(reader.declared_failures, cases))


def _refuse_size(data: bytes, opening: bytes) -> Unreadable | None:
    if len(data) > MAX_REPORT_BYTES:
        return Unreadable(f"report has {len(data)} bytes; {MAX_REPORT_BYTES} are read at most")
    if data.count(opening) > MAX_PARTS:
        return Unreadable(f"report has more than {MAX_PARTS} parts")
    return None if data.strip() else Unreadable("report is empty")


def clean(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """`text` without ANSI codes, control characters and lone surrogates, at most `limit` bytes of UTF-8."""
    plain = _ANSI.sub("", text[: _MAX_RAW_CHARS + 4 * limit].replace("\r\n", "\n"))
    data = _CONTROL.sub("", plain).strip().encode("utf-8", "replace")
    return data.decode() if len(data) <= limit else data[: limit - 3].decode("utf-8", "ignore") + "…"


def clean_line(text: str, limit: int = _MAX_TITLE_BYTES) -> str:
    """The same, on one line."""
    return " ".join(clean(text, limit).split())


def _without_source(text: str) -> str:
    """An error text without the source excerpt and the stack that Playwright appends to it."""
    kept = [line for line in clean(text, _MAX_RAW_CHARS).split("\n") if not _SOURCE_OR_STACK.match(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _causes(texts: Iterable[str]) -> tuple[str, ...]:
    plain = (_without_source(text) for text in texts)
    return tuple(_SELECTOR.sub("element", text) for text in plain if text and not _ASSERTION.search(text))


def bounded_seconds(value: float) -> float:
    """A duration that JSON can hold: finite, not negative, milliseconds."""
    return 0.0 if math.isnan(value) else round(min(max(value, 0.0), _MAX_SECONDS), 3)


def _line(value: int) -> int:
    return min(max(value, 0), _MAX_LINE)


def _kept(tries: list[Try]) -> tuple[Try, ...]:
    half = MAX_TRIES // 2
    return tuple(tries if len(tries) <= MAX_TRIES else tries[:half] + tries[-half:])


def _unique(cases: Iterable[Case]) -> tuple[Case, ...]:
    """The cases with ids that differ: repetitions of one test share theirs in the report."""
    seen: Counter[str] = Counter()
    result = []
    for case in cases:
        seen[case.result.id] += 1
        if (n := seen[case.result.id]) > 1:
            case = msgspec.structs.replace(case, result=msgspec.structs.replace(case.result, id=f"{case.result.id}#{n}"))
        result.append(case)
    return tuple(result)


def _miscount(declared_failures: int, cases: tuple[Case, ...]) -> str:
    """How the count of failures disagrees with the tests; some tools count the failed tries of flaky tests too."""
    failed = sum(case.result.outcome in ("failed", "timed_out") for case in cases)
    tries = sum(len(case.result.tries) for case in cases if case.result.outcome == "flaky")
    return f"report counts {declared_failures} failed tests and shows none" if failed == 0 and declared_failures > tries else ""


class Tree(Struct, frozen=True, kw_only=True):
    """The project's directory as the report spells it, and the file in it that was asked for."""

    home: str
    asked: str
    """Relative to `home`; a directory stands for all files in it; empty asks for nothing."""

    def inside(self, path: str) -> str:
        """`path` relative to `home`; empty when it lies elsewhere."""
        whole = posixpath.normpath(posixpath.join(self.home, path))
        prefix = self.home.rstrip("/") + "/"
        return whole.removeprefix(prefix) if whole.startswith(prefix) else ""

    def relative(self, path: str) -> str:
        """The same, fit to be stored and shown."""
        return re.sub(r"[\n\t]", " ", clean(self.inside(path), _MAX_PATH_BYTES))

    def asks_for(self, path: str) -> bool:
        inside = self.inside(path)
        return bool(self.asked) and (inside == self.asked or inside.startswith(self.asked + "/"))


def _tree(report: PlaywrightReport, project_dir: str, test: str) -> Tree:
    """Where the report's paths belong.

    Inside `project_dir` a path counts as it is. A report from elsewhere (the runner saw the project through a symlink or a container mount) is taken when one
    of its files lies, from its own configuration on, where the asked file lies in the project: `sub/tests/a.spec.ts` never stands for `tests/a.spec.ts`.
    """
    home = posixpath.normpath(project_dir)
    asked = posixpath.normpath(posixpath.join(home, test))
    given = Tree(home=home, asked=Tree(home=home, asked="").inside(asked))
    files = [posixpath.normpath(posixpath.join(home, report.config.root_dir, suite.file)) for suite in report.suites]
    if given.asked and not any(given.inside(file) for file in files):
        base = (posixpath.dirname(report.config.config_file) or report.config.root_dir).rstrip("/") + "/"
        for file in files:
            if file.endswith("/" + given.asked) and f"/{given.asked}".endswith("/" + file.removeprefix(base)):
                return Tree(home=file.removesuffix(given.asked).rstrip("/") or "/", asked=given.asked)
    return given


Status = Literal["passed", "failed", "timedOut", "skipped", "interrupted"]


class PlaywrightLocation(Struct, frozen=True):
    file: str = ""
    line: int = 0


class PlaywrightError(Struct, frozen=True):
    message: str = ""
    value: str = ""
    """Instead of `message` when something else than an Error was thrown."""
    location: PlaywrightLocation | None = None
    cause: PlaywrightError | None = None

    @property
    def text(self) -> str:
        texts, cause = [self.message or self.value], self.cause
        while cause is not None and len(texts) < 5:
            texts.append(f"[cause]: {cause.message or cause.value}")
            cause = cause.cause
        return "\n".join(text[:_MAX_RAW_CHARS] for text in texts)


class PlaywrightTry(Struct, frozen=True, rename="camel"):
    status: Status
    duration: float = 0.0
    """Milliseconds; -1 when it never ended."""
    error: PlaywrightError | None = None
    errors: tuple[PlaywrightError, ...] = ()
    """All of them, with source excerpt and stack in the message; the first is `error`. A dead farm may show only in the second."""
    error_location: PlaywrightLocation | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        first = (self.error.text,) if self.error is not None else ()
        return first + tuple(_without_source(error.text) for error in self.errors[len(first) :])


class PlaywrightTest(Struct, frozen=True, rename="camel"):
    status: Literal["expected", "unexpected", "flaky", "skipped"]
    expected_status: Literal["passed", "failed", "skipped"] = "passed"
    results: tuple[PlaywrightTry, ...] = ()


class PlaywrightSpec(Struct, frozen=True):
    title: str = ""
    id: str = ""
    file: str = ""
    """Where the test is written, relative to the root directory: not always the file that was asked for."""
    line: int = 0
    tests: tuple[PlaywrightTest, ...] = ()


class PlaywrightSuite(Struct, frozen=True):
    title: str = ""
    file: str = ""
    specs: tuple[PlaywrightSpec, ...] = ()
    suites: tuple[PlaywrightSuite, ...] = ()


class PlaywrightConfig(Struct, frozen=True, rename="camel"):
    root_dir: str = ""
    config_file: str = ""


class PlaywrightStats(Struct, frozen=True):
    unexpected: int = 0


class PlaywrightReport(Struct, frozen=True):
    suites: tuple[PlaywrightSuite, ...]
    errors: tuple[PlaywrightError, ...] = ()
    config: PlaywrightConfig = PlaywrightConfig()
    stats: PlaywrightStats = PlaywrightStats()


_decoder = msgspec.json.Decoder(PlaywrightReport)
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def _decode(data: bytes) -> PlaywrightReport:
    """Decode; texts that no UTF-8 can hold (JavaScript cuts strings inside emoji) are repaired instead of losing the report."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        repaired = _LONE_SURROGATE.sub(rb"\\ufffd", data.decode("utf-8", "replace").encode())
        if repaired == data:
            raise
        return _decoder.decode(repaired)


def _specs(suites: tuple[PlaywrightSuite, ...]) -> Iterator[tuple[str, tuple[str, ...], PlaywrightSpec]]:
    """Every spec with its file suite's file and the titles of the describes around it."""
    stack: list[tuple[PlaywrightSuite, str, tuple[str, ...]]] = [(suite, suite.file, ()) for suite in reversed(suites)]
    while stack:
        suite, file, titles = stack.pop()
        yield from ((file or spec.file, titles, spec) for spec in suite.specs)
        stack.extend((child, file, (*titles, child.title)) for child in reversed(suite.suites))


def _case(test: PlaywrightTest, spec: PlaywrightSpec, titles: tuple[str, ...], file: str, tree: Tree, report: PlaywrightReport) -> Case:
    root = report.config.root_dir
    outcome = _outcome(test)
    ran = [result for result in test.results if result.status != "skipped"]
    return Case(
        result=TestResult(
            id=clean_line(spec.id, 200),
            title=clean_line(_OF.join(filter(None, (*titles, spec.title)))),
            file=tree.relative(posixpath.join(root, spec.file)),
            line=_line(spec.line),
            outcome=outcome,
            tries=_kept([_try(result, test, tree) for result in test.results]),
        ),
        asked=tree.asks_for(posixpath.join(root, file)),
        finished=outcome != "interrupted" and (outcome != "skipped" or (test.expected_status == test.status == "skipped")),
        causes=_causes(ran[-1].texts) if ran and outcome in ("failed", "timed_out") else (),
    )


def _outcome(test: PlaywrightTest) -> str:
    """What the tries say, and never better than what Playwright says.

    Skipped tries are left out: in a serial group the tests after a failed one are `skipped` until the group passes.
    """
    ran = [result.status for result in test.results if result.status != "skipped"]
    if "interrupted" in ran:
        return "interrupted"
    if test.status == "unexpected" or (ran and ran[-1] != test.expected_status):
        return "timed_out" if ran and ran[-1] == "timedOut" else "failed"
    if test.status == "skipped" or not ran:
        return "skipped"
    return "flaky" if test.status == "flaky" or any(status != test.expected_status for status in ran) else "passed"


def _try(result: PlaywrightTry, test: PlaywrightTest, tree: Tree) -> Try:
    unexpected = result.status not in (test.expected_status, "skipped", "interrupted")
    message = clean("\n".join(result.texts)) or ("Expected to fail, but passed." if result.status == "passed" else "No error message.")
    file, line = _place(result, tree)
    return Try(
        status="timed_out" if result.status == "timedOut" else result.status,
        duration_s=bounded_seconds(result.duration / 1000),
        error=TestError(message=message, file=file, line=line) if unexpected or result.texts else None,
    )


def _place(result: PlaywrightTry, tree: Tree) -> tuple[str, int]:
    """Where the try failed: the first place in the project's own files."""
    errors = (result.error, *result.errors) if result.error is not None else result.errors
    for location in (*(error.location for error in errors), result.error_location):
        if location is not None and (file := tree.relative(location.file)) and "node_modules/" not in file:
            return file, _line(location.line)
    return "", 0


def _run_error(error: PlaywrightError, tree: Tree) -> RunError:
    return RunError(text=_without_source(error.text), in_asked_file=error.location is not None and tree.asks_for(error.location.file))


class _Mark(Struct):
    """An element inside a test case that says how the test went."""

    kind: str
    type: str
    message: str
    text: str = ""

    @property
    def whole(self) -> str:
        return self.text if self.text.startswith(self.message) else f"{self.message}\n{self.text}"


_FAILURES = ("failure", "error")
_RERUNS = ("rerunFailure", "rerunError")
_FLAKES = ("flakyFailure", "flakyError")
_MARKS = {"skipped", *_FAILURES, *_RERUNS, *_FLAKES}


class _JunitReader:
    """Collects the test cases of one document while expat walks through it."""

    def __init__(self, tree: Tree) -> None:
        self.cases: list[Case] = []
        self.declared_failures = 0
        self._tree = tree
        self._path: list[str] = []
        self._attributes: dict[str, str] | None = None
        self._marks: list[_Mark] = []

    def read(self, data: bytes) -> None:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse_dtd
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.Parse(data, True)

    def _refuse_dtd(self, *_: object) -> None:
        raise ValueError("it has a DTD")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path and name not in ("testsuites", "testsuite"):
            raise ValueError(f"its root is <{name[:40]}>")
        self._path.append(name)
        if name in ("testsuites", "testsuite"):
            self.declared_failures = max(self.declared_failures, _count(attributes.get("failures")) + _count(attributes.get("errors")))
        elif name == "testcase":
            self._attributes, self._marks = attributes, []
        elif name in _MARKS and self._attributes is not None:
            self._marks.append(_Mark(name, attributes.get("type", ""), attributes.get("message", "")[:_MAX_RAW_CHARS]))

    def _text(self, text: str) -> None:
        if self._marks and (self._path[-1] in _MARKS or self._path[-1] == "stackTrace"):
            mark = self._marks[-1]
            mark.text += text[: _MAX_RAW_CHARS - len(mark.text)] if len(mark.text) < _MAX_RAW_CHARS else ""

    def _end(self, name: str) -> None:
        self._path.pop()
        if name == "testcase" and self._attributes is not None:
            self.cases.append(_junit_case(self._attributes, self._marks, self._tree))
            self._attributes, self._marks = None, []


def _junit_case(attributes: dict[str, str], marks: list[_Mark], tree: Tree) -> Case:
    name, group = attributes.get("name", ""), attributes.get("classname", "")
    outcome = _junit_outcome(attributes, marks)
    file, line = tree.relative(attributes.get("file", "")), _line(_count(attributes.get("line")))
    own = [mark for mark in marks if mark.kind in _FAILURES and "assert" not in mark.type.lower()]
    return Case(
        result=TestResult(
            id=clean_line(f"{group}::{name}", 200),
            title=clean_line(_OF.join(filter(None, (group, name)))),
            file=file,
            line=line if file else 0,
            outcome=outcome,
            tries=_kept(_junit_tries(outcome, marks, _duration(attributes.get("time", "")))),
        ),
        causes=_causes(mark.whole for mark in own),
    )


def _junit_outcome(attributes: dict[str, str], marks: list[_Mark]) -> str:
    kinds = {mark.kind for mark in marks}
    if kinds & {*_FAILURES, *_RERUNS}:
        return "failed"
    if "skipped" in kinds or attributes.get("status", "").lower() in ("notrun", "disabled", "skipped"):
        return "skipped"
    return "flaky" if kinds & {*_FLAKES} or attributes.get("flaky") == "true" else "passed"


def _junit_tries(outcome: str, marks: list[_Mark], duration_s: float) -> list[Try]:
    """Surefire's order: the failure is the first try, the reruns follow; of a flaky test the failed tries come before the pass."""
    if outcome not in ("failed", "flaky"):
        return [Try(status=outcome, duration_s=duration_s)]
    messages = [clean(mark.whole) or clean_line(mark.type) or "No error message." for mark in marks if mark.kind != "skipped"]
    tries = [Try(status="failed", error=TestError(message=message)) for message in messages]
    if outcome == "flaky":
        return [*tries, Try(status="passed", duration_s=duration_s)]
    return [msgspec.structs.replace(tries[0], duration_s=duration_s), *tries[1:]]


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else 0


def _duration(text: str) -> float:
    try:
        return bounded_seconds(float(text.replace(",", "")))
    except ValueError:
        return 0.0
