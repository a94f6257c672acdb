"""A host with clients and agents only: what the extras install is not there, and what needs it says
so.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ops.commands import environment
from patience import patience

SERVER = ("litestar", "litestar_htmx", "uvicorn", "jinja2", "prometheus_client")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({SERVER!r})); sys.argv = ['qgjet', *sys.argv[1:]]; "
TARGET = '[targets.emulator]\nrunner = "scripted"\n'


def without_the_server(
    program: str, *arguments: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + program, *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "--help"),
        ("agent", "--help"),
        ("serve", "--help"),
        ("doctor", "--help"),
        ("--version",),
    ],
)
def test_commands_need_no_server_to_explain_themselves(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    ended = without_the_server("import qgjet_cli.main as m; m.main()", *arguments, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("serve",), "server"), (("up",), "embedded"), (("run", "--test", "a.spec.js"), "embedded")],
    ids=["serve", "up", "run"],
)
def test_what_needs_an_extra_names_it(
    tmp_path: Path, arguments: tuple[str, ...], extra: str
) -> None:
    (tmp_path / "qgjet.toml").write_text(TARGET)
    (tmp_path / "a.spec.js").touch()
    ended = without_the_server("import qgjet_cli.main as m; m.main()", *arguments, cwd=tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False), ended.stderr
    assert f"pip install 'qgjet[{extra}]'" in ended.stderr


def test_the_library_submits_without_a_server_package(tmp_path: Path) -> None:
    (tmp_path / "qgjet.toml").write_text(TARGET)
    program = "import qgjet\ntry:\n    with qgjet.connect_sync():\n        pass\nexcept qgjet.QgjetError as error:\n    print(type(error).__name__, error)"
    ended = without_the_server(f"exec({program!r})", cwd=tmp_path)
    assert ended.stdout.startswith("NotInstalled"), ended.stdout + ended.stderr
    assert "qgjet[embedded]" in ended.stdout
