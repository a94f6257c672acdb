"""Fixtures of the runner tests: scripts that are run as real jobs, and agents that may be killed."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from factories import spec
from qgjet.process import supervisor
from qgjet.process.stop_control import StopControl
from qgjet.runners.base import Attempt
from qgjet.support.clock import lease_time
from runners.processes import Alter, FakeAgent, Family, Printed

SAY = """
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


@pytest.fixture
def family() -> Iterator[Family]:
    one = Family()
    yield one
    left = one.pids()
    for pid in left:
        os.kill(pid, 9)
    assert not left, "a test left processes behind"


@pytest.fixture
def printed() -> Printed:
    return Printed()


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], list[str]]:
    """Writes a script and gives the argv that runs it. In it `say(...)` prints a line at one go;
    print() would let others come in between.
    """

    def write(source: str) -> list[str]:
        path = tmp_path / f"job-{uuid.uuid4().hex}.py"
        path.write_text("import os, signal, subprocess, sys, time\n" + SAY + source)
        return [sys.executable, str(path)]

    return write


@pytest.fixture
def make_attempt(tmp_path: Path) -> Callable[..., Attempt]:
    def make(
        *,
        number: int = 1,
        hold_s: float = 60.0,
        on_output: Callable[[bytes], None] = lambda _: None,
        **fields: Any,
    ) -> Attempt:
        directory = tmp_path / f"attempt-{uuid.uuid4().hex}"
        stop_control = StopControl(lease_time() + hold_s)
        return Attempt(
            spec=spec(**fields),
            number=number,
            path=str(directory),
            stop_control=stop_control,
            on_output=on_output,
        )

    return make


@pytest.fixture
def fake_agent(tmp_path: Path) -> Iterator[Callable[[str], FakeAgent]]:
    """Starts agents. They have no mark, so that a family is their jobs alone."""
    started: list[FakeAgent] = []

    def start(source: str) -> FakeAgent:
        started.append(FakeAgent(source, tmp_path, {"PATH": os.environ["PATH"]}))
        return started[-1]

    yield start
    for agent in started:
        agent.close()


@pytest.fixture
def alter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alter:
    """Changes the guardians of this test by a piece of code, in which `guardian` is their module."""

    def change(source: str) -> None:
        program = tmp_path / "guardian.py"
        load = f"import importlib.util\nspec = importlib.util.spec_from_file_location('guardian', {supervisor.__file__!r})\n"
        load += (
            "guardian = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(guardian)\n"
        )
        program.write_text(f"{load}{source}\nguardian.main()\n")
        monkeypatch.setattr(supervisor, "__file__", str(program))

    return change
