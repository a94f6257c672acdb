"""Reads the JSON report of Playwright, of any size. Pure but for the reads of its source.

Any bytes give a `RunnerReport` or a `ReportUnreadable`, never an exception. Bodies of attachments
and the output of tests are passed over, except the lines in which AppWright reports a WebDriver
error that it swallowed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, Literal

import msgspec
from msgspec import Struct

from qgjet.domain.events import TestError, TestResult, Try
from qgjet.verdict.blame import blame_of_case, blame_of_failed_tries, cause_of_case, settled
from qgjet.verdict.classification import classify, without_source
from qgjet.verdict.collector import CaseCollector
from qgjet.verdict.evidence import (
    Origin,
    Phase,
    ReportedCase,
    ReportedError,
    ReportUnreadable,
    RunnerReport,
    TryEvidence,
)
from qgjet.verdict.json_stream import Event, JsonError, JsonReader, LongInteger
from qgjet.verdict.paths import ProjectTree
from qgjet.verdict.patterns import Patterns, Swallowed
from qgjet.verdict.text import MAX_RAW_CHARS, bounded_line, bounded_seconds, clean, clean_line

MAX_TRIES = 20
"""Tries kept of one test: the first and the last ones."""
MAX_TRIES_READ = 1000
MAX_TESTS_OF_SPEC = 10_000
MAX_ERRORS = 1000
"""Errors of one try, and of the run, that are read."""
_MAX_SWALLOWED = 20
_OF = " \u203a "
"""Between the titles of a test and its describes, as Playwright prints them."""
_FRAME = re.compile(r"^\s+at (?:.*\()?((?:file:)?[^()\n]+?):\d+:\d+\)?$", re.MULTILINE)

_FIXTURE_FRAME = re.compile(r"\A(?:(?!\n\s+at )[\s\S])*\n\s+at Object\.[\w.]+ \(")
_CARET = re.compile(r"^ *> *\d+ \|(?P<code>[^\n]*)\n +\|(?P<space> *)\^", re.MULTILINE)
_MATCHER = re.compile(r"to[A-Z]\w*")
_BUILT_IN = frozenset(
    {
        "toBe", "toBeAttached", "toBeChecked", "toBeCloseTo", "toBeDefined", "toBeDisabled", "toBeEditable", "toBeEmpty", "toBeEnabled", "toBeFalsy",
        "toBeFocused", "toBeGreaterThan", "toBeGreaterThanOrEqual", "toBeHidden", "toBeInViewport", "toBeInstanceOf", "toBeLessThan",
        "toBeLessThanOrEqual", "toBeNaN", "toBeNull", "toBeOK", "toBeTruthy", "toBeUndefined", "toBeVisible", "toContain", "toContainClass",
        "toContainEqual", "toContainText", "toEqual", "toHaveAccessibleDescription", "toHaveAccessibleErrorMessage", "toHaveAccessibleName",
        "toHaveAttribute", "toHaveCSS", "toHaveClass", "toHaveCount", "toHaveId", "toHaveJSProperty", "toHaveLength", "toHaveProperty", "toHaveRole",
        "toHaveScreenshot", "toHaveText", "toHaveTitle", "toHaveURL", "toHaveValue", "toHaveValues", "toMatch", "toMatchAriaSnapshot", "toMatchObject",
        "toMatchSnapshot", "toPass", "toStrictEqual", "toThrow", "toThrowError",
    }
)  # fmt: skip
_WRITTEN_ANSI = re.compile(r"\\x1[bB]\[[0-9;]*m")
"""In a value that was printed as a string."""

Status = Literal["passed", "failed", "timedOut", "skipped", "interrupted"]


class PlaywrightLocation(Struct, frozen=True):
    file: str = ""
    line: int = 0


class PlaywrightError(Struct, frozen=True):
    message: str = ""
    stack: str = ""
    value: str = ""
    """Instead of `message` when something else than an Error was thrown."""
    location: PlaywrightLocation | None = None
    cause: PlaywrightError | None = None

    snippet: str = ""

    @property
    def text(self) -> str:
        return self.message or _WRITTEN_ANSI.sub("", self.value)

    @property
    def causes(self) -> Iterator[str]:
        cause = self.cause
        for _ in range(5):
            if cause is None:
                return
            yield cause.text
            cause = cause.cause


class PlaywrightTry(Struct, frozen=True, rename="camel"):
    status: Status
    duration: float = 0.0
    """Milliseconds; -1 when it never ended."""
    error: PlaywrightError | None = None
    errors: tuple[PlaywrightError, ...] = ()
    """All of them, with source excerpt and stack in the message. The first is `error`."""
    error_location: PlaywrightLocation | None = None
    stdout: tuple[Swallowed, ...] = ()
    """The lines that report a swallowed error."""

    @property
    def all_errors(self) -> tuple[PlaywrightError, ...]:
        first = (self.error,) if self.error is not None else ()
        return first + self.errors[len(first) :]


class PlaywrightTest(Struct, frozen=True, rename="camel"):
    status: Literal["expected", "unexpected", "flaky", "skipped"]
    expected_status: Literal["passed", "failed", "skipped"] = "passed"
    results: tuple[PlaywrightTry, ...] = ()


class PlaywrightSpec(Struct, frozen=True):
    title: str = ""
    id: str = ""
    file: str = ""
    """Where the test is written, relative to the root directory: not always the file that was asked
    for.
    """
    line: int = 0
    tests: tuple[PlaywrightTest, ...] = ()


class PlaywrightShard(Struct, frozen=True):
    total: int = 1
    current: int = 1


class PlaywrightConfig(Struct, frozen=True, rename="camel"):
    root_dir: str = ""
    config_file: str = ""
    shard: PlaywrightShard | None = None


class PlaywrightStats(Struct, frozen=True):
    expected: int = 0
    unexpected: int = 0
    flaky: int = 0
    skipped: int = 0


_LOCATION = {"file": None, "line": None}
_ERROR: dict[str, Any] = {
    "message": None,
    "snippet": None,
    "stack": None,
    "value": None,
    "location": _LOCATION,
}
_ERROR["cause"] = _ERROR
_CONFIG = {"rootDir": None, "configFile": None, "shard": {"total": None, "current": None}}
_STATS = {"expected": None, "unexpected": None, "flaky": None, "skipped": None}


def read_playwright(
    source: bytes | BinaryIO, *, project_dir: str, test: str, patterns: Patterns
) -> RunnerReport | ReportUnreadable:
    """Read the file that Playwright's `json` reporter wrote.

    Args:
        source: The file, opened at its beginning, or its bytes. It must be seekable.
        project_dir: Absolute path of the project, symlinks resolved.
        test: Path of the asked test file, relative to the project.
        patterns: The catalogue of errors that are not about the app.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        try:
            return _read(file, project_dir, test, patterns)
        except LongInteger:
            return _read(file, project_dir, test, patterns, any_integer=True)
    except (JsonError, msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        return ReportUnreadable(clean(f"report cannot be read: {error}"))


def _read(
    file: BinaryIO, project_dir: str, test: str, patterns: Patterns, *, any_integer: bool = False
) -> RunnerReport:
    def beginning() -> JsonReader:
        file.seek(0)
        return JsonReader(file, any_integer=any_integer)

    tree = _tree(beginning, project_dir, test)
    return _Reader(beginning(), tree, patterns).read()


class _Reader:
    """Collects the cases of one report while it walks through it."""

    def __init__(self, json: JsonReader, tree: ProjectTree, patterns: Patterns) -> None:
        self._json, self._tree, self._patterns = json, tree, patterns
        self._config = PlaywrightConfig()
        self._collector = CaseCollector()
        self._errors: list[ReportedError] = []
        self._tests = 0
        error = dict(_ERROR)
        result = {
            "status": None,
            "duration": None,
            "error": error,
            "errors": _bounded(error, MAX_ERRORS),
            "errorLocation": _LOCATION,
            "stdout": self._swallowed,
        }
        test = {
            "status": None,
            "expectedStatus": None,
            "results": _bounded(result, MAX_TRIES_READ, "tries of one test"),
        }
        tests = _bounded(test, MAX_TESTS_OF_SPEC, "tests of one title")
        self._spec = {"title": None, "id": None, "file": None, "line": None, "tests": tests}

    def read(self) -> RunnerReport:
        found_suites, stats = False, PlaywrightStats()
        for key, event in self._json.members(self._json.next()):
            if key == "config" and found_suites:
                raise JsonError("its configuration stands behind its tests")
            if key == "config":
                self._config = msgspec.convert(self._json.build(event, _CONFIG), PlaywrightConfig)
            elif key == "suites":
                found_suites = True
                for suite in self._json.items(event):
                    self._suite(suite, "", ())
            elif key == "errors":
                for error in self._json.items(event):
                    self._run_error(
                        msgspec.convert(self._json.build(error, _ERROR), PlaywrightError)
                    )
            elif key == "stats":
                stats = msgspec.convert(self._json.build(event, _STATS), PlaywrightStats)
            else:
                self._json.skip(event)
        self._json.finish()
        if not found_suites:
            raise JsonError("it has no suites")
        shard = self._config.shard
        return RunnerReport(
            cases=tuple(self._collector.cases),
            omitted=self._collector.omitted,
            totals=dict(self._collector.totals),
            errors=tuple(self._errors),
            contradiction=self._miscount(stats),
            sharded=f"{shard.current}/{shard.total}"
            if shard is not None and shard.total > 1
            else "",
        )

    def _suite(self, event: Event, file: str, titles: tuple[str, ...]) -> None:
        """One file, or one describe in it. Its file and title come before what it holds."""
        title, read = "", False
        inner_file = file
        for key, first in self._json.members(event):
            if key == "title":
                title = clean_line(str(self._json.build(first, None)))
            elif key == "file" and not file:
                if read:
                    raise JsonError("a suite names its file behind its tests")
                inner_file = str(self._json.build(first, None) or "")
            elif key == "specs":
                read = True
                for spec in self._json.items(first):
                    found = msgspec.convert(self._json.build(spec, self._spec), PlaywrightSpec)
                    self._add(found, inner_file or found.file, (*titles, title) if file else titles)
            elif key == "suites":
                read = True
                for suite in self._json.items(first):
                    self._suite(suite, inner_file or " ", (*titles, title) if file else titles)
            else:
                self._json.skip(first)

    def _add(self, spec: PlaywrightSpec, file: str, titles: tuple[str, ...]) -> None:
        self._tests += len(spec.tests)
        for test in spec.tests:
            self._collector.add(
                _case(
                    test,
                    spec,
                    titles,
                    file.strip(),
                    self._config.root_dir,
                    self._tree,
                    self._patterns,
                )
            )

    def _swallowed(self, json: JsonReader, event: Event) -> list[dict[str, str]]:
        """Of a try's output, the lines that report a swallowed error."""
        found: list[dict[str, str]] = []
        for entry in json.items(event):
            found_entry = json.build(entry, {"text": None})
            text = found_entry.get("text") if isinstance(found_entry, dict) else None
            if isinstance(text, str) and len(found) < _MAX_SWALLOWED:
                lines = (
                    one
                    for line in text.split("\n")
                    if (one := self._patterns.swallowed(clean(line)))
                    and not self._patterns.is_benign(one.error)
                )
                found += [
                    {"path": one.path, "error": one.error} for one in islice(lines, _MAX_SWALLOWED)
                ]
        return found

    def _run_error(self, error: PlaywrightError) -> None:
        if len(self._errors) < MAX_ERRORS:
            # a fixture that is taken down is a method of the object that declares it
            phase = (
                Phase.TEARDOWN
                if _FIXTURE_FRAME.search(error.stack[:MAX_RAW_CHARS])
                else Phase.OUTSIDE
            )
            self._errors.append(_error(error, self._tree, self._patterns, phase))

    def _miscount(self, stats: PlaywrightStats) -> str:
        """How the counts of the report disagree with its tests: then it is not whole."""
        failed = sum(self._collector.totals[outcome] for outcome in ("failed", "timed_out"))
        if stats.unexpected > failed:
            return f"the report counts {stats.unexpected} failed tests and names {failed or 'none'}"
        counted = stats.expected + stats.unexpected + stats.flaky + stats.skipped
        return (
            f"the report counts {counted} tests and names {self._tests}"
            if counted > self._tests
            else ""
        )


def _bounded(wanted: Any, most: int, what: str = "") -> Any:
    """An array of at most `most` values. More are passed over, or refused when they have a name."""

    def build(json: JsonReader, event: Event) -> list[Any]:
        values: list[Any] = []
        for first in json.items(event):
            if len(values) < most:
                values.append(json.build(first, wanted))
            elif what:
                raise JsonError(f"it has more than {most} {what}")
            else:
                json.skip(first)
        return values

    return build


def _tree(beginning: Callable[[], JsonReader], project_dir: str, test: str) -> ProjectTree:
    """Where the report's paths belong.

    Inside `project_dir` a path counts as it is. A report from elsewhere (the runner saw the project
    through a symlink or a container mount) is taken when one of its files lies, from its own
    configuration on, where the asked file lies in the
    project: `sub/tests/a.spec.ts` never stands for `tests/a.spec.ts`.
    """
    home = posixpath.normpath(project_dir)
    asked = posixpath.normpath(posixpath.join(home, test))
    given = ProjectTree(home=home, asked=ProjectTree(home=home).inside(asked))
    config = _config_of(beginning())
    root = posixpath.normpath(config.root_dir) if config.root_dir else home
    if not given.asked or root == home or given.inside(root):
        return given
    files = [
        posixpath.normpath(posixpath.join(home, config.root_dir, one))
        for one in _files_of(beginning())
    ]
    if not any(given.inside(one) for one in files):
        base = (posixpath.dirname(config.config_file) or config.root_dir).rstrip("/") + "/"
        for one in files:
            if one.endswith("/" + given.asked) and f"/{given.asked}".endswith(
                "/" + one.removeprefix(base)
            ):
                return ProjectTree(
                    home=one.removesuffix(given.asked).rstrip("/") or "/", asked=given.asked
                )
    return given


def _config_of(json: JsonReader) -> PlaywrightConfig:
    """The configuration, which Playwright writes first."""
    for key, event in json.members(json.next()):
        if key == "config":
            return msgspec.convert(json.build(event, _CONFIG), PlaywrightConfig)
        if key == "suites":
            return PlaywrightConfig()
        json.skip(event)
    return PlaywrightConfig()


def _files_of(json: JsonReader) -> list[str]:
    """The files of the report's suites."""
    files: dict[str, None] = {}
    for key, event in json.members(json.next()):
        if key != "suites":
            json.skip(event)
            continue
        for suite in json.items(event):
            found = json.build(suite, {"file": None})
            if (
                isinstance(found, dict)
                and isinstance(found.get("file"), str)
                and len(files) < MAX_TESTS_OF_SPEC
            ):
                files[found["file"]] = None
    return list(files)


def _case(
    test: PlaywrightTest,
    spec: PlaywrightSpec,
    titles: tuple[str, ...],
    file: str,
    root: str,
    tree: ProjectTree,
    patterns: Patterns,
) -> ReportedCase:
    tries = [_evidence(result, test, tree, patterns) for result in test.results]
    outcome = settled(_outcome(test), tries, patterns)
    return ReportedCase(
        result=TestResult(
            id=clean_line(spec.id, 200),
            title=clean_line(_OF.join(filter(None, (*titles, spec.title)))),
            file=tree.relative(posixpath.join(root, spec.file)),
            line=bounded_line(spec.line),
            outcome=outcome,
            tries=_kept(
                [
                    _try(result, one, test, tree)
                    for result, one in zip(test.results, tries, strict=True)
                ]
            ),
        ),
        asked=tree.asks_for(posixpath.join(root, file)),
        finished=outcome != "interrupted"
        and (outcome != "skipped" or (test.expected_status == test.status == "skipped")),
        blame=blame_of_case(outcome, tries, patterns),
        cause=cause_of_case(outcome, tries, patterns),
        tries_blame=blame_of_failed_tries(tries, patterns) if outcome == "flaky" else None,
        final=outcome in ("failed", "timed_out")
        and any(error.final for one in tries for error in one.errors),
    )


def _outcome(test: PlaywrightTest) -> str:
    """What the tries show, and never better than Playwright's own status.

    Skipped tries are left out: in a serial group the tests after a failed one are `skipped` until
    the group passes.
    """
    ran = [result.status for result in test.results if result.status != "skipped"]
    if "interrupted" in ran:
        return "interrupted"
    if test.status == "unexpected" or (ran and ran[-1] != test.expected_status):
        return "timed_out" if ran and ran[-1] == "timedOut" else "failed"
    if test.status == "skipped" or not ran:
        return "skipped"
    return (
        "flaky"
        if test.status == "flaky" or any(status != test.expected_status for status in ran)
        else "passed"
    )


def _evidence(
    result: PlaywrightTry, test: PlaywrightTest, tree: ProjectTree, patterns: Patterns
) -> TryEvidence:
    """A try as the rules see it. The first error is the test's own; Playwright adds those of hooks
    and fixtures behind it.
    """
    errors = result.all_errors[:MAX_ERRORS]
    return TryEvidence(
        failed=result.status in ("failed", "timedOut"),
        as_expected=result.status == test.expected_status,
        errors=tuple(
            _error(
                error, tree, patterns, Phase.AFTER if index else Phase.BODY, _excerpt(result, index)
            )
            for index, error in enumerate(errors)
        ),
        swallowed=result.stdout,
    )


def _excerpt(result: PlaywrightTry, index: int) -> str:
    """The source around an error; Playwright writes it behind the message in the list of all
    errors.
    """
    whole = result.errors[index] if index < len(result.errors) else result.error
    return (
        ""
        if whole is None
        else f"{whole.message[-MAX_RAW_CHARS:]}\n{whole.snippet[:MAX_RAW_CHARS]}"
    )


def _by_matcher(excerpt: str) -> bool:
    """Whether the caret stands at a matcher of the team (`expect.extend`): its message is all that
    Playwright writes, and may begin in any way.

    Playwright's own matchers write `expect(…)` themselves, and `toPass` passes on the error of what
    it calls.
    """
    carets = _CARET.finditer(clean(excerpt, 2 * MAX_RAW_CHARS))
    names = (_MATCHER.match(found["code"][len(found["space"]) :]) for found in carets)
    return any(name is not None and name[0] not in _BUILT_IN for name in names)


def _error(
    error: PlaywrightError, tree: ProjectTree, patterns: Patterns, phase: Phase, excerpt: str = ""
) -> ReportedError:
    location = error.location
    file = tree.relative(location.file) if location is not None else ""
    return classify(
        error.text,
        patterns=patterns,
        causes=error.causes,
        phase=phase,
        origin=_origin(error.stack or error.text, tree),
        by_matcher=_by_matcher(excerpt or f"{error.message[-MAX_RAW_CHARS:]}\n{error.snippet}"),
        causes_in_text=False,
        file=file,
        line=bounded_line(location.line) if location is not None else 0,
        in_asked_file=location is not None and tree.asks_for(location.file),
    )


def _origin(stack: str, tree: ProjectTree) -> Origin:
    found = _FRAME.search(stack[:MAX_RAW_CHARS])
    if found is None:
        return Origin.UNKNOWN
    file = found[1].removeprefix("file://")
    return Origin.TEAM if tree.inside(file) and "node_modules/" not in file else Origin.LIBRARY


def _try(
    result: PlaywrightTry, evidence: TryEvidence, test: PlaywrightTest, tree: ProjectTree
) -> Try:
    unexpected = result.status not in (test.expected_status, "skipped", "interrupted")
    message = clean("\n".join(_shown(result))) or (
        "Expected to fail, but passed." if result.status == "passed" else "No error message."
    )
    file, line = _place(result, tree)
    return Try(
        status="timed_out" if result.status == "timedOut" else result.status,
        duration_s=bounded_seconds(result.duration / 1000),
        error=TestError(message=message, file=file, line=line)
        if unexpected or evidence.errors
        else None,
    )


def _shown(result: PlaywrightTry) -> Iterable[str]:
    for error in result.all_errors[:MAX_TRIES]:
        yield "\n".join(
            [
                without_source(error.text),
                *(f"[cause]: {cause[:MAX_RAW_CHARS]}" for cause in error.causes),
            ]
        )


def _place(result: PlaywrightTry, tree: ProjectTree) -> tuple[str, int]:
    """Where the try failed: the first place in the project's own files."""
    errors = (result.error, *result.errors) if result.error is not None else result.errors
    for location in (*(error.location for error in errors), result.error_location):
        if (
            location is not None
            and (file := tree.relative(location.file))
            and "node_modules/" not in file
        ):
            return file, bounded_line(location.line)
    return "", 0


def _kept(tries: list[Try]) -> tuple[Try, ...]:
    half = MAX_TRIES // 2
    return tuple(tries if len(tries) <= MAX_TRIES else tries[:half] + tries[-half:])
