"""`qgjet token`, and the file that it shares with servers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from cli.commandline import Inside
from patience import patience
from qgjet.auth import token_file, tokens
from qgjet.auth.token_file import TokenStore
from qgjet.errors import InvalidSettings
from qgjet.support.clock import utc_now


def test_a_token_is_printed_once_and_only_its_hash_is_kept(inside: Inside, project: Path) -> None:
    made = inside(
        "token", "create", "--name", "ci", "--scope", "submit", "--org", "acme", "--expires", "90d"
    )
    assert made.code == 0
    text = made.out.strip()
    file = project / ".qgjet" / "tokens.json"
    (kept,) = token_file.read(file).values()
    assert tokens.find({kept.id: kept}, text) == kept
    assert (kept.name, kept.orgs, [str(scope) for scope in kept.scopes]) == (
        "ci",
        ("acme",),
        ["submit"],
    )
    assert kept.expires_at is not None
    assert timedelta(days=89) < kept.expires_at - utc_now() < timedelta(days=91)
    assert text not in file.read_text() + made.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    listed = inside("token", "list")
    assert kept.id in listed.out
    assert text not in listed.out + listed.err


def test_tokens_are_listed_and_revoked_as_json(inside: Inside) -> None:
    made = inside("token", "create", "--name", "a", "--org", "*", "--json").json
    assert made["token"].startswith(f"qgjet_{made['id']}_")
    assert (made["scopes"], made["orgs"], made["state"]) == (["read"], ["*"], "valid")
    assert inside("token", "revoke", made["id"], "--json").json["state"] == "revoked"
    (listed,) = inside("token", "list", "--json").json
    assert (listed["id"], listed["state"], "token" in listed, "sha256" in listed) == (
        made["id"],
        "revoked",
        False,
        False,
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("create", "--name", "", "--org", "a"), "--name: must be 1 to 64"),
        (("create", "--name", "a", "--org", ""), "--org: name 1 to 100"),
        (("create", "--name", "a", "--org", "a", "--expires", "soon"), "'soon' is not a duration"),
        (
            ("create", "--name", "a", "--org", "a", "--expires", "999999999d"),
            "--expires: is too far away",
        ),
        (("revoke", "nobody"), "there is none with the id 'nobody'"),
    ],
)
def test_what_cannot_be_done_is_said(inside: Inside, args: tuple[str, ...], says: str) -> None:
    ended = inside("token", *args)
    assert ended.code == 2
    assert says in ended.error


def test_the_first_start_of_a_deployment_makes_one_token_and_later_ones_leave_it(
    inside: Inside, project: Path
) -> None:
    first = ("token", "create", "--name", "first", "--org", "*", "--once", "--out", "token")
    made = inside(*first)
    out = project / "token"
    assert (made.code, made.out) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    text = out.read_text()
    assert inside(*first).code == 0
    assert out.read_text() == text
    out.unlink()
    assert inside(*first).code == 0
    assert out.read_text() not in ("", text)
    assert len(inside("token", "list", "--json").json) == 2


def test_a_line_for_the_environment_is_accepted_by_the_server(
    inside: Inside, project: Path
) -> None:
    made = inside("token", "create", "--name", "a", "--org", "acme", "--env", "--json").json
    name, _, value = made["environment"].partition("=")
    assert name == "QGJET_API_TOKENS"
    assert not (project / ".qgjet").exists()
    assert tokens.find(TokenStore(project / "none", value).tokens, made["token"]) is not None


def test_commands_at_the_same_time_lose_no_token(project: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("qgjet")),
        "token",
        "create",
        "--org",
        "a",
        "--file",
        "t.json",
        "--name",
    ]
    processes = [
        subprocess.Popen(
            [*command, str(n)], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for n in range(4)
    ]
    assert [process.wait(timeout=patience(30)) for process in processes] == [0] * 4
    assert {one.name for one in token_file.read(project / "t.json").values()} == {
        str(n) for n in range(4)
    }
    assert sorted(path.name for path in project.iterdir() if path.is_file()) == [
        "t.json",
        "t.json.lock",
    ]


@pytest.mark.parametrize(
    ("text", "mode"),
    [("{", 0o600), ('{"tokens": [{"id": "x"}]}', 0o600), ('{"tokens": []}', 0o620)],
)
def test_a_file_that_is_damaged_or_open_to_others_is_refused_and_left_alone(
    inside: Inside, project: Path, text: str, mode: int
) -> None:
    file = project / "t.json"
    file.write_text(text)
    file.chmod(mode)
    for command in (("list",), ("create", "--name", "a", "--org", "a")):
        ended = inside("token", *command, "--file", "t.json")
        assert ended.code == 2
        assert "api.tokens_file" in ended.error
    assert file.read_text() == text


def test_a_server_reads_the_file_again_when_it_has_changed(
    inside: Inside, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = project / "t.json"
    keyring = TokenStore(file)
    assert (dict(keyring.tokens), keyring.had_any) == ({}, False)
    made = inside("token", "create", "--name", "a", "--org", "a", "--file", "t.json", "--json").json
    assert set(keyring.tokens) == {made["id"]}
    good = file.read_text()
    file.write_text(good[:-9])
    assert set(keyring.tokens) == {made["id"]}
    assert "the tokens stay as they were" in caplog.text
    os.truncate(file, 0)
    assert (dict(keyring.tokens), keyring.had_any) == ({}, True)
    file.write_text(json.dumps(json.loads(good)))
    assert set(keyring.tokens) == {made["id"]}
    with pytest.raises(InvalidSettings, match=r"api\.tokens"):
        TokenStore(file, "nonsense")


@pytest.mark.parametrize("command", ["serve", "up"])
def test_an_api_with_configured_tokens_starts_only_with_tokens(
    inside: Inside, project: Path, tmp_path: Path, command: str
) -> None:
    config = tmp_path / "a" / "qgjet.toml"
    config.parent.mkdir()
    config.write_text('[api]\ntokens_file = "tokens.json"\nport = 0\n')
    file = config.parent / "tokens.json"
    for content, says in ((None, "does not exist"), ("{}", "has no tokens")):
        if content:
            file.write_text(content)
        ended = inside(command, "--config", str(config))
        assert ended.code == 2
        assert ended.error.startswith(
            f"Error: api.tokens_file: {file} {says}, so the API could ask for none."
        )


def test_an_api_does_not_leave_out_the_tokens_of_an_older_version(
    inside: Inside, project: Path, tmp_path: Path
) -> None:
    config = tmp_path / "a" / "qgjet.toml"
    config.parent.mkdir()
    config.write_text("")
    assert inside("token", "create", "--name", "a", "--org", "a").code == 0
    ended = inside("serve", "--config", str(config), "--port", "0")
    assert ended.code == 2
    assert ended.error.startswith(
        f"Error: api.tokens_file: {project / '.qgjet/tokens.json'} is not beside the settings"
    )
