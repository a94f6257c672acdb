"""Small inputs for which a person knows the right verdict: JUnit files as tools write them, and
runs of Playwright.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qgjet.domain.events import Outcome
from qgjet.verdict import json_stream
from qgjet.verdict.evidence import CommandEvidence, Evidence
from qgjet.verdict.rules import appwright_outcome, command_outcome

DATA = Path(__file__).parents[1] / "data" / "verdict-cases"
JUNIT = sorted(path.parent for path in (DATA / "junit").glob("*/case.json"))
PLAYWRIGHT = sorted(path.parent for path in (DATA / "playwright").glob("*/case.json"))
ATTACKS = sorted(path.parent for path in (DATA / "attacks").glob("*/case.json"))
HOME = "/srv/e2e"


def case_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "case.json").read_text())


def expected_of(case: dict[str, Any]) -> list[str]:
    return case["expected"] if isinstance(case["expected"], list) else [case["expected"]]


def replayed(directory: Path, file: str, exit_code: int) -> Outcome:
    junit = (directory / file).read_bytes()
    return command_outcome(
        CommandEvidence(
            exit_code=exit_code, junit=junit, junit_due=True, duration_s=1.0, project_dir=HOME
        )
    )


def recorded(directory: Path, report: str, exit_code: int) -> Outcome:
    test = next((directory / "tests").glob("*.spec.js")).name
    output = (directory / report.replace("report", "output").replace(".json", ".txt")).read_text()
    data = (directory / report).read_bytes()
    return appwright_outcome(
        Evidence(
            exit_code=exit_code,
            report=data,
            output=output,
            duration_s=1.0,
            project_dir=HOME,
            test=f"tests/{test}",
        )
    )


@pytest.mark.parametrize(
    "directory",
    [path for path in JUNIT if "attempts" not in case_of(path)],
    ids=lambda path: path.name,
)
def test_a_junit_file_gets_the_verdict_that_a_person_gives_it(directory: Path) -> None:
    case = case_of(directory)
    outcome = replayed(directory, "case.xml", case["exit_code"])
    assert outcome.verdict in expected_of(case), outcome
    if "tests" in case:
        assert len(outcome.tests) == case["tests"]
    if "tries" in case:
        assert len(outcome.tests[0].tries) == case["tries"]
    if "duration_s" in case:
        assert outcome.tests[0].tries[0].duration_s == case["duration_s"]
    assert case.get("no_text", "\0") not in str(outcome)


@pytest.mark.parametrize(
    "directory",
    [
        path
        for path in PLAYWRIGHT
        if "attempts" not in case_of(path) and case_of(path).get("recorded", True)
    ],
    ids=lambda path: path.name,
)
def test_a_recorded_run_of_playwright_gets_the_verdict_that_a_person_gives_it(
    directory: Path,
) -> None:
    case = case_of(directory)
    outcome = recorded(directory, "report.json", case["exit_code"])
    assert outcome.verdict in expected_of(case), outcome


@pytest.mark.parametrize("directory", ATTACKS, ids=lambda path: path.name)
def test_a_run_that_was_made_to_deceive_gets_the_verdict_that_a_person_gives_it(
    directory: Path,
) -> None:
    case = case_of(directory)
    report = (directory / "report.json").read_bytes()
    outcome = appwright_outcome(
        Evidence(
            exit_code=case["exit_code"],
            report=report,
            duration_s=1.0,
            project_dir=HOME,
            test="tests/x.spec.js",
            retries=case["retries"],
        )
    )
    assert outcome.verdict in expected_of(case), outcome


@pytest.mark.parametrize("size", [1, 13, 257, 4096])
@pytest.mark.parametrize("directory", ATTACKS[::9], ids=lambda path: path.name)
def test_where_the_pieces_of_a_report_end_changes_nothing(
    directory: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = (directory / "report.json").read_bytes()
    evidence = Evidence(
        exit_code=case_of(directory)["exit_code"],
        report=report,
        duration_s=1.0,
        project_dir=HOME,
        test="tests/x.spec.js",
    )
    whole = appwright_outcome(evidence)
    monkeypatch.setattr(json_stream, "PIECE_BYTES", size)
    assert appwright_outcome(evidence) == whole
