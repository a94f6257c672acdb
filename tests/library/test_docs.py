"""The pages about the library and about runners: their snippets are typed, and do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from ops.commands import ROOT, environment
from patience import patience

PLUGIN = ROOT / "examples/runner-plugin"
SNIPPETS = {
    f"{page}-{number}": text
    for page in ("library", "runners")
    for number, text in enumerate(
        re.findall(r"^```python\n(.*?)^```", (ROOT / f"docs/{page}.md").read_text(), re.M | re.S)
    )
}
TOML = """
[targets.emulator]
runner = "scripted"
outcomes = { "tests/cart.spec.ts" = ["failed"], "*" = ["passed"] }

[job]
max_retries = 0
"""


@pytest.mark.timeout(180)
def test_snippets_are_typed(tmp_path: Path) -> None:
    assert len(SNIPPETS) >= 3
    for name, text in SNIPPETS.items():
        (tmp_path / f"snippet_{name.replace('-', '_')}.py").write_text(text)
    files = [str(path) for path in sorted(tmp_path.glob("*.py"))]
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(tmp_path / "cache"),
        *files,
        str(PLUGIN / "qgjet_script"),
    ]
    checked = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(150), check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_snippet_for_pytest_fails_with_what_failed(tmp_path: Path) -> None:
    (tmp_path / "qgjet.toml").write_text(TOML)
    (tmp_path / "test_release.py").write_text(
        next(text for text in SNIPPETS.values() if "def test_" in text)
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_release.py",
    ]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "tests/cart.spec.ts" in ended.stdout
    assert "tests/login.spec.ts: " not in ended.stdout


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a host where the example's package is installed: as pip leaves it, without
    pip.
    """
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    site = tmp_path / "site"
    shutil.copytree(PLUGIN / "qgjet_script", site / "qgjet_script")
    info = site / f"qgjet_script-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    for group, points in project["entry-points"].items():
        (info / "entry_points.txt").write_text(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        )
    return environment(PYTHONPATH=str(site))


def qgjet(*arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("qgjet")), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=patience(60), check=False
    )


def test_a_plugin_runs_the_jobs_of_its_target(tmp_path: Path, installed: dict[str, str]) -> None:
    project = shutil.copytree(PLUGIN, tmp_path / "project")
    (project / "checks/broken.sh").write_text("echo 'no answer'\nexit 1\n")
    ended = qgjet(
        "run", "--test", "checks/*.sh", "--max-retries", "0", "--json", cwd=project, env=installed
    )
    assert ended.returncode == 1, ended.stderr
    verdicts = {job["test"]: job["verdict"] for job in msgspec.json.decode(ended.stdout)["jobs"]}
    assert verdicts == {
        "checks/shop.sh": "passed",
        "checks/device.sh": "skipped",
        "checks/broken.sh": "failed",
    }


def test_a_plugin_that_is_missing_or_broken_is_named(
    tmp_path: Path, installed: dict[str, str]
) -> None:
    project = shutil.copytree(PLUGIN, tmp_path / "project")
    missing = qgjet("run", "--test", "checks/shop.sh", cwd=project, env=environment())
    assert missing.returncode == 2
    assert re.search(
        r"qgjet\.toml:2: .*'script' is none of appwright, command, scripted", missing.stderr
    ), missing.stderr
    (project / "qgjet.toml").write_text(
        '[targets.local]\nrunner = "script"\noptions = { shell = 7 }\n'
    )
    wrong = qgjet("run", "--test", "checks/shop.sh", cwd=project, env=installed)
    assert (wrong.returncode, "targets.local.options.shell: must be text" in wrong.stderr) == (
        2,
        True,
    ), wrong.stderr
    (tmp_path / "site/qgjet_script/__init__.py").write_text("import a_module_that_nobody_has\n")
    broken = qgjet("run", "--test", "checks/shop.sh", cwd=project, env=installed)
    assert (
        broken.returncode,
        "a_module_that_nobody_has" in broken.stderr,
        "Traceback" in broken.stderr,
    ) == (2, True, False), broken.stderr
