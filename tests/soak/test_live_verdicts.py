"""Every way in which a test of AppWright can go, live through `qgjet run`, and reports of a
gigabyte.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.conftest import shop
from e2e.kinds import APPWRIGHT, IN_EVERY_RUN, PYTEST, REPLAYS, Kind, Replay
from e2e.live import check, check_pytest, check_replay, lab_of
from e2e.reports import KINDS, MIB, write

__all__ = ["shop"]

GIBIBYTE = 1024
MOST_MIB = 150


@pytest.mark.parametrize("kind", APPWRIGHT[len(IN_EVERY_RUN) :], ids=lambda kind: kind.name)
def test_a_run_of_appwright_gets_the_verdict_that_a_person_gives_it(
    kind: Kind, shop: Path, tmp_path: Path
) -> None:
    check(lab_of(shop, tmp_path / "lab", kind), kind, f"tests/{kind.name}.spec.ts", "emulator")


@pytest.mark.parametrize("kind", PYTEST, ids=lambda kind: kind.name)
def test_a_run_of_pytest_gets_the_verdict_that_a_person_gives_it(
    kind: Kind, tmp_path: Path
) -> None:
    check_pytest(tmp_path / "lab", kind)


@pytest.mark.parametrize("replay", REPLAYS, ids=lambda replay: replay.recorded)
def test_the_report_of_another_tool_gets_the_verdict_that_a_person_gives_it(
    replay: Replay, tmp_path: Path
) -> None:
    check_replay(tmp_path / "lab", replay)


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_of_a_gigabyte_is_read_within_150_mib(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "report"
    write(kind, GIBIBYTE, path)
    done = subprocess.run(
        [sys.executable, "-m", "e2e.reports", kind, str(path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    verdict, most = done.stdout.split()
    assert verdict == KINDS[kind]
    assert int(most) < MOST_MIB, f"{path.stat().st_size // MIB} MiB of {kind} took {most} MiB"
