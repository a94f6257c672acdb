"""The example project with its dependencies, and the command line as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from patience import patience
from surroundings import is_ours

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"


class Ended(Struct, frozen=True):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def shop() -> Path:
    """`make test` installs it; without it these tests cannot say anything."""
    assert (SHOP / "node_modules" / "@playwright" / "test" / "cli.js").exists(), (
        f"run `npm ci --ignore-scripts` in {SHOP}"
    )
    return SHOP


@pytest.fixture
def qgjet(shop: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Run `qgjet` in the example project, without a server of its own making."""

    def run(*arguments: str, timeout_s: float = 100.0, **variables: str) -> Ended:
        environment = {
            name: value for name, value in os.environ.items() if not is_ours(name)
        } | variables
        done = subprocess.run(
            [str(Path(sys.executable).with_name("qgjet")), *arguments],
            cwd=shop,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience(timeout_s),
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
