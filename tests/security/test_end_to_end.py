"""Jobs from submission to report, with every process as the NATS user of its role and nobody as
more; then the same over mutual TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trustme
from msgspec.structs import replace

from agents import FAST, eventually
from cli.commandline import Cli, Ended, Running, api_of
from factories import spec
from patience import patience
from qgjet.config.settings import ApiSettings, Login, NatsSettings, Settings
from qgjet.errors import PermissionDenied
from qgjet.jetstream.connection import connect, open_connection
from qgjet.jetstream.server import NatsServer
from qgjet.store import streams
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet_cli.doctor.server import look_at_server
from qgjet_projections.serving.local_stack import LocalStack
from security.guarded import guarded_server, login_of, password_of, variables_of

JOB = {"QGJET_ORG_ID": "acme", "QGJET_APP_VERSION_ID": "1.0", "QGJET_TARGET": "emulator"}
PROJECT = """
[api]
port = 0
[queue]
visibility_timeout = "2s"
[artifacts]
collect = "always"
[targets.emulator]
runner = "command"
command = ["sh", "-c", "echo it says hello; case $1 in *slow*) sleep 60;; esac", "sh", "{test}"]
slots = 2
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    (directory / "tests").mkdir(parents=True)
    (directory / ".git").mkdir()
    (directory / "qgjet.toml").write_text(PROJECT)
    for name in ("a", "b", "slow"):
        (directory / "tests" / f"{name}.spec.js").touch()
    return directory


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with guarded_server(tmp_path / "nats") as server:
        yield server


class House:
    """The processes of one deployment, each with the login of its role."""

    def __init__(self, project: Path, server: NatsServer, url: str, **variables: str) -> None:
        self.project = project
        self.server = server
        self._cli = Cli(project, QGJET_NATS_URL=url, **JOB, **variables)

    def as_(self, role: str, **variables: str) -> Cli:
        return self._cli.with_variables(**variables_of(self.server, role) | variables)

    def api(self) -> contextlib.AbstractAsyncContextManager[Running]:
        return self.as_("api", **variables_of(self.server, "janitor", "QGJET_NATS_JANITOR")).start(
            "serve"
        )

    def agent(self) -> contextlib.AbstractAsyncContextManager[Running]:
        return self.as_("agent").start("agent")


async def url_of(api: Running) -> str:
    found = re.search(r"API on (\S+),", await api.says("API on"))
    assert found is not None
    return found[1]


def violations(server: NatsServer) -> list[str]:
    return [
        line
        for line in server.log_file.read_text().splitlines()
        if "iolation" in line or "authentication error" in line
    ]


async def runs(house: House, agent: Running, api: httpx.AsyncClient) -> None:
    """Submitted and followed straight to NATS, run, output and files read in both ways."""
    await agent.says("serves emulator")
    ended = await house.as_("submitter")(
        "run",
        "--test",
        "tests/[ab].spec.js",
        "--artifacts-dir",
        "files",
        "--artifacts",
        "always",
        "--json",
    )
    assert ended.code == 0, ended.err
    job = ended.json["jobs"][0]["job_id"]
    (file,) = (house.project / "files" / job).rglob("output.log")
    assert "it says hello" in file.read_text()
    assert "it says hello" in (await api.get(f"/jobs/{job}/log")).text


async def is_cancelled(house: House, api: httpx.AsyncClient) -> None:
    job = await submitted(house.as_("submitter"), "tests/slow.spec.js")
    await is_now(api, job, "running")

    async def says_hello() -> bool:
        return "it says hello" in (await api.get(f"/jobs/{job}/log")).text

    await eventually(says_hello)  # live
    assert (await api.post(f"/jobs/{job}/cancel")).is_success
    await is_now(api, job, "cancelled")


async def expires(house: House, api: httpx.AsyncClient) -> None:
    """Nobody serves the target: only the janitor can end it."""
    body = {
        "org_id": "acme",
        "app_version_id": "1.0",
        "target": "nowhere",
        "test": "tests/a.spec.js",
        "queue_timeout": "500ms",
    }
    answer = await api.post("/submit", json=body)
    assert answer.is_success, answer.text
    await is_now(api, answer.json()["job_id"], "failed")


async def is_now(api: httpx.AsyncClient, job: str, status: str) -> None:
    async def ask() -> bool:
        return (await api.get(f"/status/{job}")).json().get("status") == status

    await eventually(ask, what=f"{job} is {status}")


async def submitted(cli: Cli, test: str) -> str:
    ended: Ended = await cli("submit", "--test", test, "--json")
    assert ended.code == 0, ended.err
    job_id: str = ended.json["job_id"]
    return job_id


async def test_every_process_does_its_work_with_the_rights_of_its_role(
    project: Path, guarded: NatsServer
) -> None:
    """The agent may not make the log: it waits for the API, whose janitor may. Nobody is refused
    anything.
    """
    house = House(project, guarded, guarded.url)
    async with house.agent() as agent:
        await agent.says("no stream QG_EVENTS", "waiting for it")
        async with house.api() as serving, httpx.AsyncClient(base_url=await url_of(serving)) as api:
            await runs(house, agent, api)
            await is_cancelled(house, api)
            await expires(house, api)
    assert violations(guarded) == []


async def test_a_replica_without_janitor_does_with_the_rights_of_the_api(
    guarded: NatsServer, tmp_path: Path
) -> None:
    await with_streams(guarded)
    async with (
        api_of(of_api(guarded, tmp_path / "read.sqlite", janitor=False)) as url,
        httpx.AsyncClient(base_url=url) as api,
    ):
        await eventually(lambda: is_ready(api))
        body = {
            "org_id": "acme",
            "app_version_id": "1.0",
            "target": "emulator",
            "test": "tests/a.spec.js",
        }
        assert (await api.post("/submit", json=body)).is_success
    assert violations(guarded) == []


async def test_a_projector_serves_all_reads_and_says_what_it_may_not_do(
    guarded: NatsServer, tmp_path: Path
) -> None:
    await with_streams(guarded)
    async with connect(
        guarded.url, name="test", login=login_of(guarded, "submitter")
    ) as connection:
        accepted = await EventLog(connection).submit(spec())
    settings = replace(
        of_api(guarded, tmp_path / "read.sqlite", janitor=False),
        nats=login_of(guarded, "projector"),
    )
    async with api_of(settings) as url, httpx.AsyncClient(base_url=url) as api:
        await is_now(api, accepted.job_id, "queued")
        for route in (
            "/readyz",
            "/agents",
            "/partitions",
            "/metrics",
            f"/jobs/{accepted.job_id}/log",
            f"/jobs/{accepted.job_id}/artifacts",
        ):
            assert (await api.get(route)).is_success, route
        assert violations(guarded) == []
        refused = await api.post(
            "/submit",
            json={
                "org_id": "acme",
                "app_version_id": "1.0",
                "target": "emulator",
                "test": "tests/a.spec.js",
            },
        )
        assert refused.status_code == 503
        assert "user 'projector' may not publish to qg.job.acme" in refused.json()["detail"]


async def test_an_api_that_may_not_make_the_log_says_so_and_goes_on_when_it_is_there(
    guarded: NatsServer, tmp_path: Path
) -> None:
    async with (
        api_of(of_api(guarded, tmp_path / "read.sqlite", janitor=False)) as url,
        httpx.AsyncClient(base_url=url) as api,
    ):
        answer = await api.get("/readyz")
        assert answer.status_code == 503
        assert "no stream QG_EVENTS" in answer.text
        assert "start the API first" in answer.text
        await with_streams(guarded)
        await eventually(lambda: is_ready(api))


async def test_an_api_that_is_not_let_in_says_so_without_the_password_of_its_address(
    guarded: NatsServer, tmp_path: Path
) -> None:
    url = guarded.url.replace("//", "//api:pWRONG@")
    settings = replace(of_api(guarded, tmp_path / "read.sqlite"), nats_url=url, nats=NatsSettings())
    async with api_of(settings) as url, httpx.AsyncClient(base_url=url) as api:

        async def says_why() -> bool:
            answer = await api.get("/readyz")
            assert answer.status_code == 503
            assert "pWRONG" not in answer.text
            return "does not let user 'api' in" in answer.text

        await eventually(says_why)


def of_api(server: NatsServer, database: Path, *, janitor: bool = True) -> Settings:
    login = replace(login_of(server, "api"), janitor=Login(password=password_of(server, "janitor")))
    return Settings(
        nats_url=server.url,
        nats=login,
        queue=FAST,
        api=ApiSettings(port=0, database=str(database), janitor=janitor),
    )


async def is_ready(api: httpx.AsyncClient) -> bool:
    return (await api.get("/readyz")).is_success


@pytest.mark.parametrize(
    "command",
    [("submit", "--test", "tests/a.spec.js"), ("agent",), ("doctor",)],
    ids=lambda command: command[0],
)
async def test_a_command_with_a_wrong_password_ends_with_4_says_why_and_shows_no_password(
    project: Path, guarded: NatsServer, command: tuple[str, ...]
) -> None:
    cli = House(project, guarded, guarded.url).as_("agent", QGJET_NATS_PASSWORD="pWRONG")
    ended = await cli(*command)
    assert ended.code == 4
    assert "does not let user 'agent' in" in ended.err + ended.out
    assert "pWRONG" not in ended.err + ended.out


async def test_a_command_of_the_wrong_role_ends_with_4_and_says_what_it_may_not_do(
    project: Path, guarded: NatsServer
) -> None:
    await with_streams(guarded)
    ended = await House(project, guarded, guarded.url).as_("projector")(
        "submit", "--test", "tests/a.spec.js"
    )
    assert ended.code == 4
    assert (
        "user 'projector' may not publish to qg.job.acme.1%2E0.emulator.tests/a%2Espec%2Ejs.submitted.p5"
        in ended.err
    )


async def test_doctor_says_who_it_is_and_what_it_may_not_look_at(guarded: NatsServer) -> None:
    await with_streams(guarded)
    checks = {
        check.about: check
        for check in await look_at_server(
            Settings(nats_url=guarded.url, nats=login_of(guarded, "submitter"))
        )
    }
    assert checks["NATS server"].found.endswith(", as submitter")
    assert "may not look at it" in checks["queue"].found
    assert password_of(guarded, "submitter") not in str(checks)
    assert violations(guarded) == []


async def with_streams(server: NatsServer) -> None:
    async with connect(server.url, name="test", login=login_of(server, "janitor")) as connection:
        await streams.ensure(connection)


async def test_an_embedded_server_is_not_sent_the_login_of_another(tmp_path: Path) -> None:
    settings = Settings(
        nats=NatsSettings(user="agent", password="pWRONG", janitor=Login(password="pWRONG"))
    )
    async with (
        LocalStack(settings, data_dir=tmp_path / "data", with_agent=False) as stack,
        httpx.AsyncClient(base_url=stack.api_url) as api,
    ):
        await eventually(lambda: is_ready(api))


# -- TLS -----------------------------------------------------------------------------------------------------------------


class Certificates:
    """Of one authority for the server and for clients; and of a stranger."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        authority, stranger = trustme.CA(), trustme.CA()
        self.ca, self.strangers_ca = str(directory / "ca.crt"), str(directory / "stranger.crt")
        authority.cert_pem.write_to_path(self.ca)
        stranger.cert_pem.write_to_path(self.strangers_ca)
        self.server = _pair(directory, "server", authority)
        self.client = _pair(directory, "client", authority)
        self.stranger = _pair(directory, "other", stranger)

    @property
    def flags(self) -> list[str]:
        """As nats-server takes them, next to the shipped file."""
        return [
            "--tls",
            "--tlscert",
            self.server[0],
            "--tlskey",
            self.server[1],
            "--tlsverify",
            "--tlscacert",
            self.ca,
        ]


def _pair(directory: Path, name: str, authority: trustme.CA) -> tuple[str, str]:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = str(directory / f"{name}.crt"), str(directory / f"{name}.key")
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    return cert, key


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "certificates")


@pytest.fixture
async def encrypted(tmp_path: Path, certificates: Certificates) -> AsyncIterator[NatsServer]:
    async with guarded_server(tmp_path / "nats", flags=certificates.flags) as server:
        yield server


def tls(server: NatsServer) -> str:
    return server.url.replace("nats://", "tls://")


async def test_every_process_does_its_work_over_mutual_tls(
    project: Path, encrypted: NatsServer, certificates: Certificates
) -> None:
    cert, key = certificates.client
    house = House(
        project,
        encrypted,
        tls(encrypted),
        QGJET_NATS_CA=certificates.ca,
        QGJET_NATS_CERT=cert,
        QGJET_NATS_KEY=key,
    )
    async with (
        house.api() as serving,
        httpx.AsyncClient(base_url=await url_of(serving)) as api,
        house.agent() as agent,
    ):
        await runs(house, agent, api)
    assert violations(encrypted) == []


async def test_a_client_without_a_certificate_of_the_authority_is_refused(
    encrypted: NatsServer, certificates: Certificates
) -> None:
    password = password_of(encrypted, "agent")
    for cert, key in (("", ""), certificates.stranger):
        with pytest.raises(PermissionDenied, match="wants a certificate that it trusts"):
            await open_connection(
                tls(encrypted),
                name="test",
                login=NatsSettings(
                    user="agent", password=password, ca=certificates.ca, cert=cert, key=key
                ),
            )


async def test_a_certificate_does_not_stand_for_a_password(
    encrypted: NatsServer, certificates: Certificates
) -> None:
    cert, key = certificates.client
    with pytest.raises(PermissionDenied, match="wants to know who is there"):
        await open_connection(
            tls(encrypted), name="test", login=NatsSettings(ca=certificates.ca, cert=cert, key=key)
        )


async def test_a_server_that_cannot_show_who_it_is_gets_no_password(
    encrypted: NatsServer, certificates: Certificates
) -> None:
    cert, key = certificates.client
    with pytest.raises(
        PermissionDenied, match=r"certificate of the NATS server .* is not trusted .* set nats\.ca"
    ):
        await open_connection(
            tls(encrypted),
            name="test",
            login=NatsSettings(
                user="a", password="p", ca=certificates.strangers_ca, cert=cert, key=key
            ),
        )


@pytest.mark.parametrize("how", ["an address", "an authority"])
async def test_a_server_without_tls_gets_no_password_when_tls_was_asked_for(
    guarded: NatsServer, certificates: Certificates, how: str
) -> None:
    ca, url = ("", tls(guarded)) if how == "an address" else (certificates.ca, guarded.url)
    with pytest.raises(PermissionDenied, match="does not speak TLS: no password was sent"):
        await open_connection(
            url,
            name="test",
            login=NatsSettings(user="agent", password=password_of(guarded, "agent"), ca=ca),
        )


async def test_who_knows_nothing_of_tls_hears_what_to_set(encrypted: NatsServer) -> None:
    with pytest.raises(PermissionDenied, match=r"is not trusted .* set nats\.ca"):
        await open_connection(encrypted.url, name="test", login=login_of(encrypted, "agent"))


async def test_a_connection_over_tls_comes_back_to_a_server_that_it_trusts_and_to_no_other(
    encrypted: NatsServer, certificates: Certificates
) -> None:
    cert, key = certificates.client
    login = NatsSettings(
        user="operator",
        password=password_of(encrypted, "operator"),
        ca=certificates.ca,
        cert=cert,
        key=key,
    )
    async with connect(tls(encrypted), name="test", login=login) as connection:
        stop = await Queue(connection, FAST).listen("emulator", ignored)
        await restart(encrypted, certificates.stranger)

        async def is_not_trusted() -> bool:
            return "is not trusted" in connection.why

        await eventually(is_not_trusted)
        await stop()  # no harm is done in between
        await restart(encrypted, certificates.server)

        async def back() -> bool:
            return connection.is_connected and connection.reconnects > 0

        await eventually(back)
        assert await connection.api("INFO")
        await restart(encrypted, certificates.stranger)
        await eventually(is_not_trusted)
        async with asyncio.timeout(patience(5)):
            await connection.close()


async def restart(server: NatsServer, certificate: tuple[str, str]) -> None:
    server.kill()
    flags = list(server.flags)
    flags[flags.index("--tlscert") + 1], flags[flags.index("--tlskey") + 1] = certificate
    server.flags = flags
    await server.start()


async def ignored(_: object) -> None:
    return
