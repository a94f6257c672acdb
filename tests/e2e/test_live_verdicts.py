"""Ten ways of a test with real AppWright, and one for each other kind of tool, through `qgjet run`.
`make soak` has the rest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.kinds import IN_EVERY_RUN, PYTEST, REPLAYS, Kind
from e2e.live import check, check_pytest, check_replay, lab_of
from e2e.reports import KINDS, write

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("kind", IN_EVERY_RUN, ids=lambda kind: kind.name)
def test_a_run_of_appwright_gets_the_verdict_that_a_person_gives_it(
    kind: Kind, shop: Path, tmp_path: Path
) -> None:
    check(lab_of(shop, tmp_path / "lab", kind), kind, f"tests/{kind.name}.spec.ts", "emulator")


def test_a_run_of_pytest_gets_the_verdict_that_a_person_gives_it(tmp_path: Path) -> None:
    check_pytest(tmp_path / "lab", PYTEST[0])


def test_the_report_of_another_tool_gets_the_verdict_that_a_person_gives_it(tmp_path: Path) -> None:
    check_replay(tmp_path / "lab", REPLAYS[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_report_takes_little_memory(kind: str, tmp_path: Path) -> None:
    """The bound is the one of a gigabyte in `make soak`: memory does not grow with the report."""
    path = tmp_path / "report"
    write(kind, 20 if KINDS[kind] == "failed" else 100, path)
    done = subprocess.run(
        [sys.executable, "-m", "e2e.reports", kind, str(path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    verdict, most_mib = done.stdout.split()
    assert verdict == KINDS[kind]
    assert int(most_mib) < 150
