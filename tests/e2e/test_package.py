"""What `pip install` puts onto somebody's machine."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from e2e.conftest import ROOT


@pytest.mark.timeout(150)
def test_the_wheel_holds_our_three_packages_and_runs_from_anywhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"qgjet", "qgjet_cli", "qgjet_projections"}
    assert "qgjet/nats.conf" in names
    clean = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import qgjet_cli.main as m; print(m.__file__); m.main()",
        "--version",
    ]
    ended = subprocess.run(clean, cwd="/", check=True, capture_output=True, text=True, timeout=60)
    assert str(tmp_path) in ended.stdout
