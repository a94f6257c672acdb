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
from qgjet.embedded import config_file, server_binary

CONF = ROOT / "nats.conf"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["nats"]
EMBEDDED = {"QGJET_NATS_NAME": "qgjet-1", "QGJET_NATS_LISTEN": "127.0.0.1:-1", "QGJET_NATS_STORE": "/nowhere"}


@pytest.mark.parametrize("variables", [EMBEDDED, COMPOSE["environment"]], ids=["embedded", "compose"])
def test_the_server_accepts_it(variables: dict[str, str]) -> None:
    checked = subprocess.run([server_binary(), "-t", "-c", CONF], env=environment(**variables), capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_compose_fills_in_what_it_leaves_open() -> None:
    assert set(COMPOSE["environment"]) == set(re.findall(r"\$(\w+)", CONF.read_text()))


def test_compose_and_embedded_mode_use_it() -> None:
    assert config_file().samefile(CONF)
    mounted = dict(volume.split(":")[:2] for volume in COMPOSE["volumes"])
    assert mounted["./nats.conf"] == COMPOSE["command"][COMPOSE["command"].index("-c") + 1]
    assert mounted["nats-data"] == COMPOSE["environment"]["QGJET_NATS_STORE"]


def test_every_value_is_explained() -> None:
    lines = CONF.read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*\w+:", line) and "#" not in line and not before.strip().startswith("#") and "lame_duck" not in line
    ]
    assert not bare


async def test_the_health_check_of_compose_has_its_route(tmp_path: Path) -> None:
    """The server with the arguments of compose, on ports of its own."""
    arguments = [argument.replace("/etc/nats/qgjet.conf", str(CONF)) for argument in COMPOSE["command"]]
    arguments[arguments.index("-m") + 1] = "-1"
    variables = {**COMPOSE["environment"], "QGJET_NATS_LISTEN": "127.0.0.1:-1", "QGJET_NATS_STORE": str(tmp_path / "data")}
    log = tmp_path / "log"
    server = subprocess.Popen([server_binary(), *arguments, "-l", log], env=environment(**variables))  # noqa: ASYNC220
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
    finally:
        server.kill()
        server.wait()
