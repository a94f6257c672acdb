"""Runs jobs with AppWright: one call of Playwright's own cli.js per job, in the test project of the
target.

Not through `npx appwright`: that splits arguments at spaces, turns every exit code into 1, and
loses the report and its children when it is stopped. What decides is the JSON report, not the exit
code (`qgjet.verdict.rules`). One worker, and retries inside only as the target says.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import msgspec

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Outcome
from qgjet.process.run import ProcessResult, run_process, stop_ladder
from qgjet.runners.base import Attempt
from qgjet.runners.commandline import CommandLineRunner, PreparedTarget, config_error, report_of
from qgjet.runners.environment import job_environment
from qgjet.runners.template import check_test_path
from qgjet.verdict.evidence import Evidence
from qgjet.verdict.patterns import Patterns
from qgjet.verdict.reasons import Reason
from qgjet.verdict.rules import appwright_outcome

_REGEXP_SYNTAX = re.compile(r"[\\^$.*+?()\[\]{}|]")
_CLI = Path("node_modules/@playwright/test/cli.js")


def appwright_runner(target: TargetSettings, patterns: Patterns) -> CommandLineRunner:
    return CommandLineRunner(target, execute, patterns)


async def execute(place: PreparedTarget, attempt: Attempt) -> Outcome:
    spec = check_test_path(attempt.spec.test, place.project)
    if not _is_file(spec):
        return config_error(
            Reason.NO_TESTS, f"there is no test file {attempt.spec.test} in {place.project}"
        )
    node = shutil.which("node", path=place.env.get("PATH", ""))
    if node is None:
        return config_error(
            Reason.COMMAND_NOT_FOUND,
            f"node is not on the PATH of target {place.target.name} ({place.env.get('PATH', '')}): install Node.js",
        )
    cli = _find_cli(place.project)
    if cli is None:
        return config_error(
            Reason.MODULE_NOT_FOUND,
            f'@playwright/test is not installed: run "npm ci" in {place.project}',
        )
    directory = attempt.directory.absolute()
    result = await run_process(
        [node, str(cli), *arguments(place.target, spec, directory), *whole_run(version_of(cli))],
        cwd=place.project,
        env=job_environment(place.env, attempt) | report_variables(directory),
        stop_control=attempt.stop_control,
        stop_ladder=stop_ladder(place.target.stop_grace_s),
        on_output=attempt.on_output,
        log_path=directory / "output.log",
    )
    return await asyncio.to_thread(
        _judge, result, place, attempt
    )  # a large report takes a second to read


def arguments(target: TargetSettings, spec: Path, directory: Path) -> list[str]:
    """What follows cli.js. `--project NAME` is two arguments, because appwright's global setup
    understands nothing else.
    """
    return [
        "test",
        exactly(spec),
        *("--config", target.config),
        *("--project", target.project or target.name),
        "--workers=1",
        f"--retries={target.test_retries}",
        "--reporter=list,json",
        *("--output", str(directory / "test-results")),
    ]


def whole_run(version: tuple[int, int]) -> list[str]:
    """Options that keep a configuration from running a part of the tests, and from writing
    snapshots into the project.

    `--update-snapshots=none` is of Playwright 1.50. Before it a missing snapshot is written, and
    fails its test for good.
    """
    return ["--shard=1/1", *(["--update-snapshots=none"] if version >= (1, 50) else [])]


def version_of(cli: Path) -> tuple[int, int]:
    """Major and minor version of the Playwright that `cli` belongs to; (0, 0) when its package does
    not say.
    """
    try:
        package = msgspec.json.decode(cli.with_name("package.json").read_bytes(), type=_Package)
        major, minor = package.version.split(".")[:2]
        return int(major), int(minor)
    except (OSError, ValueError, msgspec.MsgspecError):
        return 0, 0


class _Package(msgspec.Struct):
    version: str = ""


def exactly(path: Path) -> str:
    """The filter that matches this file and no other.

    Playwright takes a filter for a regular expression and searches with it, ignoring case, unless
    it is written `/.../`; and a `:12` at the end is a line.
    """
    escaped = _REGEXP_SYNTAX.sub(r"\\\g<0>", str(path))
    return "/^" + escaped.replace("\u2028", r"\u2028").replace("\u2029", r"\u2029") + "$/"


def report_variables(directory: Path) -> dict[str, str]:
    return {
        "PLAYWRIGHT_JSON_OUTPUT_FILE": str(directory / "report.json"),
        "PLAYWRIGHT_JUNIT_OUTPUT_FILE": str(directory / "junit.xml"),
        "PLAYWRIGHT_HTML_OPEN": "never",
        "WDIO_LOG_PATH": str(directory / "webdriver.log"),
        "FORCE_COLOR": "0",
    }


def _judge(result: ProcessResult, place: PreparedTarget, attempt: Attempt) -> Outcome:
    with report_of(result, attempt.directory / "report.json") as report:
        evidence = Evidence(
            exit_code=result.exit_code,
            signal=result.signal,
            report=report,
            output=place.redactor.text(result.tail.decode(errors="replace")),
            stopped=result.stopped or "",
            duration_s=result.duration_s,
            project_dir=str(place.project),
            test=attempt.spec.test,
            retries=place.target.test_retries,
            patterns=place.patterns,
            must_keep=attempt.failed_before,
        )
        return appwright_outcome(evidence)


def _find_cli(project: Path) -> Path | None:
    """Where Node.js would find it: here, or hoisted into a directory above, as npm workspaces do."""
    return next(
        (base / _CLI for base in (project, *project.parents) if _is_file(base / _CLI)), None
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False
