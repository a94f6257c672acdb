"""JUnit XML, in the form of Surefire, which knows retries: `flakyFailure`, `rerunFailure`. Pure.

There is no standard. The elements and their order are those of Surefire's schema
(surefire-test-report-3.0.xsd); beyond it goes what others look for: the root `testsuites`, and the
attributes `file` and `timestamp`.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Verdict
from qgjet.reporting.cases import Case, CaseTry, Result, cases_of
from qgjet.reporting.model import JobReport, SuiteReport
from qgjet.reporting.text import duration, first_line, legal

DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def render(report: SuiteReport) -> bytes:
    """One `testsuite` per target and app version, one `testcase` per test; docs/reports.md has the
    mapping of verdicts.
    """
    root = _element(None, "testsuites", name=report.suite_id or "qgjet")
    cases: list[Case] = []
    for (org_id, app_version_id, target), jobs in _groups(report.entries).items():
        properties = {
            "qgjet.suite_id": report.suite_id,
            "org_id": org_id,
            "app_version_id": app_version_id,
            "target": target,
        }
        properties |= {f"tag.{key}": value for key, value in report.tags.items()}
        cases += _suite(
            root, f"{target} {app_version_id}".strip() or "incomplete", jobs, properties
        )
    _count(root, cases)
    indent(root, " ")
    return DECLARATION + tostring(root, encoding="unicode").encode() + b"\n"


def _groups(jobs: Iterable[JobReport]) -> dict[tuple[str, str, str], list[JobReport]]:
    groups: dict[tuple[str, str, str], list[JobReport]] = {}
    for job in jobs:
        groups.setdefault((job.org_id, job.app_version_id, job.target), []).append(job)
    return groups


def _suite(
    root: Element, name: str, jobs: list[JobReport], properties: dict[str, str]
) -> list[Case]:
    suite = _element(root, "testsuite", name=name)
    began = [attempt.started_at for job in jobs for attempt in job.attempts[:1]]
    if began:
        suite.set("timestamp", min(began).isoformat(timespec="seconds"))
    holder = _element(suite, "properties")
    for key, value in properties.items():
        if value:
            _element(holder, "property", name=key, value=value)
    cases = [case for job in jobs for case in _job(suite, job)]
    _count(suite, cases)
    return cases


def _job(suite: Element, job: JobReport) -> list[Case]:
    cases = cases_of(job)
    for number, case in enumerate(cases):
        _case(suite, case, story=number == 0 or case.result is not Result.PASSED or case.flaky)
    return cases


def _case(suite: Element, case: Case, *, story: bool) -> None:
    """`story`: with what is known of its job, which would be too much for each of a thousand tests."""
    element = _element(
        suite,
        "testcase",
        name=case.title,
        classname=case.file,
        time=_seconds(case.duration_s),
        file=case.file,
    )
    match case.result:
        case Result.FAILED:
            _failed(element, case)
        case Result.ERROR:
            _element(
                element,
                "error",
                case.message,
                message=_summary(case.reason, case.message),
                type=legal(case.reason) or "error",
            )
        case Result.SKIPPED:
            _element(element, "skipped", message=first_line(case.message))
        case Result.PASSED:
            for one in case.failures:
                _again(element, "flakyFailure", one)
    if story:
        _element(element, "system-out", "\n".join(_story(case.job)))


def _failed(element: Element, case: Case) -> None:
    failures = case.failures
    first, text = (failures[0], failures[0].text) if failures else (None, case.message)
    text = "\n".join(part for part in (text, case.note) if part)
    message, kind = (first.message, first.status) if first else (case.message, case.reason)
    _element(element, "failure", text, message=first_line(message), type=legal(kind) or "failed")
    for one in failures[1:]:
        _again(element, "rerunFailure", one)


def _again(element: Element, name: str, one: CaseTry) -> None:
    again = _element(
        element, name, message=first_line(one.message), type=legal(one.status) or "failed"
    )
    _element(again, "stackTrace", one.text)
    _element(again, "system-out", f"attempt {one.attempt}" if one.attempt else "")


def _story(job: JobReport) -> Iterable[str]:
    yield f"job {job.job_id or '(not accepted)'}: {job.verdict or job.status or 'no verdict'}{_own_reason(job)}"
    for attempt in job.attempts:
        yield _told(attempt)
        for artifact in attempt.artifacts:
            yield f"  artifact {artifact.name} ({artifact.content_type}, {artifact.size} bytes)"
        if attempt.tests_omitted:
            yield f"  {attempt.tests_omitted} more tests are not listed here; the full report is an artifact"


def _own_reason(job: JobReport) -> str:
    """Why the verdict is another one than that of the last attempt; empty where it is not."""
    decided = (
        job.verdict in (Verdict.FLAKY, Verdict.FAILED)
        and job.last is not None
        and (job.reason, job.message) != (job.last.reason, job.last.message)
    )
    return f" ({job.reason}): {first_line(job.message, 1000)}" if decided and job.reason else ""


def _told(attempt: AttemptRecord) -> str:
    """`attempt 2: failed (tests_failed) on agent mac-1, device emulator-5554, 12.3 s: message`"""
    outcome = str(attempt.verdict or attempt.ended_by or "running") + (
        f" ({attempt.reason})" if attempt.reason else ""
    )
    parts = [f"agent {attempt.agent}"] if attempt.agent else []
    parts += [f"device {attempt.device}"] if attempt.device else []
    parts += [duration(attempt.duration_s)] if attempt.duration_s is not None else []
    where = f" on {', '.join(parts)}" if parts else ""
    return f"attempt {attempt.attempt}: {outcome}{where}" + (
        f": {first_line(attempt.message)}" if attempt.message else ""
    )


def _summary(reason: str, message: str) -> str:
    return ": ".join(part for part in (reason, first_line(message)) if part)


def _count(element: Element, cases: list[Case]) -> None:
    results = [case.result for case in cases]
    element.set("tests", str(len(cases)))
    element.set("failures", str(results.count(Result.FAILED)))
    element.set("errors", str(results.count(Result.ERROR)))
    element.set("skipped", str(results.count(Result.SKIPPED)))
    element.set("time", _seconds(sum(case.duration_s for case in cases)))


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _element(parent: Element | None, tag: str, text: str = "", /, **attributes: str) -> Element:
    clean = {key: legal(value) for key, value in attributes.items()}
    element = Element(tag, clean) if parent is None else SubElement(parent, tag, clean)
    element.text = legal(text) or None
    return element
