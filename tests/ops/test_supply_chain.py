"""What we depend on, and what those who build and run it may do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.commands import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
CLEAN = {"name": "a", "version": "1", "vulns": []}
HOLE = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "c could not be found"}


def auditor(directory: Path, answer: str | None, code: int) -> Path:
    """A pip-audit that gives this answer."""
    path = directory / "pip-audit"
    (directory / "answer").write_text(answer or "")
    copy = (
        f'while [ "$1" != --output ]; do shift; done; cp {directory}/answer "$2"\n'
        if answer is not None
        else ""
    )
    path.write_text(f"#!/bin/sh\necho 'ConnectionError: no route' >&2\n{copy}exit {code}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("dependencies", "code", "expected", "says"),
    [
        ([CLEAN], 0, 0, "1 packages, no known holes"),
        ([CLEAN, HOLE], 1, 1, "b 2: PYSEC-1, mended in 3"),
        ([SKIPPED, HOLE], 1, 1, "PYSEC-1"),
        ([CLEAN, SKIPPED], 0, 3, "NOT AUDITED"),
        ([], 0, 3, "NOT AUDITED"),
        ([CLEAN], 2, 3, "NOT AUDITED"),
        (None, 1, 3, "ConnectionError: no route"),
        (None, 0, 3, "NOT AUDITED"),
    ],
)
def test_an_audit_without_data_is_no_pass(
    dependencies: list[Any] | None, code: int, expected: int, says: str, tmp_path: Path
) -> None:
    answer = None if dependencies is None else json.dumps({"dependencies": dependencies})
    command = [
        sys.executable,
        ROOT / "tools/audit.py",
        auditor(tmp_path, answer, code),
        "requirements.lock",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, says in done.stdout + done.stderr) == (expected, True), (
        done.stdout + done.stderr
    )


def test_an_auditor_that_cannot_be_installed_is_no_pass(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    script = tmp_path / "tools" / "audit.sh"
    script.write_text((ROOT / "tools/audit.sh").read_text())
    done = subprocess.run(["sh", script, "false"], capture_output=True, text=True, check=False)
    assert (done.returncode, "NOT AUDITED" in done.stderr) == (3, True)


RELEASING = {
    "build": {"contents": "read", "id-token": "write", "attestations": "write"},
    "publish": {"contents": "write", "id-token": "write"},
}
"""A release is attested, uploaded without a token of its own, and named in the repository."""


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_may_read_the_repository_and_nothing_else(file: Path) -> None:
    text = file.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    more = {
        name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job
    }
    assert more == (RELEASING if file.name == "release.yml" else {})
    assert "pull_request_target" not in text
    assert "secrets." not in text
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    checkouts = [step for step in steps if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_the_pipeline_audits_the_locks() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert any(
        step.get("run", "").startswith("tools/audit.sh python") for step in jobs["audit"]["steps"]
    )


@pytest.mark.parametrize("name", ["nats", "qg-api", "qg-worker"])
def test_a_service_can_change_nothing_but_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (
        True,
        ["ALL"],
        ["no-new-privileges:true"],
    )
    assert not {"privileged", "cap_add", "pid", "network_mode", "devices"} & service.keys()
    assert "docker.sock" not in json.dumps(service)


def test_what_the_images_write_to_is_a_volume() -> None:
    text = (ROOT / "Dockerfile").read_text()
    api, worker = text.split(" AS api\n")[1].split("\nFROM api AS worker\n")
    assert "VOLUME /var/lib/qgjet" in api
    assert "QGJET_API_DATABASE=/var/lib/qgjet/" in api
    assert 'VOLUME ["/tmp", "/home/qgjet", "/project"]' in worker
    assert worker.index("VOLUME") > worker.index("COPY --from=project --chown"), (
        "what is copied after it would be lost"
    )
