"""`qgjob` 1.4.0 from PyPI, another package with that command, against this API: as it was
published, in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from patience import patience
from qgjet.config.loader import load_settings
from qgjet_projections.serving.local_stack import LocalStack

CONFIG = """
[targets.emulator]
runner = "scripted"
outcomes = { "tests/broken.spec.js" = ["failed"], "*" = ["passed"] }

[job]
max_retries = 0
"""


@pytest.fixture(scope="module")
def qgjob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command, installed beside nothing of ours."""
    place = tmp_path_factory.mktemp("published") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=patience(60))
    install = [
        str(place / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "qgjob==1.4.0",
    ]
    subprocess.run(install, check=True, timeout=patience(170))
    return place / "bin/qgjob"


@pytest.fixture
async def stack() -> AsyncIterator[LocalStack]:
    async with LocalStack(load_settings(CONFIG)) as running:
        yield running


async def run(command: Path, stack: LocalStack, *arguments: str) -> tuple[int, str]:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "QGJOB_API_BASE_URL": stack.api_url}
    process = await asyncio.create_subprocess_exec(
        str(command),
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(patience(60)):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


@pytest.mark.timeout(300)
async def test_the_published_client_submits_polls_and_ends_with_its_own_exit_codes(
    qgjob: Path, stack: LocalStack
) -> None:
    job = ("--org-id", "qualgent", "--app-version-id", "xyz123", "--target", "emulator")
    code, said = await run(
        qgjob, stack, "submit", *job, "--test", "tests/onboarding.spec.js", "--priority", "2"
    )
    assert code == 0, said
    found = re.search(r"Job submitted! ID: (\S+) \| Status: queued", said)
    assert found, said
    code, said = await run(qgjob, stack, "status", "--job-id", found[1], "--poll")
    assert (code, said.splitlines()[-1]) == (0, f"Job {found[1]} → completed"), said

    code, said = await run(qgjob, stack, "submit", *job, "--test", "tests/broken.spec.js", "--json")
    broken = json.loads(said)["job_id"]
    code, said = await run(qgjob, stack, "status", "--job-id", broken, "--poll", "--json")
    last = json.loads(said.splitlines()[-1])
    assert (code, last["job_id"], last["status"], last["test_path"], last["app_version_id"]) == (
        1,
        broken,
        "failed",
        "tests/broken.spec.js",
        "xyz123",
    )
    assert set(last) == {"job_id", "status", "test_path", "app_version_id", "created_at"}

    code, said = await run(qgjob, stack, "status", "--job-id", "nothing")
    assert (code, "404" in said) == (1, True), said
