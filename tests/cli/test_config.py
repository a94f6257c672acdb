"""Where settings are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.commandline import Inside
from qgjet.config import files
from qgjet.errors import InvalidSettings


def test_the_nearest_file_up_to_the_root_of_the_repository_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "qgjet.toml").write_text('org_id = "outside"')
    monkeypatch.chdir(inner)
    assert files.load(environ={}).org_id == "outside"
    (tmp_path / "repo" / ".git").mkdir()
    assert files.load(environ={}).org_id == ""
    (tmp_path / "repo" / "qgjet.toml").write_text('org_id = "repo"')
    assert files.load(environ={}).org_id == "repo"
    assert files.load(environ={"QGJET_CONFIG": str(tmp_path / "qgjet.toml")}).org_id == "outside"
    assert (
        files.load(tmp_path / "qgjet.toml", environ={"QGJET_CONFIG": "nowhere"}).org_id == "outside"
    )


def test_directories_of_targets_count_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    (tmp_path / "qgjet.toml").write_text(
        '[targets.a]\n[targets.b]\ndir = "apps/b"\n[targets.c]\ndir = "/c"\n'
    )
    settings = files.load(environ={})
    assert [Path(settings.targets[name].dir) for name in "abc"] == [
        tmp_path,
        tmp_path / "apps/b",
        Path("/c"),
    ]


def test_paths_count_from_what_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, elsewhere = tmp_path / "a" / "qgjet.toml", tmp_path / "b"
    file.parent.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file.write_text(
        'api_token_file = "t"\n[api]\ndatabase = "r.sqlite"\ntokens_file = "tokens.json"\n[agent]\nwork_dir = "w"\n'
        '[nats]\nca = "ca.pem"\nnkey = "~/seed"\n[nats.janitor]\npassword_file = "p"\n[targets.x]\n'
    )
    found = files.load(file, environ={})
    paths = (
        found.api_token_file,
        found.api.database,
        found.api.tokens_file,
        found.agent.work_dir,
        found.nats.ca,
        found.nats.janitor.password_file,
    )
    assert [Path(path) for path in paths] == [
        file.parent / name for name in ("t", "r.sqlite", "tokens.json", "w", "ca.pem", "p")
    ]
    assert Path(found.nats.nkey) == Path.home() / "seed"
    variables = {
        "QGJET_API_TOKENS_FILE": ".qgjet/tokens.json",
        "QGJET_TARGETS_X_DIR": "x",
        "QGJET_AGENT_WORK_DIR": "w",
    }
    found = files.load(file, {"api.database": "r.sqlite"}, variables)
    paths = (
        found.api.tokens_file,
        found.targets["x"].dir,
        found.agent.work_dir,
        found.api.database,
    )
    assert [Path(path).absolute() for path in paths] == [
        elsewhere / name for name in (".qgjet/tokens.json", "x", "w", "r.sqlite")
    ]
    file.write_text("")
    found = files.load(file, environ={})
    assert (found.api.database, found.api.tokens_file) == (
        str(file.parent / ".qgjet/read-model.sqlite"),
        str(file.parent / ".qgjet/tokens.json"),
    )


@pytest.mark.parametrize(
    "content",
    [
        b"org_id = ",
        b"\xff\xfe",
        b"queue = 3",
        b"unknown = 1",
        b'targets = "x"',
        b"[targets]\na = 1",
        b'[job]\npriority = "high"',
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "qgjet.toml").write_bytes(content)
    for environ in ({}, {"QGJET_QUEUE_REPLICAS": "1", "QGJET_TARGETS_A_SLOTS": "1"}):
        with pytest.raises(InvalidSettings):
            files.load(tmp_path / "qgjet.toml", environ=environ)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_bytes(b'\xef\xbb\xbforg_id = "x"')
    assert files.load(tmp_path / "q.toml", environ={}).org_id == "x"


def test_a_file_of_somebody_else_above_is_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "qgjet.toml").write_text('org_id = "evil"')
    if (
        os.getuid() == 0
    ):  # only root can give a file away; anybody can be somebody else for a moment
        os.chown(tmp_path / "qgjet.toml", 12345, 12345)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(InvalidSettings, match="belongs to another user"):
        files.load(environ={})
    monkeypatch.chdir(tmp_path)
    assert files.load(environ={}).org_id == "evil"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("org_id = ", " is not valid TOML: "),
        ("# targets\n[target.web]", "2: unknown table [target.web]. Did you mean [targets.web]?"),
        ("[queue]\nreplica = 1", "2: queue: unknown key `replica`. Did you mean `replicas`?"),
        ("org_id = 5", "1: org_id: must be text, not a whole number"),
        ("[agent]\npoll = 0", "2: agent.poll: must be at least 100ms"),
        ("[agent]\n# often\n\nslots = 1\npoll = 'soon'", "5: agent.poll: 'soon' is not a duration"),
        (
            "[job]\npriority = 5\n\n[targets.\"a.b\"]\nrunner = 'scripted'\nslots = 0",
            "6: targets.a.b.slots: must be at least 1",
        ),
        ("[targets.web]\nrunner = 'command'", "1: targets.web.command: is needed"),
        (
            "[api]\ncors_origins = [\n  'https://a.example',\n  'b',\n]",
            "2: api.cors_origins: 'b' is not an origin",
        ),
        ("[verdicts]\nconfig = []\ninfra = ['(']", "3: verdicts.infra"),
        ("nats.janitor.usr = 'a'", "1: nats.janitor: unknown key `usr`. Did you mean `user`?"),
    ],
)
def test_an_error_in_a_file_names_the_file_and_the_line(
    tmp_path: Path, inside: Inside, content: str, message: str
) -> None:
    file = tmp_path / "other.toml"
    file.write_text(content)
    ended = inside("list", "--config", str(file), QGJET_AGENT_SLOTS="2")
    assert ended.code == 2
    assert ended.error.startswith(f"Error: {file}:{message}")


def test_an_error_in_a_variable_names_the_variable(tmp_path: Path, inside: Inside) -> None:
    file = tmp_path / "qgjet.toml"
    file.write_text("[targets.pixel-7]\nrunner = 'scripted'\n[agent]\npoll = 5\n")
    ended = inside("list", "--config", str(file), QGJET_AGENT_POLL="0")
    assert (ended.code, ended.error) == (2, "Error: QGJET_AGENT_POLL: must be at least 100ms")
    ended = inside(
        "list", "--config", str(file), QGJET_AGENT_POLL="5", QGJET_TARGETS_PIXEL_7_SLOTS="many"
    )
    assert (ended.code, ended.error) == (
        2,
        "Error: QGJET_TARGETS_PIXEL_7_SLOTS: must be a whole number, not text",
    )
    ended = inside(
        "list", "--config", str(file), QGJET_TARGETS_PIXEL_7_SLOTS="1", QGJET_AGENT_TARGETS="["
    )
    assert (ended.code, ended.error.partition(": must")[0]) == (2, "Error: QGJET_AGENT_TARGETS")
