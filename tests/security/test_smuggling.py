"""A real agent with real processes, and submitters and tests that mean harm. Jobs are put into the
log as they are, past all rules of submission.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agents import ended, eventually, running_agent, story, submit
from factories import spec
from qgjet.config.settings import ArtifactSettings, TargetSettings
from qgjet.domain.events import Artifact, JobSpec, Outcome, Verdict
from qgjet.runners.base import Runner
from qgjet.runners.registry import make_runner
from qgjet.store.artifacts import ArtifactStore
from qgjet.store.event_log import EventLog

MODULES = Path(__file__).parents[2] / "examples" / "shop" / "node_modules"
RECORD = """
import json, os, sys
with open(os.environ["RECORD"], "a") as file:
    file.write(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}) + "\\n")
with open(os.environ["QGJET_ENV"], "a") as file:
    file.write("SMUGGLED=1\\nNODE_OPTIONS=--require=evil\\n")
"""
NEVER = [
    "--config=evil.ts",
    "-c",
    "--reporter=./evil.js",
    "a\nb",
    "a\0b",
    "../x.spec.js",
    "a/../../x",
    "/etc/passwd",
    "out/x.spec.js",
    "",
    "\x1b[2J",
    "a\x85b",
    "\ud800",
]
"""Test paths that no command gets to see."""
AS_IT_IS = [
    "$(touch x)", "`touch x`", "a;touch x", "a|touch x", "a&touch x", "a>x", "*", "?[a-z]{b,c}", ".*", "^(a|b)+$", "%s%n", "{job_id}", "{{test}}",
    "a b", "'", '"',
    "\u2025/x", "\uff0e\uff0e/x", "x" * 200, "~root/x", "$HOME/x", "a:12", "NODE_OPTIONS=x", "@file", "a/-c", "\u202egpj.exe",
]  # fmt: skip
"""Those that are names like any other: one argument, letter for letter."""
FORBIDDEN = (
    "NODE_OPTIONS",
    "PLAYWRIGHT_JSON_OUTPUT_FILE",
    "PWDEBUG",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "BASH_ENV",
    "QGJET_NATS_URL",
    "GITHUB_TOKEN",
)
"""Variables of the agent that would change what its jobs run, or give them something away."""


async def outcomes(
    log: EventLog, jobs: list[JobSpec], work_dir: Path, runners: Mapping[str, Runner], **more: Any
) -> list[Outcome]:
    for job in jobs:
        await submit(log, job)
    async with running_agent(log, work_dir, runners=runners, batch=100, slots=2, **more):
        for job in jobs:
            await ended(log, job.slot, within_s=40.0)
    return [(await log.history(job.slot))[-1].event.outcome for job in jobs]  # type: ignore[union-attr]


async def test_a_submitter_gets_one_argument_and_nothing_else(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, record = tmp_path / "project", tmp_path / "record"
    project.mkdir()
    (project / "out").symlink_to(tmp_path)
    (project / "job.py").write_text(RECORD)
    for name in FORBIDDEN:
        monkeypatch.setenv(name, "")
    target = TargetSettings(
        name="emulator",
        runner="command",
        dir=str(project),
        command=(sys.executable, "job.py", "{test}"),
        prepare=("true",),
        env={"RECORD": str(record)},
    )
    tests = [*(test for test in NEVER if test and "\ud800" not in test), *AS_IT_IS]
    jobs = [
        spec(
            test=test,
            tags={"NODE_OPTIONS": "x"},
            suite_ids=("--config=x",),
            submitted_by="$(touch x)",
        )
        for test in tests
    ]
    found = dict(
        zip(
            tests,
            await outcomes(log, jobs, tmp_path / "work", {"emulator": make_runner(target)}),
            strict=True,
        )
    )
    assert {test: one.verdict for test, one in found.items() if test in NEVER} == {
        test: Verdict.CONFIG_ERROR for test in tests if test in NEVER
    }
    assert {test: one.verdict for test, one in found.items() if test in AS_IT_IS} == dict.fromkeys(
        AS_IT_IS, Verdict.PASSED
    )
    runs = [json.loads(line) for line in record.read_text().splitlines()]
    assert sorted(run["argv"] for run in runs) == sorted([test] for test in AS_IT_IS)
    for run in runs:
        assert run["cwd"] == str(project)
        assert not ({*FORBIDDEN, "SMUGGLED"} & run["env"].keys()), (
            "what one job writes into QGJET_ENV reaches no other"
        )
    assert {path.name for path in project.iterdir()} == {"out", "job.py"}


@pytest.mark.parametrize("field", ["app_version_id", "org_id"])
async def test_an_id_leads_nowhere(field: str, log: EventLog, tmp_path: Path) -> None:
    project, secret = tmp_path / "project", tmp_path / "secret.apk"
    (project / "builds").mkdir(parents=True)
    secret.touch()
    command = ("sh", "-c", 'touch "ran-$1"', "sh", "{job_id}")
    target = TargetSettings(
        name="emulator",
        runner="command",
        dir=str(project),
        command=command,
        build="builds/{" + field + "}.apk",
    )
    ids = ["../../secret", "..", "$(touch x)/..", "a/../../../secret", "a\\b", "a\0b", "/etc"]
    jobs = [
        spec(**{field: one}, infra_retries=0, test=f"{number}") for number, one in enumerate(ids)
    ]
    found = await outcomes(log, jobs, tmp_path / "work", {"emulator": make_runner(target)})
    assert [one.verdict for one in found] == [Verdict.CONFIG_ERROR] * len(ids)
    assert {path.name for path in project.iterdir()} == {"builds"}


PLANTED = {
    "a link": 'ln -s /etc/passwd "$R"',
    "a pipe": 'mkfifo "$R"',
    "a directory": 'mkdir "$R"',
    "a device": 'ln -s /dev/zero "$R"',
    "a huge file": 'truncate -s 10G "$R"',
    "a loop": 'ln -s "$R" "$R"',
}


async def test_what_is_planted_where_the_report_is_due_is_no_evidence(
    log: EventLog, tmp_path: Path
) -> None:
    target = TargetSettings(
        name="emulator",
        runner="command",
        dir=str(tmp_path),
        command=("sh", "-c", 'R=$1; eval "$(cat "$2")"', "sh", "{report}", "{test}"),
    )
    for number, script in enumerate(PLANTED.values()):
        (tmp_path / f"{number}.sh").write_text(script)
    jobs = [
        spec(test=f"{number}.sh", infra_retries=0, max_retries=0) for number in range(len(PLANTED))
    ]
    found = await outcomes(log, jobs, tmp_path / "work", {"emulator": make_runner(target)})
    for name, one in zip(PLANTED, found, strict=True):
        assert one.verdict in (Verdict.CONFIG_ERROR, Verdict.INFRA_ERROR), name
        assert "root:" not in one.message
        assert not [file for file in one.artifacts if file.sha256 and file.name == "junit.xml"], (
            name
        )


HOSTILE_FILES = r"""
import os, socket, subprocess, sys
base = os.environ["QGJET_ATTEMPT_DIR"]
os.chdir(base)
os.makedirs("test-results/deep/" + "d/" * 20)
os.chdir("test-results")
for name in ["a\nb", "a\x1b[2Jb", "x" * 250, "CON", "Case.txt", "case.txt", "ok.txt", "..x", "a\\b", "c:d", " ",
             "trailing ", "\u202etxt", "deep/" + "d/" * 20 + "f"]:
    open(name, "w").write(name)
os.symlink("/etc/passwd", "passwd.txt")
os.symlink("/etc", "etc")
os.symlink(os.environ["OUTSIDE"], "work")
os.mkfifo("fifo.txt")
server = socket.socket(socket.AF_UNIX)
server.bind("s.txt")
os.symlink("/etc/hostname", base + "/webdriver.log")
os.mkfifo(base + "/report.json")
stay = "import os, time; open(os.environ['PID'], 'w').write(str(os.getpid())); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", stay], start_new_session=True)
while not os.path.exists(os.environ["PID"]) or not open(os.environ["PID"]).read():
    pass
sys.exit(1)
"""


async def test_only_plain_files_of_the_attempt_itself_leave_the_agent_and_nobody_stays_behind(
    log: EventLog, tmp_path: Path
) -> None:
    outside, pid = tmp_path / "outside", tmp_path / "pid"
    outside.mkdir()
    (outside / "other-job.txt").write_text("of another job")
    (tmp_path / "job.py").write_text(HOSTILE_FILES)
    env = {"OUTSIDE": str(outside), "PID": str(pid)}
    target = TargetSettings(
        name="emulator",
        runner="command",
        dir=str(tmp_path),
        command=(sys.executable, "job.py", "{test}"),
        env=env,
    )
    job = spec(max_retries=0)
    (outcome,) = await outcomes(
        log,
        [job],
        tmp_path / "work",
        {"emulator": make_runner(target)},
        artifact_settings=ArtifactSettings(),
    )
    stored: list[Artifact] = [one for one in outcome.artifacts if one.sha256]
    names = {one.name for one in stored}
    assert {"test-results/ok.txt", "test-results/Case.txt", "test-results/case.txt"} <= names
    for one in names:
        assert one.isprintable(), one
        assert not {"..", "", "\\"} & {*one.split("/"), *one}, one
        assert not one.startswith(
            (
                "/",
                "test-results/etc",
                "test-results/work",
                "test-results/passwd",
                "test-results/fifo",
                "webdriver",
                "report",
            )
        ), one
    store = ArtifactStore(log.connection)
    for info in await store.of_attempt(job.job_id, 1):
        content = b"".join([piece async for piece in store.get(info)])
        assert b"root:" not in content
        assert b"of another job" not in content

    async def gone() -> bool:
        try:
            return (
                Path(f"/proc/{pid.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
                == "Z"
            )
        except FileNotFoundError:
            return True

    await eventually(gone)


async def test_playwright_itself_gets_one_file_and_its_own_configuration(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real cli.js: a name full of syntax matches its own file alone, and nothing of the
    agent's environment gets through.
    """
    assert (MODULES / "@playwright/test/cli.js").exists(), "run `make example`"
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    (project / "node_modules").symlink_to(MODULES)
    (project / "appwright.config.ts").write_text(
        "export default { testDir: 'tests', projects: [{ name: 'emulator' }] };\n"
    )
    body = "const { test } = require('@playwright/test');\nrequire('fs').writeFileSync('%s', JSON.stringify(process.env));\ntest('t', () => {});\n"
    hostile = "$(touch x)`touch y`;[a-z]*.(b|c)+ --config=evil.spec.js"
    for name, mark in ((hostile, "ran"), ("a.spec.js", "evil"), ("evil.spec.js", "evil")):
        (project / "tests" / name).write_text(body % mark)
    (project / "evil.js").write_text("require('fs').writeFileSync('evil', '')\n")
    monkeypatch.setenv("NODE_OPTIONS", f"--require={project}/evil.js")
    monkeypatch.setenv("PLAYWRIGHT_JSON_OUTPUT_FILE", str(tmp_path / "elsewhere.json"))
    job = spec(test=f"tests/{hostile}", infra_retries=0, max_retries=0)
    target = TargetSettings(name="emulator", dir=str(project))
    (outcome,) = await outcomes(log, [job], tmp_path / "work", {"emulator": make_runner(target)})
    assert (outcome.verdict, outcome.message) == (Verdict.PASSED, "")
    assert {path.name for path in project.iterdir()} >= {"ran"}
    assert not {"evil", "x", "y"} & {path.name for path in project.iterdir()}
    assert "NODE_OPTIONS" not in json.loads((project / "ran").read_text())
    assert not (tmp_path / "elsewhere.json").exists()
    assert await story(log, job.slot) == ["submitted", "started", "finished"]
