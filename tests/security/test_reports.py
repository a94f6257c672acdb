"""Reports that a hostile test writes: never green for nothing, and never more than a moment and a
few megabytes of the agent's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet.domain.events import PASSING, Verdict
from qgjet.verdict.evidence import CommandEvidence, Evidence, ReportUnreadable, RunnerReport
from qgjet.verdict.junit import read_junit
from qgjet.verdict.patterns import default_patterns
from qgjet.verdict.playwright import read_playwright
from qgjet.verdict.rules import appwright_outcome, command_outcome
from qgjet.verdict.xml_stream import MAX_DEPTH, MAX_TAG_BYTES
from security.mutations import damaged, tampered

DATA = Path(__file__).parent.parent / "data" / "appwright-reports"
REPORTS = sorted(DATA.glob("*/report.json"), key=lambda path: path.stat().st_size)[:12]
JUNIT = (
    b'<?xml version="1.0" encoding="UTF-8"?><testsuites failures="1"><testsuite name="s" failures="1">'
    b'<testcase classname="c" name="a" time="1.5"><failure type="E" message="m">trace</failure></testcase></testsuite></testsuites>'
)
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (97 + n, b"&%c;" % (96 + n) * 10) for n in range(1, 12))
    + b"]><testsuite><testcase name='&l;'/></testsuite>"
)
FILE = b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><testsuite><testcase name="&f;"/></testsuite>'


def junit(data: bytes) -> RunnerReport | ReportUnreadable:
    return read_junit(data, project_dir="/p", patterns=default_patterns())


@given(st.sampled_from(REPORTS), st.data())
def test_a_tampered_report_gives_one_outcome_whatever_it_is(
    path: Path, data: st.DataObject
) -> None:
    report = data.draw(tampered(json.loads(path.read_bytes())))
    outcome = appwright_outcome(
        Evidence(
            exit_code=1, report=report, duration_s=1.0, project_dir="/p", test="tests/a.spec.js"
        )
    )
    assert outcome.verdict not in PASSING


@pytest.mark.parametrize(
    "number",
    ["9" * 5000, "1e99999999999999999999", "-1e999", "9" * 5000 + ".5"],
    ids=["digits", "exponent", "double", "fraction"],
)
@pytest.mark.parametrize("after", ["", ",}"], ids=["json", "not json"])
def test_a_number_that_nothing_can_hold_makes_a_report_unreadable(number: str, after: str) -> None:
    """Together with a syntax error behind it, such a number once ended the process that read it."""
    report = f'{{"config":{{"metadata":[{number}{after}]}},"suites":[]}}'.encode()
    for _ in range(50):  # it took a few
        assert isinstance(
            read_playwright(
                report, project_dir="/p", test="tests/a.spec.js", patterns=default_patterns()
            ),
            ReportUnreadable,
        )


def test_an_integer_beyond_64_bits_is_no_reason_not_to_read_a_report() -> None:
    """JavaScript writes 1e20 in digits, and `metadata` of a configuration holds whatever its author
    likes.
    """
    report = json.loads(REPORTS[0].read_bytes())
    plain = read_playwright(
        json.dumps(report).encode(),
        project_dir="/p",
        test="tests/a.spec.js",
        patterns=default_patterns(),
    )
    report["config"]["metadata"] = {"build": 10**20}
    assert (
        read_playwright(
            json.dumps(report).encode(),
            project_dir="/p",
            test="tests/a.spec.js",
            patterns=default_patterns(),
        )
        == plain
    )
    assert not isinstance(plain, ReportUnreadable)


@given(
    damaged(JUNIT)
    | damaged(LAUGHS)
    | st.sampled_from(
        [JUNIT.decode().encode(code) for code in ("utf-16", "utf-16-le", "utf-32", "cp037")]
    )
)
def test_a_damaged_failure_is_never_green_by_its_exit_code(data: bytes) -> None:
    outcome = command_outcome(
        CommandEvidence(exit_code=1, junit=data, junit_due=True, duration_s=1.0, project_dir="/p")
    )
    assert outcome.verdict not in PASSING
    assert b"root:" not in json.dumps(outcome.message).encode()


@pytest.mark.parametrize(
    "data",
    [
        LAUGHS,
        FILE,
        FILE.replace(b"file:///etc/passwd", b"http://127.0.0.1:1/x"),
        b'<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x"><testsuite/>',
    ],
)
def test_no_document_defines_its_own_words(data: bytes) -> None:
    assert junit(data) == ReportUnreadable("JUnit report cannot be read: it has a DTD")


@pytest.mark.parametrize(
    "data", [JUNIT[:60], b"<testsuite", b"\xff\xfe<", b"<html><testcase/></html>"]
)
def test_what_is_no_document_is_unreadable(data: bytes) -> None:
    assert isinstance(junit(data), ReportUnreadable)


def test_an_entity_that_nothing_defines_is_a_text_like_others() -> None:
    found = junit(b"<testsuite><testcase name='&x;'/></testsuite>")
    assert isinstance(found, RunnerReport)
    assert found.cases[0].result.title == "&x;"


MIB = 2**20
MANY = 300_000
HUGE = {
    "blanks": b"<testsuites>" + b" " * (64 * MIB) + b"</testsuites>",
    "nothing": b" " * (70 * MIB),
    "a deep document": b"<testsuite>" + b"<a>" * (MAX_DEPTH + 1),
    "a long tag": b"<testsuite><testcase name='"
    + b"x" * (MAX_TAG_BYTES + MIB)
    + b"'/></testsuite>",
    "many marks": b"<testsuite><testcase>" + b"<failure/>" * MANY + b"</testcase></testsuite>",
    "many cases": b"<testsuite>"
    + b"<testcase name='a'><failure/></testcase>" * (MANY // 10)
    + b"</testsuite>",
}
UNREADABLE = {"nothing", "a deep document", "a long tag"}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_document_costs_little(name: str) -> None:
    tracemalloc.start()
    try:
        found = junit(HUGE[name])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, ReportUnreadable) == (name in UNREADABLE)
    assert most < 4 * MAX_TAG_BYTES


@pytest.mark.parametrize(
    "inner",
    [b'"suites":[%s]', b'"suites":[],"errors":[%s]', b'"suites":[{"specs":[{"tests":[%s]}]}]'],
)
def test_a_report_of_nothing_but_braces_costs_little(inner: bytes) -> None:
    data = b"{" + inner % b",".join([b"{}"] * MANY) + b"}"
    tracemalloc.start()
    try:
        outcome = appwright_outcome(
            Evidence(exit_code=0, report=data, duration_s=1.0, project_dir="/p", test="a")
        )
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcome.verdict not in PASSING
    assert most < 32 * MIB


def test_an_honest_report_of_a_failure_is_failed() -> None:
    assert (
        command_outcome(
            CommandEvidence(
                exit_code=1, junit=JUNIT, junit_due=True, duration_s=1.0, project_dir="/p"
            )
        ).verdict
        is Verdict.FAILED
    )


READ_AT_ONCE = """
import sys, threading
from qgjet.verdict.patterns import default_patterns
from qgjet.verdict.playwright import read_playwright

sys.setswitchinterval(1e-6)
report, patterns, start, found = open(sys.argv[1], "rb").read(), default_patterns(), threading.Barrier(4), []

def read():
    start.wait()
    found.append(read_playwright(report, project_dir="/p", test="tests/a.spec.js", patterns=patterns))

threads = [threading.Thread(target=read) for _ in range(4)]
[one.start() for one in threads]
[one.join() for one in threads]
assert len(found) == 4 and all(one == found[0] for one in found)
"""


def test_the_first_reports_of_a_process_may_be_read_in_several_threads_at_once() -> None:
    """A decoder that two threads made for one type at the same time has crashed agents with several
    slots.
    """
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", READ_AT_ONCE, str(REPORTS[-1])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
