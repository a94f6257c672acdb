"""The command line against an API that asks for tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from api.test_access import make_token
from cli.commandline import Cli, Inside, Work, api_of
from cli.test_over_http import JSON, answer, in_turn, problem, served
from qgjet.auth import token_file, tokens
from qgjet.auth.tokens import Scope
from qgjet.client.http import api_client
from qgjet.config.settings import Settings
from qgjet.errors import NeedsToken, NotAllowed
from qgjet.support.clock import utc_now
from qgjet_cli.exits import Exit, of_error

SUBMIT = ("submit", "--test", "tests/a.spec.js")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
async def api(api_settings: Settings, file: Path) -> AsyncIterator[str]:
    make_token(file)
    async with api_of(
        replace(api_settings, api=replace(api_settings.api, tokens_file=str(file)))
    ) as url:
        yield url


async def test_a_token_from_the_environment_or_a_file_is_sent_and_never_shown(
    over_api: Cli, file: Path, project: Path, work: Work
) -> None:
    token = make_token(file, Scope.SUBMIT, orgs=("qualgent",), name="ci")
    with_token = over_api.with_variables(QGJET_API_TOKEN=token)
    (project / "token").write_text(token + "\n")
    with_file = over_api.with_variables(QGJET_API_TOKEN_FILE="token")
    async with work():
        told = [
            await with_token("run", "--test", "tests/a.spec.js", "--json"),
            await with_file("logs", "nobody"),
        ]
        told.append(await with_token("doctor"))
    assert [one.code for one in told[:2]] == [0, 2], told[0].err
    assert "is ready" in told[2].out
    assert not [one for one in told if token in one.out + one.err]


async def test_without_a_good_token_it_says_what_to_do_and_ends_with_4(
    over_api: Cli, file: Path, project: Path
) -> None:
    for args in (SUBMIT, ("rerun", "x"), ("logs", "-f", "x")):
        ended = await over_api(*args)
        assert (ended.code, "asks for a token: set QGJET_API_TOKEN" in ended.error) == (4, True), (
            args
        )
    wrong = await over_api("list", QGJET_API_TOKEN="qgjet_wrong")
    assert (
        wrong.code,
        "does not accept the token of QGJET_API_TOKEN" in wrong.error,
        "qgjet_wrong" in wrong.err,
    ) == (4, True, False)
    doctor = await over_api("doctor")
    assert doctor.code == 4
    assert "a token is needed" in doctor.out


def test_a_token_that_cannot_be_one_is_refused_before_it_is_sent(
    inside: Inside, project: Path
) -> None:
    missing = inside("list", QGJET_API_TOKEN_FILE="nothing")
    assert (missing.code, missing.error) == (
        2,
        "Error: QGJET_API_TOKEN_FILE (api_token_file): nothing cannot be read: No such file or directory",
    )
    (project / "two").write_text("two lines\nof text")
    for variables in ({"QGJET_API_TOKEN_FILE": "two"}, {"QGJET_API_TOKEN": "a b"}):
        ended = inside("list", **variables)
        assert (ended.code, "must be printable ASCII" in ended.error, "of text" in ended.err) == (
            2,
            True,
            False,
        )


async def test_what_the_token_does_not_allow_is_a_refusal(over_api: Cli, file: Path) -> None:
    reader, foreign = make_token(file), make_token(file, Scope.SUBMIT, orgs=("globex",))
    for token, says in (
        (reader, "this needs a token with the scope submit"),
        (foreign, "this token is not for org 'qualgent'"),
    ):
        ended = await over_api(*SUBMIT, QGJET_API_TOKEN=token)
        assert (ended.code, says in ended.error) == (2, True)
    assert (await over_api("list", "--json", QGJET_API_TOKEN=reader)).json == []


async def test_a_wait_ends_when_its_token_does(over_api: Cli, file: Path) -> None:
    token = make_token(file, Scope.SUBMIT)
    cli = over_api.with_variables(QGJET_API_TOKEN=token)
    job_id = (await cli(*SUBMIT, "--json")).json["job_id"]
    async with cli.start("wait", job_id) as waiting:
        await waiting.says("queued")
        token_file.change(
            file, lambda before: tokens.revoked(before, token.split("_")[1], utc_now())
        )
        assert (
            await cli.with_variables(QGJET_API_TOKEN=make_token(file, Scope.SUBMIT))(
                "cancel", job_id
            )
        ).code == 0  # wakes the stream that waits
        ended = await waiting.ends()
    assert (ended.code, "does not accept the token" in ended.error) == (4, True)


@pytest.mark.parametrize(
    ("status", "kind", "code"), [(401, NeedsToken, Exit.UNREACHABLE), (403, NotAllowed, Exit.USAGE)]
)
async def test_a_refusal_for_the_token_is_not_tried_again(
    status: int, kind: type[NotAllowed], code: Exit
) -> None:
    async with served(in_turn((status, problem(status, "no", "scope")))) as (client, asked, _):
        with pytest.raises(kind) as raised:
            await client.job("1")
        with pytest.raises(kind):
            await client.cancel([], "x", "s") or await client.jobs({}, 1)
    assert (of_error(raised.value), len(asked)) == (code, 2)


async def test_the_token_goes_before_a_password_in_the_address_and_not_where_a_redirect_leads() -> (
    None
):
    asked: list[Any] = []

    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        answer(writer, 302, b"", JSON, Location=f"http://127.0.0.1:{port}/elsewhere")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        api_client(
            f"http://user:secret@127.0.0.1:{port}", token="qgjet_x", patience_s=1, notice=print
        ) as client,
    ):
        with pytest.raises(Exception, match="redirects to") as raised:
            await client.job("1")
    (head,) = asked
    assert b"Authorization: Bearer qgjet_x\r\n" in head
    assert "secret" not in str(raised.value)
    assert "qgjet_x" not in str(raised.value)
