"""What `pip install` puts onto somebody's machine."""

from __future__ import annotations

import os
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
from patience import patience

VENDOR = "qgjet_projections/web/static/vendor"
SOURCES = (
    "pyproject.toml",
    "hatch_build.py",
    "README.md",
    "LICENSE",
    "nats.conf",
    "qgjet",
    "projections",
    "cli",
    "tools",
)


def build(source: Path, into: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(into),
        str(source),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=patience(120), check=False
    )


def run_in(site: Path, *arguments: str) -> list[str]:
    """`qgjet …` of the unpacked wheel, which says first where it was found."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(site)!r}); import qgjet_cli.main as m; print(m.__file__); m.main()",
        *arguments,
    ]


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
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {
        "qgjet",
        "qgjet_cli",
        "qgjet_projections",
    }
    assert (site / "qgjet/nats.conf").is_file()
    ended = subprocess.run(
        run_in(site, "--version"),
        cwd="/",
        check=True,
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert str(site) in ended.stdout


@pytest.fixture
def dashboard(site: Path, tmp_path: Path) -> Iterator[str]:
    """The address of an API of the wheel, without a server behind it."""
    arguments = ("serve", "--port", "0", "--nats", "nats://127.0.0.1:1")
    with subprocess.Popen(
        run_in(site, *arguments),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as api:
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
    with urllib.request.urlopen(f"{dashboard}/", timeout=patience(20)) as answer:
        page = answer.read().decode()
    assert "<h1>Overview</h1>" in page
    urls = set(re.findall(r'(?:src|href)="(/ui/assets/[^"]+)"', page))
    assert {re.sub(r".*/([a-z-]+)\..*\.", r"\1.", url) for url in urls} == {
        "app.css",
        "icon.svg",
        "htmx.js",
        "htmx-sse.js",
        "idiomorph.js",
        "app.js",
    }
    for url in urls:
        with urllib.request.urlopen(dashboard + url, timeout=patience(20)) as answer:
            assert (
                answer.status,
                "immutable" in answer.headers["cache-control"],
                bool(answer.read()),
            ) == (200, True, True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As git gives it: without the scripts."""
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("vendor", "node_modules")
            )
        else:
            shutil.copy(ROOT / name, source / name)
    monkeypatch.delenv("QGJET_WITHOUT_ASSETS", raising=False)
    return source


@pytest.mark.timeout(150)
def test_a_wheel_of_a_fresh_checkout_gets_the_scripts_by_itself(
    checkout: Path, tmp_path: Path
) -> None:
    built = build(checkout, tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        for name in ("htmx.js", "htmx-sse.js", "idiomorph.js"):
            assert (
                archive.read(f"{VENDOR}/{name}")
                == (ROOT / "projections" / VENDOR / name).read_bytes()
            )


@pytest.mark.timeout(150)
def test_no_wheel_is_made_without_the_scripts_unless_it_is_asked_for(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'the registry cannot be reached' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    refused = build(checkout, tmp_path)
    assert refused.returncode != 0
    assert "the registry cannot be reached; QGJET_WITHOUT_ASSETS=1 builds" in refused.stderr
    assert not list(tmp_path.glob("*.whl"))
    monkeypatch.setenv("QGJET_WITHOUT_ASSETS", "1")
    assert build(checkout, tmp_path).returncode == 0
