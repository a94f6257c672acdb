"""What jobs leave behind goes, whatever it is; what others hold stays."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import eventually
from qgjet.agent.cleanup import own_directory, remove, remove_abandoned, remove_tree

DEPTH = 3_000


def make_deep(path: Path, depth: int = DEPTH) -> None:
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        (below := os.open("d", os.O_RDONLY, dir_fd=fd), os.close(fd))
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_a_tree_that_is_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    make_deep(tmp_path / "tree")
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    make_deep(tmp_path / "tree", 200)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(int(path.name) for path in Path("/dev/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 8, hard))
    try:
        remove_tree(tmp_path / "tree")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not (tmp_path / "tree").exists()


def test_symlinks_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    tree = tmp_path / "tree"
    (tree / "in").mkdir(parents=True)
    for place in (tree, tree / "in"):
        (place / "directory").symlink_to(kept)
        (place / "file").symlink_to(kept / "file")
        (place / "nowhere").symlink_to("nowhere")
    remove_tree(tree)
    (tmp_path / "link").symlink_to(kept)
    remove_tree(tmp_path / "link")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert (kept / "file").exists()


def test_anything_that_can_be_in_a_directory_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xff\xfe")).mkdir()
    (tree / ("x" * 255)).touch()
    (tree / "a\nb").touch()
    for mode in (0o000, 0o500, 0o300):
        closed = tree / f"mode {mode:o}"
        (closed / "in").mkdir(parents=True)
        closed.chmod(mode)
    remove_tree(tree)
    assert not tree.exists()


UNPRIVILEGED = """
import os, pathlib, tempfile
from qgjet.agent.cleanup import remove_tree
if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)
tree = pathlib.Path(tempfile.mkdtemp())
for mode in (0o000, 0o500, 0o300, 0o100):
    inner = tree / f"{mode:o}" / "in" / "deep"
    inner.mkdir(parents=True); (inner / "file").touch()
    for path in (inner, inner.parent, inner.parent.parent): path.chmod(mode)
tree.chmod(0)
remove_tree(tree)
assert not tree.exists(), list(tree.iterdir())
"""


def test_a_user_without_privileges_removes_directories_that_are_closed() -> None:
    """Root may write anywhere, so a process tries it that is not root."""
    subprocess.run([sys.executable, "-c", UNPRIVILEGED], check=True, timeout=60)


def test_what_cannot_be_removed_is_logged_once_and_the_rest_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for name in ("busy", "free"):
        (tree / name / "in").mkdir(parents=True)
    rmdir = os.rmdir

    def refuse(path: bytes, *, dir_fd: int | None = None) -> None:
        if path == b"busy":
            raise OSError(16, "Device or resource busy")
        rmdir(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refuse)
    remove_tree(tree)
    assert [path.name for path in tree.iterdir()] == ["busy"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "busy" in caplog.text


def test_one_file_that_stays_keeps_only_the_directories_above_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for name in ("a", "busy", "z"):
        (tree / "in" / name / "deep").mkdir(parents=True)
        (tree / "in" / f"{name}.file").touch()
    unlink = os.unlink

    def refuse(path: bytes, *, dir_fd: int | None = None) -> None:
        if path == b"busy.file":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    remove_tree(tree)
    assert [str(path.relative_to(tree)) for path in tree.rglob("*")] == ["in", "in/busy.file"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_path_that_no_system_has_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    remove_tree("a\0b")
    remove_tree("/" + "x" * 5000)
    assert len(caplog.records) == 2


async def test_without_a_thread_left_it_is_removed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (tmp_path / "tree" / "in").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        await remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_what_is_not_there_is_no_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remove_tree(tmp_path / "nothing")
    assert not caplog.records


@given(
    st.recursive(
        st.none(),
        lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
        max_leaves=30,
    )
)
@settings(max_examples=30, deadline=None)
def test_any_tree_goes(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object] | None
) -> None:
    top = tmp_path_factory.mktemp("any") / "tree"

    def make(path: Path, content: object) -> None:
        if isinstance(content, dict):
            path.mkdir()
            for name, inner in content.items():
                make(path / name, inner)
        else:
            path.touch()

    make(top, tree)
    remove_tree(top)
    assert not top.exists()


OWNER = """
import pathlib, sys
from qgjet.agent.cleanup import own_directory
with own_directory(pathlib.Path(sys.argv[1]), "agent-") as path:
    (path / "job-1").mkdir()
    print(path, flush=True)
    sys.stdin.read()
"""


async def test_directories_of_killed_processes_go_at_the_next_start_and_no_others(
    tmp_path: Path,
) -> None:
    def owner() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def path_of(process: subprocess.Popen[str]) -> Path:
        assert process.stdout is not None
        return Path(process.stdout.readline().strip())

    (older := tmp_path / "agent-of-an-older-version").mkdir()
    (tmp_path / "agent-link").symlink_to(older)
    with owner() as killed, owner() as lives:
        gone, stays = path_of(killed), path_of(lives)
        killed.kill()
        killed.wait()
        with own_directory(tmp_path, "agent-") as own:

            async def is_gone() -> bool:
                return not gone.exists()

            await eventually(is_gone, what="the directory of the killed process to be removed")
            remove_abandoned(tmp_path, "agent-")
            assert {path.name for path in tmp_path.iterdir()} == {
                own.name,
                stays.name,
                older.name,
                "agent-link",
            }
            assert (stays / "job-1").is_dir()
        assert not own.exists()
        lives.communicate("")
    assert not stays.exists()
