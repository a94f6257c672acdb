"""The report for people: one page that needs nothing else, no script, no network. Pure.

What went wrong comes first, then what was flaky, then the timeline; what passed is folded. Every
text of others is escaped: it is shown, never markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from typing import NamedTuple

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import ACTIVE, PASSING, Artifact, TestResult, Verdict
from qgjet.reporting import timeline
from qgjet.reporting.cases import Case, CaseTry, Result, cases_of, says_something
from qgjet.reporting.model import WORST_FIRST, JobReport, SuiteReport
from qgjet.reporting.style import CSS
from qgjet.reporting.text import artifact_url, bounded, duration, first_line, legal, located

_BASE = re.compile(r"https?://|\.\.?(?:/|$)|/(?!/)")
"""What a link may begin with: not `javascript:`."""
_ADDRESS = re.compile(r"https?://[!-~]+")
_ORDER = {verdict: number for number, verdict in enumerate(WORST_FIRST)}
_NOT_ENDED = _ORDER[Verdict.CANCELLED] - 0.5
"""Jobs without a verdict come after those with a bad one, before the cancelled ones."""
_WORDS = {
    "timed_out": "timed out",
    "infra_error": "infra error",
    "config_error": "config error",
    "attempt_ended": "ended",
    "attempt_lost": "lost",
}


class Given(NamedTuple):
    """What holds for the whole page."""

    base: str | None
    tags: dict[str, str]


def render(report: SuiteReport, *, base_url: str | None = None) -> str:
    """A whole page. `base_url` is the API's, absolute or relative to the page, for links to
    artifacts; without it they are names.
    """
    given = Given(
        base=base_url if base_url is not None and _BASE.match(base_url) else None, tags=report.tags
    )
    order = sorted(range(len(report.jobs)), key=lambda number: _rank(report.jobs[number]))
    anchors = {number: f"job-{number + 1}" for number in order}
    jobs = [(anchors[number], report.jobs[number]) for number in order]
    title = f"{_word(_state(report))}: {f'suite {report.suite_id}' if report.suite_id else _counted(len(jobs), 'job')}"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,"><title>{_text(title)}</title><style>{CSS}</style></head><body>',
        _header(report),
        "<main>",
        _section(
            "Needs attention",
            [(anchor, job) for anchor, job in jobs if job.verdict not in PASSING],
            given,
            opened=True,
        ),
        _section(
            "Flaky",
            [(anchor, job) for anchor, job in jobs if job.verdict is Verdict.FLAKY],
            given,
            opened=True,
        ),
        _timeline(report, anchors),
        _folded(
            "Skipped",
            [(anchor, job) for anchor, job in jobs if job.verdict is Verdict.SKIPPED],
            given,
        ),
        _folded(
            "Passed",
            [(anchor, job) for anchor, job in jobs if job.verdict is Verdict.PASSED],
            given,
        ),
        "</main><footer>Made by qgjet. Times are UTC.</footer></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _rank(job: JobReport) -> float:
    return _NOT_ENDED if job.verdict is None else _ORDER[job.verdict]


# -- header --------------------------------------------------------------------------------------------------------------


def _header(report: SuiteReport) -> str:
    state = _state(report)
    name = (
        f"<code>{_text(report.suite_id)}</code>"
        if report.suite_id
        else _counted(len(report.jobs), "job")
    )
    return (
        f'<header><p class="kicker">{"Suite" if report.suite_id else "Jobs"}</p><h1>{name} {_badge(state)}</h1>'
        f"{_bar(report)}{_chips(report)}<dl>{''.join(_facts(report))}</dl></header>"
    )


def _state(report: SuiteReport) -> str:
    """The verdict; without one the worst that is known."""
    if report.verdict is not None:
        return report.verdict.value
    if not report.jobs:
        return "no jobs"
    return (
        "running"
        if report.to_come or any(job.status in ACTIVE for job in report.jobs)
        else "no verdict"
    )


def _tally(report: SuiteReport) -> list[tuple[str, int]]:
    """(word, jobs) in the order of the page."""
    states = [_job_state(job) for job in sorted(report.jobs, key=_rank)]
    return [(state, states.count(state)) for state in dict.fromkeys(states)]


def _job_state(job: JobReport) -> str:
    return str(job.verdict or job.status or "not accepted")


def _bar(report: SuiteReport) -> str:
    pieces = (
        f'<i class="{_kind(state)}" style="flex-grow:{count}"></i>'
        for state, count in _tally(report)
    )
    return f'<div class="share" aria-hidden="true">{"".join(pieces)}</div>'


def _chips(report: SuiteReport) -> str:
    chips = (
        f'<li class="{_kind(state)}"><b>{count}</b> {_word(state)}</li>'
        for state, count in _tally(report)
    )
    return f'<ul class="chips">{"".join(chips)}</ul>'


def _facts(report: SuiteReport) -> Iterator[str]:
    for name, values in (
        ("App version", {job.app_version_id for job in report.jobs}),
        ("Target", {job.target for job in report.jobs}),
        ("Organisation", {job.org_id for job in report.jobs}),
    ):
        if values:
            yield _fact(name, ", ".join(sorted(values)))
    if report.began_at:
        yield f"<div><dt>Began</dt><dd>{_time(report.began_at)}</dd></div>"
        if report.ended_at:
            yield _fact(
                "Duration", duration(bounded((report.ended_at - report.began_at).total_seconds()))
            )
    if report.to_come:
        yield _fact("Still to come", _counted(report.to_come, "job"))
    if report.missing:
        yield _fact("Never submitted", _counted(report.missing, "job"))
    for key, value in report.tags.items():
        yield _fact(key, value)


def _fact(name: str, value: str) -> str:
    shown = (
        f'<a href="{_text(value)}" rel="noopener noreferrer">{_text(value)}</a>'
        if _ADDRESS.fullmatch(value)
        else _text(value)
    )
    return f"<div><dt>{_text(name)}</dt><dd>{shown}</dd></div>"


# -- sections ------------------------------------------------------------------------------------------------------------


def _section(
    title: str, jobs: Sequence[tuple[str, JobReport]], given: Given, *, opened: bool
) -> str:
    if not jobs:
        return ""
    return f"<section><h2>{title} <small>{len(jobs)}</small></h2>{''.join(_job(anchor, job, given, opened=opened) for anchor, job in jobs)}</section>"


def _folded(title: str, jobs: Sequence[tuple[str, JobReport]], given: Given) -> str:
    if not jobs:
        return ""
    shown = "".join(_job(anchor, job, given, opened=False) for anchor, job in jobs)
    return f'<section><details class="fold"><summary><h2>{title} <small>{len(jobs)}</small></h2></summary>{shown}</details></section>'


def _timeline(report: SuiteReport, anchors: dict[int, str]) -> str:
    drawn = timeline.render(
        report.jobs, {number: f"#{anchor}" for number, anchor in anchors.items()}
    )
    return (
        f'<section><h2>Timeline</h2>{drawn}<p class="where">{timeline.LEGEND}</p></section>'
        if drawn
        else ""
    )


# -- a job ---------------------------------------------------------------------------------------------------------------


def _job(anchor: str, job: JobReport, given: Given, *, opened: bool) -> str:
    state = _job_state(job)
    tries = f" · {_counted(len(job.attempts), 'attempt')}" if len(job.attempts) > 1 else ""
    took = f" · {duration(bounded(job.duration_s))}" if job.attempts else ""
    where = f"{_text(job.target)} {_text(job.app_version_id)}{tries}{took}"
    name = f'<span class="name">{_text(job.test)}</span>'
    head = f'{_badge(state)} {name} <span class="where">{where}</span>'
    failures = "".join(_case(case) for case in _worth_telling(job))
    return (
        f'<details class="job {_kind(state)}" id="{anchor}"{" open" if opened else ""}><summary>{head}</summary><div class="body">'
        f"{_why(job)}{failures}{_tests(job)}{_attempts(job)}{_artifacts(job, given.base)}{_small_print(job, given.tags)}</div></details>"
    )


def _why(job: JobReport) -> str:
    """Reason and message of the job, where it is not green; of the skipped ones too."""
    if job.verdict in (Verdict.PASSED, Verdict.FLAKY) or not (job.reason or job.message):
        return ""
    reason = f"<code>{_text(job.reason)}</code> " if job.reason else ""
    return f'<p class="why">{reason}{_text(first_line(job.message))}</p>'


def _worth_telling(job: JobReport) -> list[Case]:
    """Cases with failures, but for a single one of the job itself, which its reason and message
    tell already.

    The error of a job that says nothing is told by its reason; what failed in it is in the list of
    tests.
    """
    cases = [case for case in cases_of(job) if case.result is Result.FAILED or case.flaky]
    return [
        case
        for case in cases
        if not case.of_job or case.flaky or len(case.tries) > 1 or "\n" in case.message
    ]


def _case(case: Case) -> str:
    mark = "flaky" if case.flaky else "failed"
    name = "The job itself" if case.of_job else _text(case.title)
    place = located(case.file, case.line)
    where = f' <span class="where">{_text(place)}</span>' if place and not case.of_job else ""
    note = f'<p class="where">{_text(case.note)}</p>' if case.note else ""
    return f'<div class="case {_kind(mark)}"><h3>{_dot(mark)}{name}{where}</h3><ol class="tries">{"".join(_tries(case))}</ol>{note}</div>'


def _tries(case: Case) -> Iterator[str]:
    attempts = [one.attempt for one in case.tries]
    before = ""
    for place, one in enumerate(case.tries):
        number = attempts[: place + 1].count(one.attempt) if attempts.count(one.attempt) > 1 else 0
        yield _try(one, number, repeated=one.failed and one.text == before)
        before = one.text if one.failed else before


def _try(one: CaseTry, number: int, *, repeated: bool) -> str:
    """`number`: of the try within its attempt; 0 when there is only one."""
    attempt = f"attempt {one.attempt}" if one.attempt else ""
    took = duration(one.duration_s) if one.duration_s else ""
    head = " · ".join(
        part
        for part in (attempt, f"try {number}" if number else "", _text(_word(one.status)), took)
        if part
    )
    place = located(one.file, one.line)
    where = (
        f' <span class="where">{_text(place)}</span>'
        if place and one.failed and not repeated
        else ""
    )
    text = f"<pre>{_text(one.message)}</pre>" if one.failed and one.message else ""
    told = ' <span class="where">the same again</span>' if repeated else text
    return f'<li><span class="head">{_dot("failed" if one.failed else one.status)}{head}</span>{where}{told}</li>'


def _tests(job: JobReport) -> str:
    """All tests of the last attempt that tells of some."""
    found = next((attempt for attempt in reversed(job.attempts) if attempt.tests), None)
    if found is None:
        return ""
    rows = "".join(_test(test) for test in found.tests)
    omitted = (
        f"<li>and {found.tests_omitted} more, in the full report</li>"
        if found.tests_omitted
        else ""
    )
    summary = (
        f"{_counted(len(found.tests) + found.tests_omitted, 'test')} of attempt {found.attempt}"
    )
    opened = "" if says_something(job) else " open"
    return f'<details class="more"{opened}><summary>{summary}</summary><ul class="tests">{rows}{omitted}</ul></details>'


def _test(test: TestResult) -> str:
    took_s = sum(bounded(one.duration_s) for one in test.tries)
    error = next((one.error for one in reversed(test.tries) if one.error), None)
    why = (
        f'<span class="why">{_text(first_line(error.message))}</span>'
        if error and test.outcome not in ("passed", "flaky")
        else ""
    )
    note = "" if test.outcome == "passed" else f" · {_text(_word(test.outcome))}"
    return f'<li>{_dot(test.outcome)}{_text(test.title or test.id)} <span class="where">{duration(took_s)}{note}</span>{why}</li>'


def _attempts(job: JobReport) -> str:
    if not job.attempts:
        return ""
    rows = "".join(_attempt(attempt) for attempt in job.attempts)
    return f'<div class="scroll"><table><thead><tr><th>Attempt<th>Outcome<th>Agent<th>Device<th>Started<th>Took</tr></thead><tbody>{rows}</tbody></table></div>'


def _attempt(attempt: AttemptRecord) -> str:
    state = str(attempt.verdict or attempt.ended_by or "running")
    reason = f" <code>{_text(attempt.reason)}</code>" if attempt.reason else ""
    took = duration(bounded(attempt.duration_s)) if attempt.duration_s is not None else ""
    cells = (
        str(attempt.attempt),
        f"{_dot(state)}{_text(_word(state))}{reason}",
        _text(attempt.agent),
        _text(attempt.device),
        _time(attempt.started_at),
        took,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _artifacts(job: JobReport, base: str | None) -> str:
    groups = [(attempt, attempt.artifacts) for attempt in job.attempts if attempt.artifacts]
    if not groups:
        return ""
    several = len(groups) > 1
    items = "".join(
        (f"<li class=label>Attempt {attempt.attempt}</li>" if several else "")
        + "".join(_artifact(job.job_id, attempt.attempt, one, base) for one in files)
        for attempt, files in groups
    )
    count = sum(len(files) for _, files in groups)
    return f'<details class="more"><summary>{_counted(count, "artifact")}</summary><ul class="artifacts">{items}</ul></details>'


def _artifact(job_id: str, attempt: int, one: Artifact, base: str | None) -> str:
    name = _text(one.name)
    shown = (
        name
        if base is None or not one.sha256
        else f'<a href="{_text(artifact_url(base, job_id, attempt, one.name))}">{name}</a>'
    )
    said = " · ".join([_size(one.size), *([_text(one.note)] if one.note else [])])
    return f'<li>{shown} <span class="where">{said}</span></li>'


def _small_print(job: JobReport, known: dict[str, str]) -> str:
    parts = [f"job <code>{_text(job.job_id)}</code>"] if job.job_id else []
    parts += ["it was live before this suite asked for it"] if job.attached else []
    parts += [
        f"{_text(key)}: {_text(value)}"
        for key, value in job.tags.items()
        if known.get(key) != value
    ]
    return f'<p class="small">{" · ".join(parts)}</p>' if parts else ""


# -- pieces --------------------------------------------------------------------------------------------------------------


def _badge(state: str) -> str:
    return f'<span class="badge {_kind(state)}">{_text(_word(state))}</span>'


def _dot(state: str) -> str:
    return f'<i class="dot {_kind(state)}" title="{_text(_word(state))}"></i>'


def _kind(state: str) -> str:
    """The colour of a word: a class of the style sheet."""
    return _KINDS.get(state, "none")


_KINDS = {
    **dict.fromkeys(("failed", "timed_out"), "bad"),
    **dict.fromkeys(
        (
            "infra_error",
            "config_error",
            "attempt_lost",
            "released",
            "interrupted",
            "no verdict",
            "not accepted",
            "error",
        ),
        "broken",
    ),
    **dict.fromkeys(("flaky",), "flaky"),
    **dict.fromkeys(("passed",), "good"),
    **dict.fromkeys(("running", "queued"), "live"),
}


def _word(state: str) -> str:
    return _WORDS.get(state, state)


def _time(at: datetime) -> str:
    utc = at.astimezone(UTC)
    return f'<time datetime="{utc.isoformat()}">{utc:%Y-%m-%d %H:%M:%S}</time>'


def _size(size: int) -> str:
    value = float(max(size, 0))
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(text: str) -> str:
    return escape(legal(text))
