"""A server that is not what it says, and the command line: it ends with a line, writes nothing
elsewhere, and shows nothing that a terminal obeys.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgjet_cli.main import main
from security.mutations import DEEP, tampered
from surroundings import is_ours

AT = "2026-01-02T03:04:05Z"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n::error::x\u202e\x9b31m"
ATTEMPT = {
    "attempt": 1, "agent": "a", "device": HOSTILE, "warm": False, "started_at": AT, "ended_at": AT, "ended_by": "finished", "verdict": "failed", "reason": "r",
    "message": HOSTILE, "duration_s": 1.5, "tests": [{"id": "t", "title": HOSTILE, "outcome": "failed"}],
}  # fmt: skip
JOB: dict[str, Any] = {
    "job_id": "j" + HOSTILE, "org_id": "acme", "app_version_id": HOSTILE, "target": "emulator", "test": HOSTILE, "status": "failed", "verdict": "failed",
    "reason": "tests_failed", "message": HOSTILE, "priority": 5, "rank": 5, "seq": 3, "attempt": 1, "max_retries": 3, "retries_left": 3, "infra_retries": 3,
    "infra_retries_left": 3, "duration_s": 1.5, "created_at": AT, "started_at": AT, "finished_at": AT, "cancel_requested": False, "tags": {HOSTILE: HOSTILE},
    "suite_ids": [HOSTILE], "attempts": [ATTEMPT],
}  # fmt: skip
SUITE: dict[str, Any] = {
    "suite_id": HOSTILE, "status": "failed", "verdict": "failed", "total": 1, "live": 0, "verdicts": {"failed": 1}, "created_at": AT, "duration_s": 2.0,
    "tags": {"branch": HOSTILE},
}  # fmt: skip
EVIL = b"evil"
FILE = {
    "attempt": 1,
    "name": "../../" + HOSTILE,
    "content_type": HOSTILE,
    "size": 3,
    "sha256": hashlib.sha256(EVIL).hexdigest(),
    "note": HOSTILE,
}
PROBLEM = {"type": "urn:x", "title": "x", "status": 422, "detail": HOSTILE}
COMMANDS: list[tuple[list[str], Any]] = [
    (["status", "j"], JOB),
    (["status", "j"], PROBLEM),
    (["list"], {"jobs": [JOB], "next_cursor": None}),
    (["suites"], {"suites": [SUITE], "next_cursor": "more"}),
    (["suites", "s"], SUITE),
    (["artifacts", "j"], {"artifacts": [FILE]}),
    (
        ["artifacts", "j", "--download", "out"],
        {
            "artifacts": [
                FILE,
                FILE | {"name": "/tmp/x"},
                FILE | {"name": "link/x"},
                FILE | {"attempt": -1, "name": "..\\x"},
            ]
        },
    ),
    (["wait", "--timeout", "1s", "j"], JOB),
]


class Answering(http.server.ThreadingHTTPServer):
    """Gives one answer, whatever it is asked."""

    status, body = 200, b""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Answering
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = EVIL if "/artifacts/" in self.path else self.server.body
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def answering() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in [name for name in os.environ if is_ours(name)]:
        monkeypatch.delenv(name)
    with tempfile.TemporaryDirectory() as directory:
        inner = Path(directory) / "inner"
        (inner / "out" / "j" / "1").mkdir(parents=True)
        (inner / ".git").mkdir()
        (inner / "out" / "j" / "1" / "link").symlink_to(directory)
        monkeypatch.chdir(inner)
        yield Path(directory)


def files(place: Path) -> set[str]:
    """All but what a download may leave: those below its own directory."""
    return {
        str(path)
        for path in place.rglob("*")
        if not path.is_dir() and not path.is_relative_to(place / "inner" / "out")
    }


@settings(max_examples=settings().max_examples // 4, suppress_health_check=list(HealthCheck))
@given(command=st.sampled_from(COMMANDS), data=st.data())
def test_no_answer_brings_down_the_command_line_or_leads_it_elsewhere(
    command: tuple[list[str], Any],
    data: st.DataObject,
    answering: Answering,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: Any,
) -> None:
    argv, honest = command
    answering.body = data.draw(
        st.just(json.dumps(honest).encode())
        | tampered(honest)
        | st.sampled_from([b"", DEEP.encode(), b"null", b"[]"])
    )
    answering.status = 422 if honest is PROBLEM else 200
    check(argv, answering, place, monkeypatch, capsysbinary)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[0]))
def test_hostile_text_is_shown_escaped(
    command: tuple[list[str], Any],
    answering: Answering,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: Any,
) -> None:
    answering.body, answering.status = (
        json.dumps(command[1]).encode(),
        422 if command[1] is PROBLEM else 200,
    )
    assert check(command[0], answering, place, monkeypatch, capsysbinary).strip()


def check(
    argv: list[str],
    answering: Answering,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capture: Any,
) -> str:
    monkeypatch.setattr(
        sys, "argv", ["qgjet", *argv, "--api", f"http://127.0.0.1:{answering.server_address[1]}"]
    )
    before = files(place)
    with pytest.raises(SystemExit) as ended:
        main()
    text = "".join(stream.decode("utf-8", "replace") for stream in capture.readouterr())
    assert "defect" not in text, text
    assert not re.search(r"[^\n -~\u00a0-\u200f\u2010-\u2029\u2030-\U0010ffff]", text), repr(text)
    assert ended.value.code in (0, 1, 2, 3, 4, 6, 124)
    assert files(place) == before
    return text


@pytest.mark.parametrize(
    ("argv", "answer"),
    [
        (["status", "j"], {}),
        (["list"], {"jobs": [{}], "next_cursor": None}),
        (["suites"], {"suites": [{}]}),
        (["suites", "s"], {}),
    ],
)
def test_an_answer_without_what_is_needed_is_none_of_the_api(
    argv: list[str],
    answer: Any,
    answering: Answering,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: Any,
) -> None:
    answering.body, answering.status = json.dumps(answer).encode(), 200
    assert "is not qgjet's API, or too old" in check(
        argv, answering, place, monkeypatch, capsysbinary
    )
