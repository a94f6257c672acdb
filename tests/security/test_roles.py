"""The roles of nats.conf: each against every subject there is. One server, as operators start it:
the shipped file, passwords from the environment.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from ops.commands import ROOT
from qgjet.jetstream.login import matches
from qgjet.jetstream.server import ROLES, NatsServer
from security.guarded import guarded_server, password_of

EVERYBODY = frozenset(ROLES)
OPERATOR = frozenset({"operator"})
SUBMITS = OPERATOR | {"submitter", "api"}
READS = OPERATOR | {"submitter", "projector", "api"}
AGENT = OPERATOR | {"agent"}
JANITOR = OPERATOR | {"janitor"}
BOTH = AGENT | JANITOR
JOB = "qg.job.acme.1%2E0.emulator.tests/a%2Espec%2Ejs"
LANE = "acme~1%2E0~emulator~p5"
LANE_FILTER = "qg.job.acme.1%2E0.emulator.*.*.p5"
OURS = ("QG_EVENTS", "QG_ADVISORIES", "QG_LOGS", "KV_qg-agents", "OBJ_qg-artifacts")
OTHERS = tuple(name for name in OURS if name != "QG_EVENTS")

PUBLISH: dict[str, frozenset[str]] = {
    # every event of a job, and two that would be the same with a rank too many or too few
    f"{JOB}.submitted.p5": SUBMITS,
    f"{JOB}.submitted": OPERATOR,
    f"{JOB}.requeued.p5": BOTH | SUBMITS,
    f"{JOB}.attached": SUBMITS,
    f"{JOB}.detached": SUBMITS | JANITOR,
    f"{JOB}.started": AGENT,
    f"{JOB}.attempt_ended": AGENT,
    f"{JOB}.released": AGENT,
    f"{JOB}.attempt_lost": BOTH,
    f"{JOB}.finished": BOTH,
    f"{JOB}.finished.p5": OPERATOR,
    f"{JOB}.cancelled": BOTH,
    f"{JOB}.cancel_requested": SUBMITS | JANITOR,
    f"{JOB}.unheard_of": OPERATOR,
    "qg.suite.acme.nightly.opened": SUBMITS | JANITOR,
    "qg.suite.acme.nightly.sealed": OPERATOR,
    "qg.control.target.emulator.paused": OPERATOR | {"api"},
    "qg.control.agent.host-1.drain": OPERATOR | {"api"},
    # beside the log
    "qg.bell.acme.1%2E0.emulator.p5": BOTH,
    "qg.log.6f1c.1": AGENT,
    "qg.log.room.0": AGENT | {"api"},
    "$KV.qg-agents.host-1": AGENT,
    "$O.qg-artifacts.C.0123": AGENT,
    "$O.qg-artifacts.M.bmFtZQ==": AGENT,
    "something.else": OPERATOR,
    # streams
    **{f"$JS.API.STREAM.INFO.{name}": EVERYBODY for name in OURS},
    "$JS.API.STREAM.NAMES": OPERATOR,
    "$JS.API.STREAM.LIST": OPERATOR,
    "$JS.API.INFO": OPERATOR,
    **{f"$JS.API.STREAM.CREATE.{name}": JANITOR for name in OURS},
    "$JS.API.STREAM.CREATE.ANOTHER": OPERATOR,
    "$JS.API.STREAM.UPDATE.QG_EVENTS": JANITOR,
    **{f"$JS.API.STREAM.UPDATE.{name}": OPERATOR for name in OTHERS},
    **{f"$JS.API.STREAM.DELETE.{name}": OPERATOR for name in OURS},
    "$JS.API.STREAM.PURGE.QG_EVENTS": JANITOR,
    "$JS.API.STREAM.PURGE.QG_LOGS": OPERATOR,
    "$JS.API.STREAM.PURGE.KV_qg-agents": OPERATOR,
    "$JS.API.STREAM.PURGE.OBJ_qg-artifacts": AGENT,
    **{
        f"$JS.API.STREAM.{verb}.QG_EVENTS": OPERATOR
        for verb in ("MSG.DELETE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE")
    },
    # reads
    "$JS.API.STREAM.MSG.GET.QG_EVENTS": EVERYBODY,
    "$JS.API.STREAM.MSG.GET.QG_ADVISORIES": JANITOR,
    "$JS.API.STREAM.MSG.GET.QG_LOGS": OPERATOR,
    "$JS.API.STREAM.MSG.GET.OBJ_qg-artifacts": READS | {"agent"},
    "$JS.API.DIRECT.GET.QG_EVENTS": EVERYBODY,
    "$JS.API.DIRECT.GET.QG_EVENTS.qg.control.target.emulator.paused": EVERYBODY - {"submitter"},
    "$JS.API.DIRECT.GET.QG_LOGS": OPERATOR | {"projector", "api"},
    "$JS.API.DIRECT.GET.KV_qg-agents": READS | {"janitor"},
    "$JS.API.DIRECT.GET.OBJ_qg-artifacts": READS,
    # consumers
    "$JS.API.CONSUMER.CREATE.QG_EVENTS": READS,
    f"$JS.API.CONSUMER.CREATE.QG_EVENTS.{LANE}.{LANE_FILTER}": BOTH,
    f"$JS.API.CONSUMER.CREATE.QG_EVENTS.{LANE}": OPERATOR,
    "$JS.API.CONSUMER.CREATE.QG_EVENTS.mine.qg.suite.>": OPERATOR,
    "$JS.API.CONSUMER.CREATE.QG_LOGS": OPERATOR,
    "$JS.API.CONSUMER.DURABLE.CREATE.QG_EVENTS.mine": OPERATOR,
    f"$JS.API.CONSUMER.MSG.NEXT.QG_EVENTS.{LANE}": READS | {"agent"},
    "$JS.API.CONSUMER.LIST.QG_EVENTS": BOTH,
    "$JS.API.CONSUMER.NAMES.QG_EVENTS": OPERATOR,
    f"$JS.API.CONSUMER.INFO.QG_EVENTS.{LANE}": BOTH,
    f"$JS.API.CONSUMER.DELETE.QG_EVENTS.{LANE}": JANITOR,
    f"$JS.API.CONSUMER.PAUSE.QG_EVENTS.{LANE}": OPERATOR,
    f"$JS.ACK.QG_EVENTS.{LANE}.1.2.3.4.0": AGENT,
    f"$JS.ACK._.hash.QG_EVENTS.{LANE}.1.2.3.4.0": AGENT,
    "$JS.ACK.QG_LOGS.any.1.2.3.4.0": OPERATOR,
    # what the server says, and the inboxes of others
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.QG_EVENTS.any": OPERATOR,
    "$SYS.REQ.USER.INFO": EVERYBODY,
    **{f"_INBOX_{role}.x": OPERATOR for role in ROLES},
    "_INBOX.x": OPERATOR,
}

SUBSCRIBE: dict[str, frozenset[str]] = {
    **{f"_INBOX_{role}.x.*": OPERATOR | {role} for role in ROLES},
    "_INBOX.x.*": OPERATOR,
    "*.>": OPERATOR,
    "qg.job.*.*.emulator.*.*.*": AGENT,
    "qg.job.>": OPERATOR,
    "qg.bell.*.*.emulator.*": AGENT,
    "qg.control.>": AGENT,
    "qg.suite.>": OPERATOR,
    "qg.log.>": OPERATOR,
    "$KV.qg-agents.>": OPERATOR,
    "$O.qg-artifacts.>": OPERATOR,
    "$JS.API.>": OPERATOR,
    "$JS.ACK.>": OPERATOR,
    "$JS.EVENT.ADVISORY.>": OPERATOR,
    ">": OPERATOR,
}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with guarded_server(tmp_path / "nats") as server:
        yield server


async def refusals(server: NatsServer, role: str) -> set[str]:
    """What the server refuses of everything in both tables, in lower case as nats-py tells it."""
    told: set[str] = set()

    async def error_cb(error: Exception) -> None:
        found = re.search(
            r'permissions violation for (publish|subscription) to "(.*?)"', str(error)
        )
        assert found is not None, error
        told.add(f"{found[1]} {found[2]}")

    login = {"user": role, "password": password_of(server, role), "inbox_prefix": f"_INBOX_{role}"}
    client = await nats.connect(server.url, error_cb=error_cb, allow_reconnect=False, **login)  # type: ignore[arg-type]
    try:
        for subject in PUBLISH:
            await client.publish(subject, b"{}")
        for subject in SUBSCRIBE:
            await client.subscribe(subject)
        for _ in range(
            2
        ):  # the server answers in order, but nats-py sends its ping before what waits to be sent
            await client.flush()
    finally:
        await client.close()
    return told


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_it_needs_and_nothing_else(guarded: NatsServer, role: str) -> None:
    expected = {
        f"publish {subject}".lower() for subject, roles in PUBLISH.items() if role not in roles
    }
    expected |= {
        f"subscription {subject}".lower()
        for subject, roles in SUBSCRIBE.items()
        if role not in roles
    }
    assert await refusals(guarded, role) == expected


def test_the_tables_know_every_subject_of_the_file() -> None:
    """A right that no test looks at is one too many."""
    text = re.sub(r"#.*", "", (ROOT / "nats.conf").read_text())
    patterns = set(re.findall(r'"([^"\s]*[.>][^"\s]*)"', text)) - {"1.3"}
    assert len(patterns) > 40
    known = [*PUBLISH, *SUBSCRIBE]
    assert [
        pattern for pattern in patterns if not any(matches(pattern, subject) for subject in known)
    ] == []


@pytest.mark.parametrize(
    "login",
    [
        {},
        {"user": "agent", "password": "wrong"},
        {"user": "agent", "password": ""},
        {"user": "nobody", "password": "p"},
    ],
)
async def test_nobody_gets_in_without_the_password(
    guarded: NatsServer, login: dict[str, str]
) -> None:
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await connected(guarded, **login)


async def test_embedded_mode_lets_everybody_in_on_loopback(server: NatsServer) -> None:
    assert server.url.startswith("nats://127.0.0.1:")
    await connected(server)
    with pytest.raises(
        nats.errors.Error, match="Authorization Violation"
    ):  # a wrong password is one there, too
        await connected(server, user="agent", password="wrong")


async def connected(server: NatsServer, **login: str) -> None:
    """Raises what nats-py does when the server does not let it in."""

    async def quiet(_: Exception) -> None:
        return

    client = nats.NATS()
    try:
        await client.connect(server.url, allow_reconnect=False, error_cb=quiet, **login)  # type: ignore[arg-type]
    finally:
        await client.close()
