"""Runs one kind through `qgjet run`, and checks verdict, reason, exit code and JUnit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from e2e.kinds import Kind, Replay
from patience import patience
from surroundings import is_ours

DATA = Path(__file__).resolve().parents[1] / "data" / "junit-tools"
MARKS = ("failure", "error", "skipped", "flakyFailure")


def lab_of(shop: Path, place: Path, kind: Kind) -> Path:
    """The example project with the test file of one kind."""
    shutil.copytree(
        shop,
        place,
        ignore=shutil.ignore_patterns("node_modules", ".qgjet", "test-results", "*.spec.*"),
    )
    (place / "node_modules").symlink_to(shop / "node_modules")
    (place / "tests" / f"{kind.name}.spec.ts").write_text(kind.spec)
    (place / "reads-html.cjs").write_text(
        'module.exports = async () => { JSON.parse("<html><h1>502 Bad Gateway</h1></html>"); };\n'
    )
    config = place / "appwright.config.ts"
    config.write_text(
        config.read_text().replace(
            "export default config;", f"{kind.config}\nexport default config;"
        )
    )
    return place


def check(lab: Path, kind: Kind, test: str, target: str) -> None:
    """Run `test` and compare. Raises AssertionError with everything that was printed."""
    flags = (
        "--org-id",
        "shop",
        "--app-version-id",
        "1.0.0",
        "--target",
        target,
        "--test",
        test,
        "--junit",
        "junit.xml",
        "--json",
    )
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("qgjet")),
            "run",
            *flags,
            "--max-retries",
            str(kind.max_retries),
            "--infra-retries",
            "0",
        ],
        cwd=lab,
        env={name: value for name, value in os.environ.items() if not is_ours(name)}
        | {"QGJET_QUEUE_RETRY_BASE": "50ms"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience(150),
        check=False,
    )
    said = f"{kind.name}: {done.stdout}\n{done.stderr}"
    assert done.stdout, said
    (job,) = json.loads(done.stdout)["jobs"]
    assert (job["verdict"], job["reason"], done.returncode) == (
        kind.verdict,
        kind.reason,
        kind.code,
    ), said
    junit = ET.parse(lab / "junit.xml").getroot()
    marks = [child.tag for case in junit.iter("testcase") for child in case if child.tag in MARKS]
    assert (
        (kind.junit in marks)
        if kind.junit != "passed"
        else (marks == [] and list(junit.iter("testcase")))
    ), ET.tostring(junit, "unicode")
    assert kind.says in ET.tostring(junit, "unicode"), ET.tostring(junit, "unicode")
    assert not kind.absent or not (lab / kind.absent).exists()


def check_pytest(place: Path, kind: Kind) -> None:
    """The kind's test file, run by the pytest of this environment."""
    place.mkdir()
    test = f"test_{kind.name.replace('-', '_')}.py"
    (place / test).write_text(kind.spec)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir=.",
        "{test}",
        "--junit-xml={report}",
    ]
    (place / "qgjet.toml").write_text(
        f'[targets.t]\nrunner = "command"\ncommand = {json.dumps(command)}\n'
    )
    check(place, kind, test, "t")


def check_replay(place: Path, replay: Replay) -> None:
    """A recorded report, written by a command that exits as the tool did."""
    recorded = DATA / replay.recorded
    place.mkdir()
    shutil.copy(recorded / "case.xml", place / "case.xml")
    exit_code = json.loads((recorded / "case.json").read_text())["exit_code"]
    (place / "replay.sh").write_text(f'cp "$1" "$2"\nexit {exit_code}\n')
    (place / "qgjet.toml").write_text(
        '[targets.t]\nrunner = "command"\ncommand = ["sh", "replay.sh", "{test}", "{report}"]\n'
    )
    kind = Kind(
        name=replay.recorded,
        verdict=replay.verdict,
        reason=replay.reason,
        code=replay.code,
        junit=replay.junit,
    )
    check(place, kind, "case.xml", "t")
