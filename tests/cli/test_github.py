"""What GitHub Actions is told, read as its runner reads it: annotations, groups, summary and
outputs, whatever tests put into their names and messages.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.commandline import TARGET, Cli, Work
from factories import NOW
from github_runner import Runner, outputs_of
from qgjet.domain.attempts import AttemptRecord
from qgjet.domain.events import Status, TestError, TestResult, Try, Verdict
from qgjet.reporting.model import JobReport, SuiteReport
from qgjet_cli.output import github
from strategies import hostile_text

TOKEN = "0123456789abcdef0123456789abcdef"


def attempt(
    *tests: TestResult, number: int = 1, verdict: Verdict = Verdict.FAILED, agent: str = "lab-1"
) -> AttemptRecord:
    return AttemptRecord(
        attempt=number,
        agent=agent,
        device="Pixel",
        warm=False,
        started_at=NOW,
        ended_at=NOW,
        ended_by="finished",
        verdict=verdict,
        duration_s=2.0,
        tests=tests,
    )


def failing(
    title: str = "pays",
    message: str = "Error: no",
    *,
    file: str = "tests/cart.spec.ts",
    line: int = 12,
    outcome: str = "failed",
) -> TestResult:
    error = TestError(message=message, file=file, line=line)
    return TestResult(
        id=title,
        title=title,
        file="tests/cart.spec.ts",
        line=3,
        outcome=outcome,
        tries=(Try(status="failed", error=error),),
    )


def job(
    verdict: Verdict | None = Verdict.FAILED,
    *attempts: AttemptRecord,
    test: str = "tests/cart.spec.ts",
    message: str = "",
    reason: str = "",
) -> JobReport:
    return JobReport(
        job_id="j",
        org_id="acme",
        app_version_id="1.0.0",
        target="emulator",
        test=test,
        status=Status.FAILED,
        verdict=verdict,
        reason=reason,
        message=message,
        attempts=attempts,
    )


def report(*jobs: JobReport, suite_id: str = "s-1") -> SuiteReport:
    return SuiteReport(suite_id=suite_id, jobs=jobs)


def at_home(target: str, file: str) -> str:
    return f"mobile/{file}"


def told(one: SuiteReport) -> Runner:
    annotations = github.annotations_of(one, at_home)
    return Runner("\n".join([*github.groups(one, token=TOKEN), *map(github.command, annotations)]))


# -- annotations ---------------------------------------------------------------------------------------------------------


def test_a_failed_test_is_an_error_at_the_line_that_failed() -> None:
    (error,) = told(
        report(job(Verdict.FAILED, attempt(failing("pays", "Error: 100% wrong,\nreally: yes"))))
    ).of("error")
    assert error.properties == {
        "file": "mobile/tests/cart.spec.ts",
        "line": "12",
        "title": "tests/cart.spec.ts on emulator: failed",
    }
    assert error.data == "pays\nError: 100% wrong,\nreally: yes"


def test_an_error_in_a_file_of_somebody_else_is_shown_at_the_test() -> None:
    def place(target: str, file: str) -> str:
        return "" if "node_modules" in file else file

    (error,) = github.annotations_of(
        report(job(Verdict.FAILED, attempt(failing(file="node_modules/x.js")))), place
    )
    assert (error.file, error.line) == ("tests/cart.spec.ts", 3)


def test_only_the_last_attempt_counts_for_a_failure_and_the_first_bad_one_for_a_flaky_job() -> None:
    first, second = attempt(failing(message="first")), attempt(failing(message="second"), number=2)
    passed = attempt(
        TestResult(id="pays", title="pays", outcome="passed"), number=2, verdict=Verdict.PASSED
    )
    runner = told(report(job(Verdict.FAILED, first, second), job(Verdict.FLAKY, first, passed)))
    assert [error.data for error in runner.of("error")] == ["pays\nsecond"]
    assert [warning.data for warning in runner.of("warning")] == ["pays\nfirst"]


def test_a_flaky_job_keeps_the_text_of_its_first_failure() -> None:
    lost = attempt(failing(message="device gone"), verdict=Verdict.INFRA_ERROR)
    passed = attempt(
        TestResult(id="pays", title="pays", outcome="passed"), number=3, verdict=Verdict.PASSED
    )
    with_tests = job(
        Verdict.FLAKY,
        lost,
        attempt(failing(message="first"), number=2),
        passed,
        reason="flaky",
        message="pays: first",
    )
    without = job(
        Verdict.FLAKY,
        attempt(),
        attempt(number=2, verdict=Verdict.PASSED),
        reason="flaky",
        message="exit code 1",
    )
    one = report(with_tests, without)
    assert [warning.data for warning in told(one).of("warning")] == [
        "pays\nfirst",
        "flaky: exit code 1",
    ]
    summary = github.summary(one)
    assert "first" in summary
    assert "exit code 1" in summary


def test_tests_that_did_not_pass_again_are_errors_though_the_last_attempt_passed() -> None:
    passed = attempt(
        TestResult(id="pays", title="pays", outcome="skipped"), number=2, verdict=Verdict.PASSED
    )
    first = attempt(failing("pays", "first"), failing("ships", "second", line=40))
    one = report(
        job(
            Verdict.FAILED,
            first,
            passed,
            reason="not_passed_again",
            message="pays: failed in attempt 1",
        )
    )
    errors = told(one).of("error")
    assert [(error.data, error.properties["line"]) for error in errors] == [
        ("pays\nfirst\nIt failed in attempt 1 and did not pass in attempt 2 (skipped).", "12"),
        ("ships\nsecond\nIt failed in attempt 1 and did not pass in attempt 2 (absent).", "40"),
    ]
    summary = github.summary(one)
    assert "not&#95;passed&#95;again" in summary
    assert "did not pass in attempt 2 (absent)" in summary


def test_ten_are_shown_what_failed_first_and_the_others_are_counted() -> None:
    broken = [
        job(Verdict.INFRA_ERROR, reason="network", test=f"tests/i{number}.spec.ts")
        for number in range(4)
    ]
    failed = [
        job(Verdict.FAILED, attempt(failing()), test=f"tests/f{number}.spec.ts")
        for number in range(8)
    ]
    flaky = [job(Verdict.FLAKY, attempt(failing())) for _ in range(12)]
    runner = told(report(*broken, *flaky, *failed))
    assert [error.properties["title"].partition(": ")[2] for error in runner.of("error")] == [
        "failed"
    ] * 8 + ["infra error"] * 2
    assert (len(runner.of("warning")), len(runner.of("notice"))) == (10, 1)
    assert (
        runner.of("notice")[0].data
        == "2 more failures and 2 more flaky tests: see the summary of the job"
    )


def test_what_was_not_accepted_or_has_not_ended_is_an_error_too() -> None:
    refused = JobReport(
        job_id="",
        org_id="a",
        app_version_id="1",
        target="t",
        test="x",
        status=None,
        verdict=None,
        reason="refused",
        message="is live",
    )
    live = JobReport(
        job_id="j",
        org_id="a",
        app_version_id="1",
        target="t",
        test="y",
        status=Status.RUNNING,
        verdict=None,
    )
    runner = told(report(refused, live))
    assert [(error.properties["title"], error.data) for error in runner.of("error")] == [
        ("x on t: not accepted", "refused: is live"),
        ("y on t: running", "running"),
    ]


def test_a_green_suite_says_nothing_in_the_log() -> None:
    runner = told(report(job(Verdict.PASSED), job(Verdict.SKIPPED)))
    assert (runner.commands, runner.log) == ([], [""])


# -- hostile tests -------------------------------------------------------------------------------------------------------

HOSTILE = (
    "::error file=x::pwned",
    "  ::add-mask::e",
    "##[add-matcher]/etc/passwd",
    "a ##[error]b",
    "x\n::stop-commands::me\n",
    "x\r::error::y",
    "%0A::error::y",
    f"::{TOKEN[:-1]}::",
    "::endgroup::",
    "a: b, line=7, title=z::q",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x00\x7f\x9b31m \u202e\u2028\u00ad",
    "<script>alert(1)</script></pre></details><img src=x onerror=y>",
    "| a | b |\n|---|---|\n# h\n```\n[x](javascript:y) **b** _i_ ~~s~~ @all #1",
    "suite-id<<EOF\nx\nEOF",
    "\ud800",
    "y" * 1_000_000,
    ("z" * 999 + "\n") * 1000,
)
hostile = (
    st.sampled_from(HOSTILE)
    | hostile_text
    | st.lists(st.sampled_from(HOSTILE[:-2]), max_size=4).map("".join)
)
verdicts = st.sampled_from([*Verdict, None])


@st.composite
def reports(draw: st.DrawFn) -> SuiteReport:
    jobs = []
    for _ in range(draw(st.integers(0, 4))):
        tests = [
            failing(
                draw(hostile),
                draw(hostile),
                file=draw(hostile),
                outcome=draw(st.sampled_from(["failed", "flaky"])),
            )
            for _ in range(draw(st.integers(0, 3)))
        ]
        attempts = (attempt(*tests, agent=draw(hostile)),) if tests else ()
        jobs.append(
            job(
                draw(verdicts),
                *attempts,
                test=draw(hostile),
                message=draw(hostile),
                reason=draw(hostile),
            )
        )
    return report(*jobs, suite_id=draw(hostile))


@given(reports())
def test_no_text_of_others_becomes_a_command(one: SuiteReport) -> None:
    runner = told(one)
    bad = [
        job
        for job in one.jobs
        if job.verdict not in (Verdict.PASSED, Verdict.FLAKY, Verdict.SKIPPED)
    ]
    assert {command.name for command in runner.commands} <= {
        "group",
        "endgroup",
        "error",
        "warning",
        "notice",
    }
    assert len(runner.of("group")) == len(runner.of("endgroup")) == len(bad)
    for command in (*runner.of("error"), *runner.of("warning")):
        assert command.properties.keys() <= {"file", "line", "title"}
        assert command.data
        assert len(command.data) <= github.MAX_MESSAGE
    for text in (*runner.log, *(command.data for command in runner.commands)):
        assert all(character.isprintable() or character == "\n" for character in text)
        assert len(text) <= github.MAX_MESSAGE


@given(reports(), st.sampled_from([0, 100, 500, 3000, github.SUMMARY_BYTES]))
def test_a_summary_is_bounded_and_has_no_markup_of_others(one: SuiteReport, limit: int) -> None:
    text = github.summary(one, limit=limit)
    assert len(text.encode("utf-8", "replace")) <= limit
    assert "<" not in re.sub(r"</?(?:details|summary|pre)>", "", text)
    for tag in ("details", "summary", "pre"):
        assert text.count(f"<{tag}>") == text.count(f"</{tag}>")
    outside = re.sub(r"^<pre>\n.*?^</pre>\n", "", text, flags=re.M | re.S)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert all(row.count("|") == 8 for row in rows)
    assert not re.search(
        r"[*`\[\]~@]",
        re.sub(
            r"^\*\d+ more jobs?: no room left in (?:this|these) \w+\.\*$|^<details><summary>.*$",
            "",
            outside,
            flags=re.M,
        ),
    )


@given(hostile, hostile)
def test_outputs_are_read_as_they_were_meant(suite_id: str, junit: str) -> None:
    found = outputs_of(
        github.outputs(report(job(), suite_id=suite_id), junit=junit, delimiter=TOKEN)
    )
    assert found.keys() == {"suite-id", "verdict", "passed", "failed", "flaky", "junit"}
    assert (found["verdict"], found["passed"], found["failed"], found["flaky"]) == (
        "failed",
        "0",
        "1",
        "0",
    )
    if suite_id.isprintable():
        assert found["suite-id"] == suite_id


def test_what_there_is_no_room_for_is_counted_and_failures_come_first() -> None:
    passed = [job(Verdict.PASSED, test=f"tests/p{number}.spec.ts") for number in range(6000)]
    failed = [
        job(Verdict.FAILED, attempt(failing(message="x" * 2000)), test=f"tests/f{number}.spec.ts")
        for number in range(6000)
    ]
    text = github.summary(report(*passed, *failed))
    assert 700_000 < len(text) <= github.SUMMARY_BYTES
    assert text.index("tests/f0.spec.ts") < text.index("tests/p0.spec.ts")
    assert re.findall(r"\*(\d+) more jobs: no room left in (.+)\.\*", text) == [
        (str(6000 - text.count("| tests/f")), "this table"),
        (str(6000 - text.count("<summary>tests/f")), "these messages"),
        (str(6000 - text.count("| tests/p")), "this table"),
    ]


# -- the command ---------------------------------------------------------------------------------------------------------

WRITER = """
import sys
print("::error::from the test")
open(sys.argv[1], "w").write('''<testsuite><testcase name="::error::pays ##[add-mask]x" file="tests/a.spec.js" line="7"><failure message="m">
::set-output name=verdict::passed
##[stop-commands]now
expected &lt;b&gt;</failure></testcase></testsuite>''')
"""


@pytest.fixture
def actions(alone: Cli, project: Path, tmp_path: Path) -> Cli:
    """A step of GitHub Actions whose repository has the test project in a directory."""
    (project / ".git").rename(tmp_path / ".git")
    command = json.dumps([sys.executable, str(project / "write.py"), "{report}"])
    (project / "write.py").write_text(WRITER)
    (project / "qgjet.toml").write_text(
        f"""
        [targets.junit]
        runner = "command"
        command = {command}
        junit = "{{report}}"
        [targets.{TARGET}]
        runner = "scripted"
        outcomes = {{ "tests/b.spec.js" = ["failed", "passed"], "tests/c.spec.js" = ["infra_error"] }}
        """
    )
    return alone.with_variables(
        CI="true",
        GITHUB_ACTIONS="true",
        GITHUB_WORKSPACE=str(tmp_path),
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
        GITHUB_OUTPUT=str(tmp_path / "outputs"),
        GITHUB_REPOSITORY="acme/shop",
        GITHUB_SHA="3f786850e387550fdab836ed7e6dc881de23001b",
    )


async def test_a_run_tells_github_and_keeps_stdout_for_its_document(
    actions: Cli, tmp_path: Path
) -> None:
    ended = await actions(
        "run",
        "--test",
        "tests/[abc].spec.js",
        "--target",
        TARGET,
        "--target",
        "junit",
        "--max-retries",
        "1",
        "--infra-retries",
        "0",
        "--json",
    )
    assert ended.code == 1
    assert ended.json["summary"]["failed"] == 3
    assert not Runner(ended.out).commands
    runner = Runner(ended.err)
    assert len(runner.of("group")) == 4
    first = runner.of("error")[0]
    assert (first.properties["file"], first.properties["line"]) == ("project/tests/a.spec.js", "7")
    assert "\n::set-output name=verdict::passed\n##[stop-commands]now\nexpected <b>" in first.data
    assert [error.properties["title"].rpartition(": ")[2] for error in runner.of("error")] == [
        "failed"
    ] * 3 + ["infra error"]
    assert [warning.properties["file"] for warning in runner.of("warning")] == [
        "project/tests/b.spec.js"
    ]
    assert {command.name for command in runner.commands} == {
        "group",
        "endgroup",
        "error",
        "warning",
    }
    outputs = outputs_of((tmp_path / "outputs").read_text())
    assert outputs == {
        "suite-id": ended.json["suite_id"],
        "verdict": "failed",
        "passed": "1",
        "failed": "3",
        "flaky": "1",
        "junit": "",
    }
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("## qgjet: failed\n")
    assert "commit 3f786850e387550fdab836ed7e6dc881de23001b" in summary
    assert "expected &lt;b&gt;" in summary


AGAIN = """
import pathlib, sys
first = pathlib.Path(sys.argv[2])
failing, last = not first.exists(), sys.argv[3]
first.touch()
pays = "<failure message='expected 3'>expected 3, got 2</failure>" if failing else last
pays = f"<testcase name='pays' file='tests/a.spec.js' line='7'>{pays}</testcase>" if failing or last != "absent" else ""
open(sys.argv[1], "w").write(f"<testsuite>{pays}<testcase name='adds'/></testsuite>")
sys.exit(failing)
"""


@pytest.mark.parametrize(
    ("last", "code", "verdict", "told"),
    [
        ("", 0, "flaky", "flaky: pays: expected 3, got 2"),
        (
            "<skipped/>",
            1,
            "failed",
            "not_passed_again: pays: failed in attempt 1 and did not pass in attempt 2 (skipped): expected 3, got 2",
        ),
        (
            "absent",
            1,
            "failed",
            "not_passed_again: pays: failed in attempt 1 and did not pass in attempt 2 (absent): expected 3, got 2",
        ),
    ],
    ids=["passed", "skipped", "absent"],
)
async def test_a_test_that_failed_has_to_pass_again(
    actions: Cli, project: Path, tmp_path: Path, last: str, code: int, verdict: str, told: str
) -> None:
    (project / "again.py").write_text(AGAIN)
    command = json.dumps(
        [sys.executable, str(project / "again.py"), "{report}", str(tmp_path / "first"), last]
    )
    with (project / "qgjet.toml").open("a") as settings:
        settings.write(
            f"[targets.again]\nrunner = 'command'\ncommand = {command}\njunit = '{{report}}'\n"
        )
    ended = await actions(
        "run",
        "--test",
        "tests/a.spec.js",
        "--target",
        "again",
        "--max-retries",
        "2",
        "--junit",
        "out/junit.xml",
    )
    assert ended.code == code, ended.err
    assert [told in line for line in ended.out.splitlines() if "a.spec.js" in line] == [True]
    assert f"{verdict} ({told.partition(':')[0]})" in ended.err
    junit = (project / "out/junit.xml").read_text()
    assert ("<failure" in junit, "<flakyFailure" in junit, "expected 3, got 2" in junit) == (
        code == 1,
        code == 0,
        True,
    )
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith(f"## qgjet: {verdict}\n")
    assert "expected 3, got 2" in summary
    (annotation,) = Runner(ended.err).of("error" if code else "warning")
    assert "expected 3, got 2" in annotation.data


async def test_the_table_obeys_nobody_either(actions: Cli, project: Path) -> None:
    (project / "tests" / "::error::d.spec.js").touch()
    (project / "tests" / "##[error]e.spec.js").touch()
    ended = await actions(
        "run",
        "--test",
        "tests/::*",
        "--test",
        "tests/##*",
        "--target",
        "junit",
        "--max-retries",
        "0",
    )
    assert ended.code == 1
    assert not Runner(ended.out).commands
    assert {command.name for command in Runner(ended.err).commands} == {
        "group",
        "endgroup",
        "error",
    }


async def test_what_an_agent_of_our_own_logs_is_not_obeyed(actions: Cli, project: Path) -> None:
    with (project / "qgjet.toml").open("a") as settings:
        settings.write(
            "[targets.loud]\nrunner = 'command'\ncommand = ['true']\nprepare = ['true']\n"
        )
        settings.write(
            "release = ['sh', '-c', 'echo x; echo ::error::released; echo \"##[error]x\"; exit 1']\n"
        )
    ended = await actions("run", "--test", "tests/a.spec.js", "--target", "loud")
    assert ended.code == 0
    assert "## [error]x" in ended.err
    assert not Runner(ended.err).commands


async def test_the_path_of_the_junit_report_is_an_output(actions: Cli, tmp_path: Path) -> None:
    ended = await actions(
        "run", "--test", "tests/a.spec.js", "--target", TARGET, "--junit", "out/junit.xml"
    )
    assert ended.code == 0, ended.err
    junit = outputs_of((tmp_path / "outputs").read_text())["junit"]
    assert junit == str(tmp_path / "project" / "out" / "junit.xml")
    assert Path(junit).is_file()


async def test_files_that_cannot_be_written_are_a_warning_and_change_no_exit_code(
    actions: Cli, tmp_path: Path
) -> None:
    nowhere = actions.with_variables(
        GITHUB_STEP_SUMMARY=str(tmp_path), GITHUB_OUTPUT=str(tmp_path / "no" / "outputs")
    )
    ended = await nowhere("run", "--test", "tests/a.spec.js", "--target", TARGET)
    assert ended.code == 0
    assert [name in ended.err for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")] == [True, True]


async def test_what_is_in_the_summary_already_stays_and_counts(
    actions: Cli, tmp_path: Path
) -> None:
    before = "x" * (github.SUMMARY_BYTES - 400)
    (tmp_path / "summary.md").write_text(before)
    await actions(
        "run", "--test", "tests/[abc].spec.js", "--target", TARGET, "--infra-retries", "0"
    )
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith(before + "## qgjet: infra error")
    assert len(text.encode()) <= github.SUMMARY_BYTES


async def test_elsewhere_nothing_is_said(alone: Cli, actions: Cli, tmp_path: Path) -> None:
    elsewhere = actions.with_variables(GITHUB_ACTIONS="false")
    ended = await elsewhere(
        "run", "--test", "tests/c.spec.js", "--target", TARGET, "--infra-retries", "0"
    )
    assert ended.code == 3
    assert not Runner(ended.err).commands
    assert not (tmp_path / "outputs").exists()


async def test_wait_tells_it_too(over_api: Cli, work: Work, tmp_path: Path) -> None:
    async with work({"tests/a.spec.js": ("failed",)}):
        await over_api(
            "submit", "--test", "tests/[ab].spec.js", "--suite-id", "s-1", "--max-retries", "0"
        )
        ended = await over_api(
            "wait", "--suite", "s-1", GITHUB_ACTIONS="true", GITHUB_OUTPUT=str(tmp_path / "outputs")
        )
    assert ended.code == 1, ended.err
    assert [error.properties["title"] for error in Runner(ended.err).of("error")] == [
        f"tests/a.spec.js on {TARGET}: failed"
    ]
    assert outputs_of((tmp_path / "outputs").read_text())["suite-id"] == "s-1"


# -- tags ----------------------------------------------------------------------------------------------------------------


async def test_jobs_are_tagged_with_what_the_ci_says(over_api: Cli) -> None:
    ci = {"GITLAB_CI": "true", "CI_COMMIT_SHA": "abc1234", "CI_COMMIT_BRANCH": "main"}
    flags = ("submit", "--tag", "branch=mine", "--json", "--test")
    tagged = (await over_api(*flags, "tests/a.spec.js", **ci)).json["job_id"]
    plain = (await over_api(*flags, "tests/b.spec.js", "--no-ci-tags", **ci)).json["job_id"]
    found = [
        (await over_api("status", "--job-id", job_id, "--json")).json["tags"]
        for job_id in (tagged, plain)
    ]
    assert found == [{"branch": "mine", "commit": "abc1234", "ci": "gitlab"}, {"branch": "mine"}]


async def test_under_a_key_a_later_run_of_the_pipeline_finds_its_jobs(over_api: Cli) -> None:
    flags = ("submit", "--test", "tests/a.spec.js", "--idempotency-key", "build-7", "--json")
    first, second = [
        await over_api(*flags, GITHUB_ACTIONS="true", GITHUB_RUN_ID=run) for run in ("1", "2")
    ]
    assert (first.code, second.code) == (0, 0), second.err
    assert first.json["job_id"] == second.json["job_id"]
