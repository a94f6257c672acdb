"""What GitHub Actions is told at the end of `run` and `wait`: the log, annotations, the job
summary, the step's outputs.

Names and messages come from tests, and the runner obeys lines that look like its commands. So text
of others is cut into lines without control characters and stands either between a pair of
`stop-commands`, or escaped inside a command of ours. Rendering is pure; `Step` writes.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from qgjet.config.settings import Settings
from qgjet.domain.attempts import CONCLUSIVE, AttemptRecord, not_passed_again
from qgjet.domain.events import PASSING, TestError, TestResult, Verdict
from qgjet.reporting.model import WORST_FIRST, JobReport, SuiteReport
from qgjet_cli.options import ci
from qgjet_cli.options.request import project_of
from qgjet_cli.output import console

MAX_ANNOTATIONS = 10
"""Of a level and step; GitHub shows no more of them."""
MAX_MESSAGE = 4000
"""Of an annotation; the runner cuts it at 4096 characters."""
MAX_GROUPS = 200
MAX_TITLE = 200
MAX_LINES, MAX_LINE = 60, 500
"""Of one message."""
MAX_TEXT = 20_000
"""Characters of one job."""
SUMMARY_BYTES = 900_000
"""GitHub drops a step's summary of more than 1 MiB, all of it."""
_BAD = frozenset({"failed", "timed_out", "interrupted"})
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")

Place = Callable[[str, str], str]
"""Target and a file as its project calls it -> the file as the repository calls it; empty: it is
not there.
"""


class Annotation(Struct, frozen=True, kw_only=True):
    level: str
    title: str
    message: str
    file: str = ""
    line: int = 0


class Fault(Struct, frozen=True, kw_only=True):
    """Why a job did not pass, or not at once."""

    test: str
    """Title of the test; empty: no test is to blame."""
    message: str
    places: tuple[tuple[str, int], ...]
    """Files with lines, the closest first, as the project calls them; line 0: not known."""


class Step:
    """This step of GitHub Actions; anything else than such a step gets nothing.

    What cannot be written is a warning: the exit code has the verdict.
    """

    def __init__(
        self, settings: Settings, *, junit: str = "", environ: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        self._junit = junit
        self._token = secrets.token_hex(16)
        self._written: dict[str, tuple[int, int]] = {}
        """File -> where the part of this command begins and ends."""

    def finish(self, report: SuiteReport) -> None:
        """Print groups and annotations to the step's log, and write its files."""
        if ci.is_github(self._environ):
            console.raw(
                [
                    *groups(report, token=self._token),
                    *map(command, annotations_of(report, _places(self._settings, self._environ))),
                ]
            )
            self.write(report)

    def write(self, report: SuiteReport) -> None:
        """Write the job summary and the outputs. A later call replaces what an earlier one wrote."""
        if ci.is_github(self._environ):
            junit = (
                str(Path(self._junit).absolute())
                if self._junit and Path(self._junit).is_file()
                else ""
            )
            self._replace(
                "GITHUB_STEP_SUMMARY", lambda there: summary(report, limit=SUMMARY_BYTES - there)
            )
            self._replace(
                "GITHUB_OUTPUT",
                lambda _: outputs(report, junit=junit, delimiter=f"qgjet_{self._token}"),
            )

    def _replace(self, variable: str, text: Callable[[int], str]) -> None:
        path = self._environ.get(variable, "")
        if not path:
            return
        try:
            with Path(path).open("ab") as file:
                begin, end = self._written.get(path, (0, -1))
                if file.tell() == end:  # nothing has been added since
                    file.truncate(begin)
                begin = file.seek(0, os.SEEK_END)
                file.write(text(begin).encode("utf-8", "replace"))
                self._written[path] = begin, file.tell()
        except OSError as error:
            console.warn(f"{variable}: {path} cannot be written: {error.strerror or error}")


def _places(settings: Settings, environ: Mapping[str, str]) -> Place:
    """By the directories of this machine; the root is the checkout that a target's project is in."""
    workspace = Path(environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()

    def place(target: str, file: str) -> str:
        project = project_of(settings, target).resolve()
        if workspace not in (project, *project.parents):
            return ""
        within = [
            directory
            for directory in (project, *project.parents)
            if workspace in (directory, *directory.parents)
        ]
        root = next((directory for directory in within if (directory / ".git").is_dir()), workspace)
        path = posixpath.normpath(posixpath.join(project.relative_to(root).as_posix(), file))
        return (
            ""
            if path.startswith(("/", "../"))
            or path in ("..", ".")
            or "node_modules" in path.split("/")
            else path
        )

    return place


# -- what happened -------------------------------------------------------------------------------------------------------


def worst_first(jobs: Sequence[JobReport]) -> list[JobReport]:
    """Failures, then what has no verdict, then the rest; of equals in the order given."""
    order = {verdict: number for number, verdict in enumerate(WORST_FIRST)}
    return sorted(jobs, key=lambda job: order[job.verdict or Verdict.CONFIG_ERROR])


def not_passed(jobs: Sequence[JobReport]) -> list[JobReport]:
    return [job for job in worst_first(jobs) if job.verdict not in PASSING]


def flaky(jobs: Sequence[JobReport]) -> list[JobReport]:
    return [job for job in jobs if job.verdict is Verdict.FLAKY]


def faults(job: JobReport) -> list[Fault]:
    """Of a job that did not pass at once; at least one."""
    found = _of_flaky(job) if job.verdict is Verdict.FLAKY else _of_bad(job)
    early = (
        next((attempt for attempt in job.attempts if attempt.verdict not in PASSING), None)
        if job.verdict is Verdict.FLAKY and not job.message
        else None
    )
    reason, message = (early.reason, early.message) if early else (job.reason, job.message)
    return found or [
        Fault(
            test="",
            message=": ".join(part for part in (reason, message) if part),
            places=((job.test, 0),),
        )
    ]


def _of_flaky(job: JobReport) -> list[Fault]:
    """The first test that failed in an attempt that counts."""
    conclusive = [attempt for attempt in job.attempts if attempt.verdict in CONCLUSIVE]
    return [fault for attempt in conclusive for fault in _of_tests(attempt, _BAD | {"flaky"})][:1]


def _of_bad(job: JobReport) -> list[Fault]:
    """The tests that failed in the last attempt, and those that failed before and did not pass in
    it.
    """
    found = _of_tests(job.last, _BAD) if job.last else []
    if job.verdict in (Verdict.FAILED, Verdict.TIMED_OUT):
        for one in not_passed_again(job.attempts):
            fault = _fault(one.test)
            found.append(replace(fault, message=f"{fault.message}\n{one.note}"))
    return found


def _of_tests(attempt: AttemptRecord, outcomes: frozenset[str]) -> list[Fault]:
    return [_fault(test) for test in attempt.tests if test.outcome in outcomes]


def _fault(test: TestResult) -> Fault:
    error = next(
        (one.error for one in reversed(test.tries) if one.error),
        TestError(message=test.outcome.replace("_", " ")),
    )
    places = [(error.file, error.line), (test.file, test.line)]
    return Fault(
        test=test.title, message=error.message, places=tuple(place for place in places if place[0])
    )


def state(job: JobReport) -> str:
    """The verdict in words; of a job without one, where it is."""
    return (job.verdict or job.status or "not accepted").replace("_", " ")


def counted(report: SuiteReport) -> str:
    """`2 failed, 1 flaky, 15 passed`, and what has no verdict."""
    found = report.counts
    parts = [
        f"{found[verdict]} {verdict.replace('_', ' ')}"
        for verdict in WORST_FIRST
        if verdict in found
    ]
    without = sum(job.verdict is None for job in report.jobs) + report.to_come + report.missing
    return ", ".join(parts + ([f"{without} without a result"] if without else [])) or "no jobs"


def lines_of(text: str) -> list[str]:
    """Lines without control characters, each and all of them bounded."""
    lines = _ANSI.sub("", text[: MAX_LINES * MAX_LINE]).expandtabs(4).splitlines()
    shown = [_cut(console.printable(line.rstrip()), MAX_LINE) for line in lines[:MAX_LINES]]
    return (
        [*shown, "… (more is left out)"]
        if len(lines) > MAX_LINES or len(text) > MAX_LINES * MAX_LINE
        else shown
    )


def _one_line(text: str, limit: int = MAX_TITLE) -> str:
    return console.one_line(_ANSI.sub("", text[:10_000]), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


# -- the log -------------------------------------------------------------------------------------------------------------


def groups(report: SuiteReport, *, token: str) -> list[str]:
    """One foldable part of the log for each job that did not pass. `token` must be new and
    unguessable.
    """
    jobs = not_passed(report.jobs)
    shown = [line for job in jobs[:MAX_GROUPS] for line in _group(job, token)]
    return shown + (
        [f"{console.counted(len(jobs) - MAX_GROUPS, 'more job')} did not pass"]
        if len(jobs) > MAX_GROUPS
        else []
    )


def _group(job: JobReport, token: str) -> list[str]:
    title = " · ".join(_one_line(part) for part in (job.test, job.target, state(job)))
    return [
        f"::group::{escape(title)}",
        f"::stop-commands::{token}",
        *_text(job),
        f"::{token}::",
        "::endgroup::",
    ]


def _text(job: JobReport) -> Iterator[str]:
    """What there is to read about a job, bounded: one that says much is not to crowd out the
    others.
    """
    left = MAX_TEXT
    for line in _lines(job):
        left -= len(line) + 1
        if left < 0:
            yield "… (more is left out)"
            return
        yield line


def _lines(job: JobReport) -> Iterator[str]:
    for fault in faults(job):
        if fault.test:
            yield _one_line(fault.test)
            yield from (
                f"  at {_one_line(file)}{f':{line}' if line else ''}"
                for file, line in fault.places[:1]
            )
        yield from (f"  {line}" for line in lines_of(fault.message))
    for attempt in job.attempts:
        yield _one_line(_attempt(attempt), MAX_LINE)


def _attempt(attempt: AttemptRecord) -> str:
    verdict = (attempt.verdict or attempt.ended_by or "running").replace("_", " ")
    parts = (
        f"attempt {attempt.attempt}",
        verdict,
        attempt.reason,
        attempt.agent,
        attempt.device,
        console.duration(attempt.duration_s),
    )
    return " · ".join(part for part in parts if part)


# -- annotations ---------------------------------------------------------------------------------------------------------


def annotations_of(report: SuiteReport, place: Place) -> list[Annotation]:
    """At most ten errors, what failed first, and ten warnings for flaky jobs; then one notice if
    that was not all.
    """
    errors = [(job, fault) for job in not_passed(report.jobs) for fault in faults(job)]
    warnings = [(job, fault) for job in flaky(report.jobs) for fault in faults(job)]
    shown = [_annotation("error", job, fault, place) for job, fault in errors[:MAX_ANNOTATIONS]]
    shown += [
        _annotation("warning", job, fault, place) for job, fault in warnings[:MAX_ANNOTATIONS]
    ]
    left = [
        console.counted(len(found) - MAX_ANNOTATIONS, f"more {what}")
        for found, what in ((errors, "failure"), (warnings, "flaky test"))
        if len(found) > MAX_ANNOTATIONS
    ]
    if left:
        shown.append(
            Annotation(
                level="notice",
                title="qgjet",
                message=f"{' and '.join(left)}: see the summary of the job",
            )
        )
    return shown


def _annotation(level: str, job: JobReport, fault: Fault, place: Place) -> Annotation:
    placed = ((place(job.target, file), line) for file, line in (*fault.places, (job.test, 0)))
    file, line = next(((file, line) for file, line in placed if file), ("", 0))
    text = [_one_line(fault.test)] if fault.test else []
    return Annotation(
        level=level,
        title=_one_line(f"{job.test} on {job.target}: {state(job)}"),
        message=_cut("\n".join(text + lines_of(fault.message)), MAX_MESSAGE) or state(job),
        file=console.printable(file),
        line=line,
    )


def command(annotation: Annotation) -> str:
    """The line that the runner reads."""
    properties = {
        "file": annotation.file,
        "line": str(annotation.line) if annotation.file and annotation.line > 0 else "",
        "title": annotation.title,
    }
    listed = ",".join(
        f"{key}={escape_property(value)}" for key, value in properties.items() if value
    )
    return f"::{annotation.level} {listed}::{escape(annotation.message)}"


def escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    return escape(text).replace(":", "%3A").replace(",", "%2C")


# -- files ---------------------------------------------------------------------------------------------------------------


def outputs(report: SuiteReport, *, junit: str, delimiter: str) -> str:
    """The step's outputs. `delimiter` must be new and unguessable."""
    counts = report.counts
    values = {
        "suite-id": report.suite_id,
        "verdict": report.verdict or "",
        "passed": str(counts.get(Verdict.PASSED, 0)),
        "failed": str(counts.get(Verdict.FAILED, 0) + counts.get(Verdict.TIMED_OUT, 0)),
        "flaky": str(counts.get(Verdict.FLAKY, 0)),
        "junit": junit,
    }
    return "".join(
        f"{name}<<{delimiter}\n{console.printable(value)}\n{delimiter}\n"
        for name, value in values.items()
    )


def summary(report: SuiteReport, *, limit: int = SUMMARY_BYTES) -> str:
    """Markdown of at most `limit` bytes; what there was no room for is counted. Empty when there is
    room for nothing.
    """
    jobs = worst_first(report.jobs)
    bad = [job for job in jobs if job.verdict not in PASSING or job.verdict is Verdict.FLAKY]
    good = [job for job in jobs if job.verdict in PASSING and job.verdict is not Verdict.FLAKY]
    page = _Page(limit)
    if not page.add(_head(report)):
        return ""
    page.rows(bad, most=limit * 4 // 10)
    page.details(bad, most=limit * 8 // 10)
    page.rows(good, most=limit, title=f"{len(good)} passed or skipped" if bad else "")
    return page.text()


_COLUMNS = "| test | target | app version | verdict | attempts | time | reason |\n|---|---|---|---|---:|---:|---|\n"
_NOTE = 200
"""Bytes kept free for each sentence that says what is left out."""


class _Page:
    """Pieces of Markdown, as long as they fit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[str] = []
        self._bytes = 0

    def text(self) -> str:
        return "".join(self._pieces)

    def add(self, text: str, most: int | None = None) -> bool:
        size = len(text.encode("utf-8", "replace"))
        if self._bytes + size > (self._limit if most is None else min(most, self._limit)):
            return False
        self._pieces.append(text)
        self._bytes += size
        return True

    def rows(self, jobs: Sequence[JobReport], *, most: int, title: str = "") -> None:
        opening, closing = (
            (f"<details><summary>{title}</summary>\n\n", "\n</details>\n\n")
            if title
            else ("", "\n")
        )
        room = most - _NOTE - len(closing)
        kept = 0
        if jobs and self.add(opening + _COLUMNS, room):
            kept = self._each(map(_row, jobs), room)
            self.add(closing)
        self._left_out(len(jobs) - kept, "this table")

    def details(self, jobs: Sequence[JobReport], *, most: int) -> None:
        kept = self._each(map(_details, jobs), most - _NOTE)
        self._left_out(len(jobs) - kept, "these messages")

    def _each(self, pieces: Iterator[str], room: int) -> int:
        """How many of them fit, from the first on."""
        kept = 0
        while (piece := next(pieces, None)) is not None and self.add(piece, room):
            kept += 1
        return kept

    def _left_out(self, number: int, of: str) -> None:
        if number > 0:
            self.add(f"*{console.counted(number, 'more job')}: no room left in {of}.*\n\n")


def _head(report: SuiteReport) -> str:
    parts = [f"Suite {markdown(_one_line(report.suite_id))}"] if report.suite_id else []
    parts += [
        f"{key} {markdown(_one_line(report.tags[key]))}"
        for key in ("branch", "commit")
        if report.tags.get(key)
    ]
    took = console.duration(sum(job.duration_s for job in report.jobs))
    return f"## qgjet: {state_of(report)}\n\n{' · '.join([*parts, counted(report), f'{took} of tests'])}\n\n"


def state_of(report: SuiteReport) -> str:
    return report.verdict.replace("_", " ") if report.verdict else "no result"


def _row(job: JobReport) -> str:
    reason = "" if job.verdict is Verdict.PASSED else job.reason
    cells = (
        job.test,
        job.target,
        job.app_version_id,
        state(job),
        str(len(job.attempts)),
        console.duration(job.duration_s),
        reason,
    )
    return "| " + " | ".join(markdown(_one_line(cell)) for cell in cells) + " |\n"


def _details(job: JobReport) -> str:
    """`<pre>` at the start of a line goes on until it is closed, whatever the lines in it look
    like.
    """
    title = html.escape(_one_line(f"{job.test} on {job.target}: {state(job)}"))
    text = "\n".join(html.escape(line) for line in _text(job))
    return f"<details><summary>{title}</summary>\n\n<pre>\n{text}\n</pre>\n\n</details>\n\n"


def markdown(text: str) -> str:
    """`text` as it is, whatever Markdown or HTML is in it."""
    return re.sub(r"[^\w\s.\-/]|_", lambda found: f"&#{ord(found[0])};", text)
