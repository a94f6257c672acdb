"""make, its scripts, the locks and the pipelines: small programs that nobody looks at until they
fail.
"""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ops.commands import ROOT, environment
from ops.parsing import parse

LOCKS = ("requirements.lock", "requirements-dev.lock")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def script(name: str, *args: str, path: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """One of tools/, with nothing else on the PATH than what the test put there and the plainest of
    programs.
    """
    for program in ("sh", "cat", "rm", "mkdir", "dirname", "tail", "ln", "chmod"):
        if not (path / program).exists():
            (path / program).symlink_to(shutil.which(program) or program)
    env = {**environment(**extra), "PATH": str(path)}
    return subprocess.run(
        [path / "sh", ROOT / "tools" / name, *args],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, name: str, text: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{text}\n")
    (path / name).chmod(0o755)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    return directory


def test_an_old_python_is_passed_over_and_a_new_one_taken(path: Path, tmp_path: Path) -> None:
    program(path, "python3", "exit 1")  # too old, as far as its answer goes
    program(path, "python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    program(
        path,
        "python3.12",
        f'[ "$1 $2" = "-m venv" ] && exec mkdir "$3"; exec "{sys.executable}" "$@"',
    )
    made = script("venv.sh", str(tmp_path / "venv"), path=path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "venv").is_dir()


def test_a_python_without_pip_is_explained(path: Path, tmp_path: Path) -> None:
    program(
        path, "python3", f'case "$2" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"'
    )
    made = script("venv.sh", str(tmp_path / "venv"), path=path)
    assert made.returncode == 1
    assert (
        f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-venv"
        in made.stderr
    )
    assert not (tmp_path / "venv").exists()


def test_no_python_is_explained(path: Path, tmp_path: Path) -> None:
    made = script("venv.sh", str(tmp_path / "venv"), path=path, PYTHON="python9")
    assert (
        made.returncode,
        "No Python 3.11 or later" in made.stderr,
        "python9" in made.stderr,
    ) == (1, True, True)


def test_the_machines_own_node_is_enough(path: Path) -> None:
    program(path, "node", "exit 0")
    program(path, "npm", "exit 0")
    done = script("node.sh", "/no/python", path=path)
    assert (done.returncode, done.stdout) == (0, "")


def test_without_go_the_nats_cli_is_left_out(path: Path) -> None:
    program(path, "dirname", f"echo {path}")  # a place without .tools
    done = script("nats-cli.sh", path=path)
    assert (done.returncode, "its test will be skipped" in done.stdout) == (0, True)


def test_a_nats_cli_that_cannot_be_built_fails_nothing(path: Path) -> None:
    program(path, "dirname", f"echo {path}")
    program(path, "go", "echo 'no network' >&2; exit 1")
    done = script("nats-cli.sh", path=path)
    assert (done.returncode, "no network" in done.stderr) == (0, True)


@pytest.mark.parametrize("name", LOCKS)
def test_locks_are_exact_and_name_no_place(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "--" not in re.sub(r"^ *#.*$| --hash=sha256:[0-9a-f]{64}", "", text, flags=re.M)
    pins = [
        line
        for line in text.replace(" \\\n", " ").splitlines()
        if line and not line.lstrip().startswith("#")
    ]
    assert pins
    assert all(
        re.fullmatch(r"[a-z0-9-]+==[^ ;]+( ; [^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+", line)
        for line in pins
    )


def test_locks_hold_every_dependency_and_agree() -> None:
    pins = {
        name: dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.M))
        for name in LOCKS
    }
    wanted = {
        LOCKS[0]: PROJECT["project"]["dependencies"],
        LOCKS[1]: PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"],
    }
    for name, requirements in wanted.items():
        assert {re.match(r"[\w.-]+", one)[0].lower() for one in requirements} <= pins[name].keys()  # type: ignore[index]
    assert pins[LOCKS[0]].items() <= pins[LOCKS[1]].items()


def recipe(target: str) -> str:
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", target],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_make_check_is_everything_and_make_test_is_the_same() -> None:
    line = recipe("check")
    for step in ("ruff format --check", "ruff check", "mypy", "lint-imports", "pytest"):
        assert step in line
    assert recipe("test") == line


def test_make_run_calls_a_command_that_qgjet_understands() -> None:
    last = recipe("run").rstrip().splitlines()[-1]
    directory, _, command = last.partition(" && exec qgjet ")
    assert directory == "cd examples/shop"
    assert parse([word.strip("'") for word in command.split()]) == "run"


def test_pipelines_run_the_same_line() -> None:
    ci = ROOT / ".ci/run"
    assert ci.read_text().rstrip().endswith("exec make test")
    assert ci.stat().st_mode & stat.S_IXUSR
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step.get("run", "") for step in workflow["jobs"]["check"]["steps"]]
    assert any(command.endswith("make check") for command in commands), commands


def test_shell_scripts_are_valid_and_executable() -> None:
    for file in [*(ROOT / "tools").glob("*.sh"), ROOT / ".ci/run"]:
        assert subprocess.run(["sh", "-n", file], check=False).returncode == 0, file
        assert file.stat().st_mode & stat.S_IXUSR, file
