"""The `appwright` runner up to the call of cli.js. What Playwright makes of that call is tested in
tests/e2e, on a real installation.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Partition, Verdict
from qgjet.runners.appwright import exactly, version_of
from qgjet.runners.base import Attempt, Session
from qgjet.runners.registry import make_runner

MakeAttempt = Callable[..., Attempt]
CLI = """
const fs = require("node:fs");
fs.writeFileSync(process.env.PLAYWRIGHT_JSON_OUTPUT_FILE, "{}");
fs.writeFileSync("called.json", JSON.stringify({ argv: process.argv.slice(2), env: process.env, cwd: process.cwd() }));
"""
# Playwright 1.59.1, lib/util.js: parseLocationArg, forceRegExp, createFileMatcher
MATCH = r"""
function match(arg, file) {
  const location = /^(.*?):(\d+):?(\d+)?$/.exec(arg);
  const pattern = location ? location[1] : arg;
  const written = pattern.match(/^\/(.*)\/([gi]*)$/);
  const re = written ? new RegExp(written[1], written[2]) : new RegExp(pattern, "gi");
  return location === null && re.test(file);
}
const { filters, files } = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(filters.map((filter) => files.filter((file) => match(filter, file)))));
"""


def test_a_filter_matches_its_own_file_and_no_other() -> None:
    names = [
        "a.js",
        "A.js",
        "axjs",
        "b/a.js",
        "a.js.js",
        "a-b.js",
        "a b.js",
        "(a).js",
        "[a].js",
        "a+.js",
        "a$.js",
        "^a.js",
        "{a}.js",
        "a|b.js",
        "a\\b.js",
    ]
    names += [
        "a?.js",
        "a*.js",
        "a.js:12",
        "a.js:1:2",
        "ü.js",
        "a/g",
        "a\u2028.js",
        "a\u2029.js",
        "'a\".js",
        "#,<>=!&.js",
        "\U0001f4f1.js",
    ]
    files = [f"/srv/pro ject/tests/{name}" for name in names] + [
        "/tests/a.js",
        "/srv/pro ject/tests",
    ]
    asked = json.dumps({"filters": [exactly(Path(file)) for file in files], "files": files})
    answer = subprocess.run(
        ["node", "-e", MATCH], input=asked, capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == [[file] for file in files]


@pytest.fixture
def session(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "real" / "tests").mkdir(parents=True)
    (tmp_path / "real" / "tests" / "a.spec.js").touch()
    (tmp_path / "project").symlink_to(tmp_path / "real")
    (tmp_path / "session").mkdir()

    async def make(**fields: Any) -> Session:
        target = TargetSettings(**{"name": "emulator", "dir": str(tmp_path / "project"), **fields})
        return await make_runner(target).prepare(
            Partition("acme", "1.0.0", "emulator"), tmp_path / "session"
        )

    return make


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    cli = tmp_path / "real" / "node_modules" / "@playwright" / "test" / "cli.js"
    cli.parent.mkdir(parents=True)
    cli.write_text(CLI)
    return cli


async def test_cli_js_is_called_with_this_file_only_and_reports_in_the_attempts_directory(
    session: Callable[..., Any],
    installed: Path,
    make_attempt: MakeAttempt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "of the agent")
    attempt = make_attempt(test="./tests/a.spec.js")
    await (await session(config="e2e.config.ts", project="android", test_retries=2)).run(attempt)
    project = installed.parents[3]
    called = json.loads((project / "called.json").read_text())
    assert called["cwd"] == str(project)
    assert called["argv"] == [
        "test",
        exactly(project / "tests" / "a.spec.js"),
        *(
            "--config",
            "e2e.config.ts",
            "--project",
            "android",
            "--workers=1",
            "--retries=2",
            "--reporter=list,json",
        ),
        *("--output", str(attempt.directory / "test-results"), "--shard=1/1"),
    ]
    environment = called["env"]
    assert environment["PLAYWRIGHT_JSON_OUTPUT_FILE"] == str(attempt.directory / "report.json")
    assert environment["WDIO_LOG_PATH"] == str(attempt.directory / "webdriver.log")
    assert (
        environment["PLAYWRIGHT_HTML_OPEN"],
        environment["FORCE_COLOR"],
        environment["QGJET_TEST"],
    ) == ("never", "0", "./tests/a.spec.js")
    assert (
        environment["CI"] == "true"
    )  # not the agent's own: `forbidOnly: !!process.env.CI` has to work in every queued run


@pytest.mark.parametrize(
    ("package", "options"),
    [
        ('{"version": "1.59.1"}', ["--shard=1/1", "--update-snapshots=none"]),
        ('{"version": "1.50.0-beta.1"}', ["--shard=1/1", "--update-snapshots=none"]),
        ('{"version": "2.0.0"}', ["--shard=1/1", "--update-snapshots=none"]),
        ('{"version": "1.49.1"}', ["--shard=1/1"]),
        ('{"version": "x"}', ["--shard=1/1"]),
    ],
)
async def test_all_tests_run_and_no_snapshot_is_written_where_playwright_has_the_option(
    package: str,
    options: list[str],
    session: Callable[..., Any],
    installed: Path,
    make_attempt: MakeAttempt,
) -> None:
    installed.with_name("package.json").write_text(package)
    await (await session()).run(make_attempt(test="tests/a.spec.js"))
    argv = json.loads((installed.parents[3] / "called.json").read_text())["argv"]
    assert argv[argv.index("--shard=1/1") :] == options


@pytest.mark.parametrize("package", ["", "{", "[]", '{"version": 2}', '{"version": "1"}'])
def test_a_version_that_cannot_be_read_is_none(package: str, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(package)
    assert version_of(tmp_path / "cli.js") == version_of(tmp_path / "nowhere" / "cli.js") == (0, 0)


async def test_the_project_is_the_target_unless_it_says_otherwise(
    session: Callable[..., Any], installed: Path, make_attempt: MakeAttempt
) -> None:
    await (await session()).run(make_attempt(test="tests/a.spec.js"))
    argv = json.loads((installed.parents[3] / "called.json").read_text())["argv"]
    assert argv[argv.index("--project") + 1] == "emulator"


async def test_an_installation_hoisted_into_a_directory_above_is_found(
    session: Callable[..., Any], installed: Path, make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    os.rename(installed.parents[2], tmp_path / "node_modules")  # noqa: PTH104 - a directory with everything in it
    await (await session()).run(make_attempt(test="tests/a.spec.js"))
    assert (tmp_path / "real" / "called.json").exists()


@pytest.mark.parametrize("test", ["tests/missing.spec.js", "tests", "tests/a.spec.js/x", "x" * 300])
async def test_a_test_that_is_no_file_is_named_without_starting_anything(
    test: str,
    session: Callable[..., Any],
    installed: Path,
    make_attempt: MakeAttempt,
    tmp_path: Path,
) -> None:
    outcome = await (await session()).run(make_attempt(test=test))
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "no_tests")
    assert test in outcome.message
    assert not (tmp_path / "real" / "called.json").exists()


@pytest.mark.parametrize(
    "test", ["../real/tests/a.spec.js", "/etc/passwd", "--config=x", "tests/a\0.js"]
)
async def test_a_hostile_test_path_is_refused(
    test: str,
    session: Callable[..., Any],
    installed: Path,
    make_attempt: MakeAttempt,
    tmp_path: Path,
) -> None:
    outcome = await (await session()).run(make_attempt(test=test))
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "invalid_input")
    assert not (tmp_path / "real" / "called.json").exists()


async def test_a_project_without_playwright_says_how_to_mend_it(
    session: Callable[..., Any], make_attempt: MakeAttempt, tmp_path: Path
) -> None:
    outcome = await (await session()).run(make_attempt(test="tests/a.spec.js"))
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "module_not_found")
    assert f'run "npm ci" in {tmp_path / "real"}' in outcome.message


async def test_a_host_without_node_says_so(
    session: Callable[..., Any], installed: Path, make_attempt: MakeAttempt
) -> None:
    outcome = await (await session(env={"PATH": "/nowhere"})).run(
        make_attempt(test="tests/a.spec.js")
    )
    assert (outcome.verdict, outcome.reason) == (Verdict.CONFIG_ERROR, "command_not_found")
    assert "node is not on the PATH" in outcome.message
