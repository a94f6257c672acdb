"""What one attempt left behind, as the rules see it. Pure.

A report is read into cases, a case into tries, a try into errors. An error has a kind, a phase, an
origin and heads; the rules decide by these and never search through other text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import BinaryIO

from msgspec import Struct, field

from qgjet.domain.events import TestResult
from qgjet.verdict.patterns import Patterns, Sign, Swallowed, default_patterns

FAILING = frozenset({"failed", "timed_out"})


class ErrorKind(StrEnum):
    """What raised an error."""

    COMPARISON = "comparison"
    """An assertion with compared values."""
    ASSERTION = "assertion"
    """Any other assertion."""
    THROWN = "thrown"
    """The test's own code."""
    TOOL = "tool"
    """AppWright, WebDriver, Playwright or another library."""
    PROCESS = "process"
    """The worker or the process died."""
    TIME_LIMIT = "time_limit"


ASSERTIONS = frozenset({ErrorKind.COMPARISON, ErrorKind.ASSERTION})
ABOUT_THE_APP = ASSERTIONS | {ErrorKind.THROWN}
"""Kinds that are a statement about the app, whatever the clean-up reports afterwards."""


class Phase(StrEnum):
    """When an error was raised."""

    BEFORE = "before"
    BODY = "body"
    AFTER = "after"
    """Hooks after the test."""
    TEARDOWN = "teardown"
    """Fixtures that are taken down."""
    OUTSIDE = "outside"
    """Outside of any test."""


class Origin(StrEnum):
    """Where an error's first stack frame lies."""

    TEAM = "team"
    LIBRARY = "library"
    UNKNOWN = "unknown"


class ReportedError(Struct, frozen=True, kw_only=True):
    """One error of a try, or of the run."""

    kind: ErrorKind
    phase: Phase = Phase.BODY
    origin: Origin = Origin.UNKNOWN
    text: str
    """Without source excerpt and stack, at most 2 KB."""
    heads: tuple[str, ...] = ()
    """The beginning of the message, then the same without the wrappers around it, then `code` and
    causes.
    """
    sign: Sign | None = None
    """What the heads mean when they are not about the app. An assertion has none."""
    final: bool = False
    file: str = ""
    line: int = 0
    in_asked_file: bool = False


class TryEvidence(Struct, frozen=True, kw_only=True):
    """One try of a test case."""

    failed: bool
    """It failed or timed out, expected or not."""
    as_expected: bool
    errors: tuple[ReportedError, ...] = ()
    swallowed: tuple[Swallowed, ...] = ()
    """Without answers about the screen, such as `no such element`."""


class Blame(Struct, frozen=True):
    """A sign, and the text that shows it."""

    sign: Sign
    text: str


class ReportedCase(Struct, frozen=True, kw_only=True):
    """One test case of a report, with what the rules have to know beyond its result."""

    result: TestResult
    asked: bool = True
    """It belongs to the file that the job asked for. Others come from set-up projects, or from
    another run.
    """
    finished: bool = True
    """False: it should have run and did not come to an end. Playwright calls such tests `skipped`.
    """
    blame: Blame | None = None
    """Of a failing case: what is at fault instead of the app, in every failed try. Of a passing
    case: why the pass proves nothing.
    """
    tries_blame: Blame | None = None
    """Of a flaky case, what is at fault for every failed try instead of the app."""
    words: bool = True
    """An error of it has a message."""
    cause: str = ""
    """Of a failing case, the text of its last failed try that the app is to blame for; empty when
    that is its last one.
    """
    final: bool = False

    @property
    def failing(self) -> bool:
        return self.result.outcome in FAILING


class RunnerReport(Struct, frozen=True, kw_only=True):
    """A report that could be read."""

    cases: tuple[ReportedCase, ...] = ()
    """All of a usual report. Of a huge one, at least one of each kind that the rules distinguish.
    """
    omitted: int = 0
    """Cases that are not in `cases`."""
    totals: dict[str, int] = {}
    """How many cases have each outcome, omitted ones too."""
    errors: tuple[ReportedError, ...] = ()
    """Errors outside of any test."""
    contradiction: str = ""
    """How the report disagrees with itself: no pass in it can be believed."""
    damage: str = ""
    """What is broken in the document. Failures that could be read still count."""
    tool: str = ""
    """The tool that wrote the report, where it names itself."""
    sharded: str = ""
    """The configured shard, when the run was a part of all tests."""


class ReportUnreadable(Struct, frozen=True):
    """The bytes are no report."""

    why: str


class Evidence(Struct, frozen=True, kw_only=True):
    """What one run of Playwright left behind."""

    exit_code: int | None
    """None: ended by a signal."""
    signal: str = ""
    """Its name, such as SIGKILL."""
    report: bytes | BinaryIO | None
    """Playwright's JSON report, read as a stream. None: no file was written."""
    output: str = ""
    """The end of stdout and stderr. 64 KiB of it are read."""
    stopped: str = ""
    """Why the agent stopped it: cancelled, deadline, lease_lost, drained. Empty: it did not."""
    duration_s: float
    project_dir: str
    """Absolute, symlinks resolved."""
    test: str
    """Path of the asked test file, relative to `project_dir`."""
    retries: int = 0
    """The value of --retries."""
    patterns: Patterns = field(default_factory=default_patterns)
    must_keep: frozenset[str] = frozenset()
    """IDs of test cases that the outcome must name, even where others are left out for their size.
    """


class CommandEvidence(Struct, frozen=True, kw_only=True):
    """What one run of the `command` runner left behind."""

    exit_code: int | None
    """None: ended by a signal."""
    signal: str = ""
    junit: bytes | BinaryIO | None = None
    """JUnit XML, read as a stream. None: no file was written."""
    junit_due: bool = False
    """By the agent's configuration the command writes JUnit XML."""
    output: str = ""
    stopped: str = ""
    """As in Evidence, but only when the command was still running then: unlike Playwright's report,
    JUnit and exit code cannot show that it was cut short.
    """
    duration_s: float
    project_dir: str
    patterns: Patterns = field(default_factory=default_patterns)
    must_keep: frozenset[str] = frozenset()
