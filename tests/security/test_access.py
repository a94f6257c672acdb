"""Logging in, being refused, and being let in again: what is said, how soon, and that no password
is ever shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

from agents import FAST, eventually
from factories import spec
from ops.commands import ROOT
from patience import patience
from qgjet.config.settings import NatsSettings
from qgjet.domain.subjects import LOGS, Lane
from qgjet.errors import InvalidSettings, NatsUnavailable, PermissionDenied
from qgjet.jetstream import direct_get
from qgjet.jetstream.connection import Connection, connect, open_connection
from qgjet.jetstream.login import matches
from qgjet.jetstream.server import NatsServer
from qgjet.store import agent_registry, streams
from qgjet.store.artifacts import ArtifactStore
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet.support.addresses import without_password
from security.guarded import guarded_server, login_of, password_of


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with guarded_server(tmp_path / "nats") as server:
        async with connect(
            server.url, name="test", login=login_of(server, "janitor")
        ) as connection:
            await streams.ensure(connection)
        yield server


def bus_as(server: NatsServer, role: str) -> Any:
    return connect(server.url, name="test", login=login_of(server, role))


# -- coming in -----------------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told_at_once_and_not_shown(guarded: NatsServer) -> None:
    async with asyncio.timeout(patience(5)):
        with pytest.raises(PermissionDenied, match="does not let user 'agent' in") as refused:
            await open_connection(
                guarded.url,
                name="test",
                login=NatsSettings(user="agent", password="pWRONG"),
                timeout_s=patience(60),
            )
    assert "pWRONG" not in str(refused.value)


async def test_who_brings_nothing_hears_what_to_set(guarded: NatsServer) -> None:
    with pytest.raises(PermissionDenied, match="QGJET_NATS_USER"):
        await open_connection(guarded.url, name="test")


async def test_a_user_and_password_in_the_address_are_enough_and_are_not_shown(
    guarded: NatsServer,
) -> None:
    secret = password_of(guarded, "submitter")
    async with connect(
        guarded.url.replace("//", f"//submitter:{secret}@"), name="test"
    ) as connection:
        assert (await connection.identity()).user == "submitter"
        assert connection.client.new_inbox().startswith("_INBOX_submitter.")
        assert secret not in connection.url


async def test_a_password_may_be_in_a_file_that_is_read_anew(
    guarded: NatsServer, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text(password_of(guarded, "agent") + "\n")
    async with connect(
        guarded.url, name="test", login=NatsSettings(user="agent", password_file=str(file))
    ) as connection:
        guarded.kill()
        guarded.logins["QGJET_NATS_AGENT_PASSWORD"] = "protated"
        file.write_text("protated")
        await guarded.start()
        await eventually(lambda: _is_connected(connection))


async def _is_connected(connection: Connection) -> bool:
    return connection.is_connected


@pytest.mark.parametrize(
    ("login", "field"),
    [
        (NatsSettings(password="p"), "nats.user"),
        (NatsSettings(user="agent", password="p", password_file="f"), "nats.password_file"),
        (NatsSettings(user="agent", password_file="/nowhere/at/all"), "nats.password_file"),
        (NatsSettings(user="agent", password_file="/dev/null"), "nats.password_file"),
        (NatsSettings(user="agent", nkey="/nowhere/at/all"), "nats.nkey"),
        (NatsSettings(user="agent", nkey=str(ROOT / "LICENSE")), "nats.nkey"),
        (NatsSettings(ca="/nowhere/at/all"), "nats.ca"),
        (NatsSettings(ca=str(ROOT / "LICENSE")), "nats.ca"),
        (NatsSettings(cert="/nowhere/at/all"), "nats.cert"),
        (NatsSettings(cert="/nowhere/at/all", key="/nowhere"), "nats.cert"),
    ],
)
async def test_a_login_that_cannot_be_used_is_told_by_its_key(
    server: NatsServer, login: NatsSettings, field: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        await open_connection(server.url, name="test", login=login)
    assert refused.value.field == field


async def test_an_nkey_logs_in_without_any_secret_on_the_server(tmp_path: Path) -> None:
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "agent.nk").write_bytes(seed)
    conf = (ROOT / "nats.conf").read_text()
    password = "      user: agent\n      password: $QGJET_NATS_AGENT_PASSWORD\n"
    assert password in conf
    (tmp_path / "nats.conf").write_text(
        conf.replace(password, "      nkey: $QGJET_NATS_AGENT_NKEY\n")
    )
    server = NatsServer(tmp_path / "nats", config=tmp_path / "nats.conf")
    server.logins |= {
        "QGJET_NATS_NO_AUTH_USER": "",
        "QGJET_NATS_AGENT_NKEY": nkeys.from_seed(bytearray(seed)).public_key.decode(),
    }
    await server.start()
    try:
        async with connect(
            server.url,
            name="test",
            login=NatsSettings(user="agent", nkey=str(tmp_path / "agent.nk")),
        ) as connection:
            assert await connection.may_publish("qg.log.1.1")
            assert not await connection.may_publish("qg.control.agent.1.drain")
    finally:
        server.stop()


# -- what is refused -----------------------------------------------------------------------------------------------------


Asked = Callable[[Connection], Awaitable[object]]
LANE = Lane(spec().partition, 5)
REFUSED: dict[str, tuple[str, Asked]] = {
    "a request": ("submitter", lambda connection: connection.api("STREAM.NAMES")),
    "an event": ("agent", lambda connection: EventLog(connection).submit(spec())),
    "a pull": ("janitor", lambda connection: Queue(connection, FAST).take(LANE, 5.0)),
    "the list of agents": (
        "agent",
        lambda connection: agent_registry.agents(connection, timeout_s=10),
    ),
    "a batch of messages": (
        "submitter",
        lambda connection: direct_get.messages(
            connection, LOGS, "qg.log.1.1", 0, batch=1, max_bytes=1
        ),
    ),
    "a tail": ("agent", lambda connection: _first(connection)),
    "a file": ("projector", lambda connection: _put(connection)),
}


async def _first(connection: Connection) -> None:
    async with EventLog(connection).tail(1) as batches:
        async for _ in batches:
            return


async def _put(connection: Connection) -> None:
    with (ROOT / "LICENSE").open("rb") as file:
        await ArtifactStore(connection).put("1/1/output.log", file)


@pytest.mark.parametrize("what", REFUSED)
async def test_what_a_role_may_not_do_fails_at_once_and_says_who_may_not_do_what(
    guarded: NatsServer, what: str
) -> None:
    role, ask = REFUSED[what]
    async with bus_as(guarded, role) as connection:
        with pytest.raises(
            PermissionDenied,
            match=rf"NATS user '{role}' may not publish to \S+: use a role that may",
        ):
            await ask(connection)
        assert (await connection.identity()).user == role  # the connection is as good as ever


async def test_answers_that_cannot_be_heard_are_told(guarded: NatsServer) -> None:
    login = NatsSettings(
        user="agent", password=password_of(guarded, "agent"), inbox_prefix="_INBOX_else"
    )
    async with connect(guarded.url, name="test", login=login) as connection:
        with pytest.raises(PermissionDenied, match=r"may not subscribe to _inbox_else\."):
            await EventLog(connection).state()


async def test_who_may_not_make_the_log_says_so_when_it_is_missing(tmp_path: Path) -> None:
    async with (
        guarded_server(tmp_path / "nats") as server,
        bus_as(server, "submitter") as connection,
    ):
        with pytest.raises(
            PermissionDenied,
            match=r"no stream QG_EVENTS at .* yet, and the NATS user 'submitter' may not make it: start the API first",
        ):
            await streams.ensure(connection)
    assert "Violation" not in server.log_file.read_text()  # it asked what it may do before it tried


# -- let in no more, and again -------------------------------------------------------------------------------------------


async def test_a_connection_outlasts_a_password_that_was_changed_and_changed_back(
    guarded: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    right = password_of(guarded, "agent")
    async with bus_as(guarded, "agent") as connection:
        for number, password in enumerate(("panother", right)):
            guarded.kill()
            guarded.logins["QGJET_NATS_AGENT_PASSWORD"] = password
            await guarded.start()
            if number == 0:
                with caplog.at_level(logging.WARNING):
                    await eventually(lambda: _tries(guarded, 3))
                    await eventually(lambda: _reason(connection, "does not let user 'agent' in"))
        await eventually(lambda: _is_connected(connection))
        assert (await connection.identity()).user == "agent"
    said = [record.message for record in caplog.records if "does not let" in record.message]
    assert len(said) == 1  # not at every try
    assert right not in caplog.text


async def _tries(server: NatsServer, times: int) -> bool:
    return server.log_file.read_text().count("authentication error") >= times


async def _reason(connection: Connection, text: str) -> bool:
    try:
        await connection.request("$SYS.REQ.USER.INFO", timeout_s=0.1)
    except NatsUnavailable as error:
        return text in str(error)
    return False


async def test_a_connection_outlasts_a_reload_that_forgets_its_user_and_knows_it_again(
    tmp_path: Path,
) -> None:
    conf = (ROOT / "nats.conf").read_text()
    (tmp_path / "nats.conf").write_text(conf)
    server = NatsServer(tmp_path / "nats", config=tmp_path / "nats.conf")
    server.logins["QGJET_NATS_NO_AUTH_USER"] = ""
    await server.start()
    try:
        async with bus_as(server, "agent") as connection:
            for text in (conf.replace("user: agent", "user: else"), conf):
                (tmp_path / "nats.conf").write_text(text)
                assert server.process is not None
                server.process.send_signal(1)  # SIGHUP
                expected = text == conf
                await eventually(lambda: _is_connected_is(connection, expected))  # noqa: B023
            assert (await connection.identity()).user == "agent"
    finally:
        server.stop()


async def test_a_connection_outlasts_a_server_that_says_why_it_hangs_up(
    connection: Connection,
) -> None:
    assert connection.client._transport is not None
    connection.client._transport.write(b"NONSENSE\r\n")

    async def back() -> bool:
        return connection.is_connected and connection.reconnects == 1

    await eventually(back)
    await connection.api("INFO")


async def _is_connected_is(connection: Connection, expected: bool) -> bool:
    return connection.is_connected is expected


# -- pure ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://host:4222", "nats://host:4222"),
        ("nats://user:secret@host:4222", "nats://host:4222"),
        ("user:secret@host", "host"),
        ("nats://a:secret@n1,tls://b:secret@n2:1,n3", "nats://n1,tls://n2:1,n3"),
        ("nats://user:secret/secret@host", "nats://host"),
        ("nats://user:secret@secret,secret@host", "nats://host"),
        ("nats://token-secret@host", "nats://host"),
    ],
)
def test_an_address_is_shown_without_what_logs_in(url: str, shown: str) -> None:
    assert without_password(url) == shown


async def test_an_address_that_is_none_is_not_shown_with_its_password() -> None:
    for url in (
        "nats://user:secret@:x",
        "nats://user:se/cret@host",
        "nats://host,nats://user:secret@",
    ):
        with pytest.raises(InvalidSettings) as refused:
            await open_connection(url, name="test")
        assert "se" not in str(refused.value).partition(": ")[2].partition("is not")[0], url


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("*", "a.b", False),
    ],
)
def test_patterns_match_as_those_of_the_server(pattern: str, subject: str, expected: bool) -> None:
    assert matches(pattern, subject) is expected
