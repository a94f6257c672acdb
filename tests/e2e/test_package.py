"""What `pip install` puts onto somebody's machine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import ROOT

VENDOR = "qgjet_projections/web/static/vendor"
SOURCES = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "nats.conf", "qgjet", "projections", "cli")


def build(source: Path, into: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(source)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def run_in(site: Path, *arguments: str) -> list[str]:
    """`qgjet …` of the unpacked wheel, which says first where it was found."""
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r}); import qgjet_cli.main as m; print(m.__file__); m.main()", *arguments]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    built = build(ROOT, directory)
    assert built.returncode == 0, built.stderr
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


@pytest.mark.timeout(150)
def test_the_wheel_holds_our_three_packages_and_runs_from_anywhere(site: Path) -> None:
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"qgjet", "qgjet_cli", "qgjet_projections"}
    assert (site / "qgjet/nats.conf").is_file()
    ended = subprocess.run(run_in(site, "--version"), cwd="/", check=True, capture_output=True, text=True, timeout=60)
    assert str(site) in ended.stdout


@pytest.fixture
def dashboard(site: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an API of the wheel, without a server behind it."""
    arguments = ("serve", "--port", "0", "--nats", "nats://127.0.0.1:1")
    with subprocess.Popen(run_in(site, *arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as api:
        assert api.stdout is not None
        said = ""
        try:
            for line in api.stdout:
                said += line
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found[0]
                    return
            raise AssertionError(said)
        finally:
            api.terminate()


@pytest.mark.timeout(150)
def test_its_dashboard_has_pages_style_and_scripts(dashboard: str) -> None:
    with urllib.request.urlopen(f"{dashboard}/", timeout=20) as answer:
        page = answer.read().decode()
    assert "<h1>Overview</h1>" in page
    urls = set(re.findall(r'(?:src|href)="(/ui/assets/[^"]+)"', page))
    assert {re.sub(r".*/([a-z-]+)\..*\.", r"\1.", url) for url in urls} == {"app.css", "icon.svg", "htmx.js", "htmx-sse.js", "idiomorph.js", "app.js"}
    for url in urls:
        with urllib.request.urlopen(dashboard + url, timeout=20) as answer:
            assert (answer.status, "immutable" in answer.headers["cache-control"], bool(answer.read())) == (200, True, True)


@pytest.mark.timeout(150)
def test_no_wheel_is_made_without_the_scripts_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    shutil.rmtree(source / "projections" / VENDOR)
    monkeypatch.delenv("QGJET_WITHOUT_ASSETS", raising=False)
    refused = build(source, tmp_path)
    assert refused.returncode != 0
    assert "`make assets` gets them" in refused.stderr
    assert not list(tmp_path.glob("*.whl"))
    monkeypatch.setenv("QGJET_WITHOUT_ASSETS", "1")
    assert build(source, tmp_path).returncode == 0
