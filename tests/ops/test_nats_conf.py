"""The one nats.conf: valid, explained, and used by everybody."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from agents import eventually
from ops.commands import ROOT, environment
from qgjet.config.loader import load_settings
from qgjet.config.settings import NatsSettings, Settings
from qgjet.errors import PermissionDenied
from qgjet.jetstream.connection import connect, open_connection
from qgjet.jetstream.server import ROLES, config_file, random_passwords, server_binary

CONF = ROOT / "nats.conf"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["nats"]
EMBEDDED = {
    "QGJET_NATS_NAME": "qgjet-1",
    "QGJET_NATS_LISTEN": "127.0.0.1:-1",
    "QGJET_NATS_STORE": "/nowhere",
    "QGJET_NATS_NO_AUTH_USER": "operator",
}
OPEN = set(re.findall(r"\$(QGJET_\w+)", re.sub(r"#.*", "", CONF.read_text())))
"""What the file leaves open."""


@pytest.mark.parametrize(
    "variables", [EMBEDDED, COMPOSE["environment"]], ids=["embedded", "compose"]
)
def test_the_server_accepts_it(variables: dict[str, str]) -> None:
    checked = check({**random_passwords(), **variables})
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("missing", sorted(OPEN))
def test_the_server_does_not_start_without_one_of_its_variables(missing: str) -> None:
    """A password that was forgotten must not become none."""
    checked = check(
        {name: text for name, text in {**random_passwords(), **EMBEDDED}.items() if name != missing}
    )
    assert checked.returncode != 0
    assert missing in checked.stderr


def check(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [server_binary(), "-t", "-c", CONF],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_is_no_secret_in_the_file() -> None:
    secrets = re.findall(r"(?:password|nkey|token):\s*(\S+)", CONF.read_text())
    assert secrets
    assert all(re.fullmatch(r"\$QGJET_NATS_\w+", secret.rstrip(",")) for secret in secrets)


@pytest.mark.parametrize("name", sorted(OPEN))
def test_what_it_reads_is_no_setting_of_a_client_but_for_the_password_of_the_janitor(
    name: str,
) -> None:
    is_setting = load_settings("", {name: "text"}) != Settings()
    assert is_setting is (name == "QGJET_NATS_JANITOR_PASSWORD")


def test_compose_fills_in_what_it_leaves_open() -> None:
    assert {
        name for name in COMPOSE["environment"] if name.startswith("QGJET_NATS_")
    } == OPEN - set(random_passwords())


def test_compose_and_embedded_mode_use_it() -> None:
    assert config_file().samefile(CONF)
    mounted = dict(volume.split(":")[:2] for volume in COMPOSE["volumes"])
    assert mounted["./nats.conf"] == COMPOSE["command"][COMPOSE["command"].index("-c") + 1]
    assert mounted["nats-data"] == COMPOSE["environment"]["QGJET_NATS_STORE"]


def test_every_value_is_explained() -> None:
    values, users = CONF.read_text().split("\nauthorization {\n")
    lines = (values + users.split("\n}\n", 1)[1]).splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*\w+:", line)
        and "#" not in line
        and not before.strip().startswith("#")
        and "lame_duck" not in line
    ]
    assert not bare


async def test_the_server_of_compose_is_healthy_and_lets_only_those_in_who_have_a_password(
    tmp_path: Path,
) -> None:
    """With its entry point, arguments and variables, on ports and directories of its own."""
    arguments = [
        argument.replace("/etc/nats/qgjet.conf", str(CONF)) for argument in COMPOSE["command"]
    ]
    arguments[arguments.index("-m") + 1] = "-1"
    variables = {
        **COMPOSE["environment"],
        "QGJET_NATS_LISTEN": "127.0.0.1:-1",
        "QGJET_NATS_STORE": str(tmp_path / "data"),
    }
    variables |= {
        name: str(tmp_path / directory.strip("/"))
        for name, directory in variables.items()
        if name.startswith("QGJET_SECRETS")
    }
    for name, directory in variables.items():
        if name.startswith("QGJET_SECRETS"):
            Path(directory).mkdir()
    log = tmp_path / "log"
    server = start(arguments, log, variables)
    try:

        async def monitoring() -> re.Match[str] | None:
            return re.search(r"http monitor on (\S+)", log.read_text() if log.exists() else "")

        found = await eventually(monitoring)
        assert found is not None
        route = COMPOSE["healthcheck"]["test"][-1].split(":8222", 1)[1]
        async with httpx.AsyncClient() as client:

            async def healthy() -> bool:
                return (await client.get(f"http://{found[1]}{route}")).json() == {"status": "ok"}

            await eventually(healthy)
        await only_with_passwords(log, Path(variables["QGJET_SECRETS"]))
        secrets = {
            file.name: file.read_text() for file in Path(variables["QGJET_SECRETS"]).iterdir()
        }
    finally:
        server.kill()
        server.wait()
    assert set(secrets) == set(ROLES)
    assert len(set(secrets.values())) == len(ROLES)
    assert [file.name for file in sorted(Path(variables["QGJET_SECRETS_AGENT"]).iterdir())] == [
        "agent"
    ]
    assert [file.name for file in sorted(Path(variables["QGJET_SECRETS_API"]).iterdir())] == [
        "api",
        "janitor",
    ]


def start(
    arguments: list[str | Path], log: Path, variables: dict[str, str]
) -> subprocess.Popen[bytes]:
    mounted = dict(reversed(volume.split(":")[:2]) for volume in COMPOSE["volumes"])
    program, script = COMPOSE["entrypoint"]
    paths = {"PATH": f"{server_binary().parent}:{environment()['PATH']}"}
    return subprocess.Popen(
        [program, ROOT / mounted[script], *arguments, "-l", log],
        env=environment(**variables, **paths),
    )


async def only_with_passwords(log: Path, secrets: Path) -> None:
    found = re.search(r"client connections on (\S+)", log.read_text())
    assert found is not None
    for role in ROLES:
        login = NatsSettings(user=role, password_file=str(secrets / role))
        async with connect(f"nats://{found[1]}", name="test", login=login) as connection:
            assert (await connection.identity()).user == role
    with pytest.raises(PermissionDenied):
        await open_connection(f"nats://{found[1]}", name="test")
