"""JUnit as tools really write it: recorded from real runs, or written after the tools' own sources.
`docs/verdicts.md` has a row for each tool.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from qgjet.domain.events import Outcome
from qgjet.verdict import xml_stream
from qgjet.verdict.evidence import CommandEvidence
from qgjet.verdict.junit import seconds_of
from qgjet.verdict.rules import command_outcome

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "junit-tools"
CASES = sorted(path.parent for path in DATA.glob("*/case.json"))
TOOLS = {path.name.split("-")[0] for path in CASES}
ROWS = {
    "Surefire, Failsafe": "surefire",
    "Gradle": "gradle",
    "pytest": "pytest",
    "jest-junit, Detox": "jest",
    "mocha-junit-reporter": "mocha",
    "WebdriverIO": "wdio",
    "Playwright": "playwright",
    "Maestro": "maestro",
    "xcbeautify, trainer": "xcbeautify",
    "gotestsum": "gotestsum",
    "Robot Framework": "robot",
    "NUnit, .NET converters": "nunit",
}


def judged(junit: bytes | str, exit_code: int = 0) -> Outcome:
    data = junit.encode() if isinstance(junit, str) else junit
    return command_outcome(
        CommandEvidence(
            exit_code=exit_code, junit=data, junit_due=True, duration_s=1.0, project_dir="/srv/e2e"
        )
    )


@pytest.mark.parametrize("directory", CASES, ids=lambda path: path.name)
def test_a_report_of_a_tool_gets_the_verdict_that_a_person_gives_it(directory: Path) -> None:
    case: dict[str, Any] = json.loads((directory / "case.json").read_text())
    outcome = judged((directory / "case.xml").read_bytes(), case["exit_code"])
    expected = case["expected"] if isinstance(case["expected"], list) else [case["expected"]]
    assert outcome.verdict in expected, (case["why"], outcome)
    if "tests" in case:
        assert len(outcome.tests) == case["tests"]
    if "tries" in case:
        assert len(outcome.tests[0].tries) == case["tries"]


@pytest.mark.parametrize("directory", CASES, ids=lambda path: path.name)
def test_a_report_of_a_tool_that_is_cut_anywhere_is_never_greener(directory: Path) -> None:
    case = json.loads((directory / "case.json").read_text())
    data = (directory / "case.xml").read_bytes()
    for end in range(0, len(data.rstrip()) - 1, max(len(data) // 12, 1)):
        assert judged(data[:end], case["exit_code"]).verdict.value not in (
            "passed",
            "flaky",
            "skipped",
        )


def test_the_table_of_tools_and_the_recorded_reports_belong_together() -> None:
    table = (
        (ROOT / "docs/verdicts.md").read_text().split("## JUnit reports")[1].split("## Reasons")[0]
    )
    rows = [
        row
        for row in re.findall(r"^\| (.+?) \| ", table, re.MULTILINE)
        if row not in ("tool", "any") and not row.startswith("---")
    ]
    assert rows == list(ROWS)
    assert set(ROWS.values()) <= TOOLS
    assert {"trainer", "detox", "dotnet"} <= TOOLS


FAILED = '<testsuite name="cart"><testcase classname="cart" name="total"><failure message="wrong"/></testcase></testsuite>'
ANY = {
    "directly in a suite": (
        '<testsuite><failure message="tear-down broke"/><testcase name="a"/></testsuite>',
        "infra_error",
    ),
    "two failures": (
        '<testsuite><testcase name="a"><failure message="price"/><failure message="tax"/></testcase></testsuite>',
        "failed",
    ),
    "ignored": ('<testsuite><testcase name="a"><ignored/></testcase></testsuite>', "skipped"),
    "disabled": ('<testsuite><testcase name="a"><disabled/></testcase></testsuite>', "skipped"),
    "pending": ('<testsuite><testcase name="a"><pending/></testcase></testsuite>', "skipped"),
    "flaky": ('<testsuite><testcase name="a" flaky="true"/></testsuite>', "flaky"),
    "success": ('<testsuite><testcase name="a" success="False"/></testsuite>', "failed"),
    "result": ('<testsuite><testcase name="a" result="Failed"/></testsuite>', "failed"),
    "result of a pass": ('<testsuite><testcase name="a" result="Passed"/></testsuite>', "passed"),
    "timed out": ('<testsuite><testcase name="a" status="TIMEDOUT"/></testsuite>', "timed_out"),
    "broken": ('<testsuite><testcase name="a" status="broken"/></testsuite>', "failed"),
    "running": ('<testsuite><testcase name="a" status="RUNNING"/></testsuite>', "infra_error"),
    "two documents": (f'<testsuite><testcase name="a"/></testsuite>\n{FAILED}', "failed"),
    "log lines around": (f"> npm run e2e\n{FAILED}\nDone in 3 s & <nothing> else", "failed"),
    "a DOCTYPE": (f"<!DOCTYPE testsuite>{FAILED}", "failed"),
    "a prefix": (
        FAILED.replace("<", "<j:")
        .replace("<j:/", "</j:")
        .replace('"cart">', '"cart" xmlns:j="urn:x">', 1),
        "failed",
    ),
    "a bare ampersand": (FAILED.replace("wrong", "salt & pepper &nbsp; gone"), "failed"),
    "an angle bracket in an attribute": (FAILED.replace("wrong", "a < b"), "failed"),
    "an open element": (
        FAILED.replace("</testcase>", "<system-out><b>x</system-out></testcase>"),
        "failed",
    ),
    "an open element in a pass": (
        '<testsuite><testcase name="a"><system-out><b>x</system-out></testcase></testsuite>',
        "infra_error",
    ),
    "an entity in CDATA": (
        '<testsuite><testcase name="a"><system-out><![CDATA[&x; & <b>]]></system-out></testcase></testsuite>',
        "passed",
    ),
    "skipped tests that are counted and not named": (
        '<testsuite tests="5" skipped="4"><testcase name="a"/></testsuite>',
        "passed",
    ),
    "passed tests that are counted and not named": (
        '<testsuite tests="5" skipped="3"><testcase name="a"/></testsuite>',
        "infra_error",
    ),
    "a failure that is counted and not named": (
        '<testsuite failures="1"><testcase name="a"/></testsuite>',
        "infra_error",
    ),
    "an inner suite that is cut short": (
        '<testsuites><testsuite tests="3"><testcase name="a"/></testsuite></testsuites>',
        "infra_error",
    ),
}


@pytest.mark.parametrize("name", ANY)
def test_what_any_tool_may_write(name: str) -> None:
    junit, verdict = ANY[name]
    assert judged(junit).verdict == verdict, judged(junit)


@pytest.mark.parametrize(
    "encoding",
    ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift_jis"],
)
@pytest.mark.parametrize(
    "declared", ["", "utf-8", "utf-16", "iso-8859-1", "windows-1252", "nonsense", "Shift_JIS"]
)
def test_the_bytes_decide_about_the_encoding(encoding: str, declared: str) -> None:
    word = "値" if encoding == "shift_jis" else "Größe"
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    outcome = judged((declaration + FAILED.replace("wrong", f"{word} falsch")).encode(encoding))
    assert outcome.verdict == "failed"
    if encoding != "shift_jis" and declared != "Shift_JIS":
        assert outcome.tests[0].tries[0].error is not None
        assert outcome.tests[0].tries[0].error.message == f"{word} falsch"


@pytest.mark.parametrize(
    "number", [0, 1, 8, 11, 27, 31, 127, 155, 0xD800, 0xFFFE, 0xFFFF, 0x110000]
)
@pytest.mark.parametrize("written", ["&#{};", "&#x{:x};"])
def test_characters_that_xml_forbids_are_left_out(number: int, written: str) -> None:
    assert (
        judged(FAILED.replace("wrong", f"wrong {written.format(number)}[31m total")).verdict
        == "failed"
    )


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1.5", 1.5),
        ("0,160", 0.16),
        ("1,234.5", 1234.5),
        ("1.234,5", 1234.5),
        ("1,234,567", 1234567.0),
        ("1.5s", 1.5),
        ("1.5 sec", 1.5),
        ("150ms", 0.15),
        ("150 ms", 0.15),
        ("2m 3s", 123.0),
        ("1h2m3.5s", 3723.5),
        ("00:00:01.5", 1.5),
        ("01:02:03", 3723.0),
        ("1.00:00:01", 86401.0),
        ("PT1.5S", 1.5),
        ("PT1M2S", 62.0),
        ("1e-3", 0.001),
        ("", 0.0),
        ("-1", 0.0),
        ("NaN", 0.0),
        ("soon", 0.0),
        ("1.5 apples", 0.0),
        ("1.2.3", 0.0),
    ],
)
def test_a_time_is_read_as_tools_write_it(written: str, seconds: float) -> None:
    assert seconds_of(written) == seconds


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("tests/cart.py", "tests/cart.py"),
        ("/srv/e2e/tests/cart.py", "tests/cart.py"),
        ("file:///srv/e2e/tests/cart%20a.py", "tests/cart a.py"),
        ("tests\\cart.py", "tests/cart.py"),
        ("C:\\work\\shop\\cart.py", ""),
        ("c:/builds/shop/cart.py", ""),
        ("\\\\host\\share\\cart.py", ""),
        ("file:///C:/builds/cart.py", ""),
        ("/etc/passwd", ""),
        ("../cart.py", ""),
    ],
)
def test_a_file_is_told_relative_to_the_project_or_not_at_all(file: str, told: str) -> None:
    (test,) = judged(f'<testsuite><testcase name="a" file="{file}" line="3"/></testsuite>').tests
    assert (test.file, test.line) == (told, 3 if told else 0)


@pytest.mark.parametrize(
    "classname",
    ["C:\\work\\shop\\cart.test.ts", "/home/ci/shop/cart.test.ts", "\\\\host\\share\\cart.test.ts"],
)
def test_a_class_name_that_is_a_path_elsewhere_keeps_its_last_part(classname: str) -> None:
    assert (
        judged(f'<testsuite><testcase classname="{classname}" name="a"/></testsuite>')
        .tests[0]
        .title
        == "cart.test.ts \u203a a"
    )


@pytest.mark.parametrize("size", [300, 1000, 5000])
@pytest.mark.parametrize("directory", CASES[::7], ids=lambda path: path.name)
def test_where_the_pieces_of_a_report_end_changes_nothing(
    directory: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = json.loads((directory / "case.json").read_text())
    data = (directory / "case.xml").read_bytes()
    whole = judged(data, case["exit_code"])
    monkeypatch.setattr(xml_stream, "PIECE_BYTES", size)
    assert judged(data, case["exit_code"]) == whole


@pytest.mark.parametrize("size", range(40, 3200, 79))
def test_a_failure_in_a_second_document_is_seen_wherever_its_root_is_cut(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xml_stream, "PIECE_BYTES", size)
    second = f'<testsuite name="{"x" * 3000}"><testcase name="b"><failure message="wrong"/></testcase></testsuite>'
    assert judged(f'<testsuite><testcase name="a"/></testsuite>\n{second}').verdict == "failed"
