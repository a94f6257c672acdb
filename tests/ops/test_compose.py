"""docker-compose.yml and the Dockerfile, as far as they can be proven without an engine: whatever
they name is there and is understood.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from litestar import Litestar

from agents import eventually
from ops.commands import ROOT, qgjet, qgjet_ends
from ops.parsing import parse
from qgjet.auth import token_file, tokens
from qgjet.config.loader import load_settings
from qgjet.config.settings import ApiSettings, Settings
from qgjet.jetstream.connection import SERVER_CEILING, SERVER_FLOOR, parse_version
from qgjet.jetstream.server import NatsServer
from qgjet_cli.main import main
from qgjet_projections.api.access import access_of
from qgjet_projections.serving.app import create_app
from security.guarded import guarded_server, password_of

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("qg-api", "qg-worker")
FIRST = SERVICES["qg-token"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def stages() -> dict[str, list[list[str]]]:
    """Stage -> its instructions, split into words; lines that a backslash joins are one."""
    found: dict[str, list[list[str]]] = {}
    stage = ""
    for line in DOCKERFILE.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == "FROM":
            stage = words[-1]
        found.setdefault(stage, []).append(words)
    return found


def command_of_image(stage: str) -> list[str]:
    (line,) = re.findall(
        r"^CMD (.*)$", DOCKERFILE.split(f" AS {stage}\n")[1].split("\nFROM")[0], re.M
    )
    return list(yaml.safe_load(line))


@pytest.mark.parametrize("name", OURS)
def test_commands_are_understood(name: str) -> None:
    service = SERVICES[name]
    for program, *argv in (service["command"], command_of_image(service["build"]["target"])):
        assert program == "qgjet"
        assert parse(argv) == {"qg-api": "serve", "qg-worker": "agent"}[name]


def test_health_checks_ask_for_routes_that_exist() -> None:
    app: Litestar = create_app(Settings(api=ApiSettings(auth=False)))
    routes = {route.path for route in app.routes}
    check = SERVICES["qg-api"]["healthcheck"]["test"]
    (url,) = re.findall(r"http://127\.0\.0\.1:8000(/\w+)", " ".join(check))
    assert url in routes
    compile(check[check.index("-c") + 1], "healthcheck", "exec")
    assert check[1] == "python"


def test_the_first_start_makes_the_token_that_the_api_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of qg-token with the paths of this host; what it leaves lets the API start on
    every address.
    """
    assert parse(FIRST["command"][1:]) == "token"
    assert (
        SERVICES["qg-api"]["depends_on"]["qg-token"]["condition"]
        == "service_completed_successfully"
    )
    assert set(SERVICES["qg-api"]["volumes"]) >= set(FIRST["volumes"])
    for name, value in FIRST["environment"].items():
        assert SERVICES["qg-api"]["environment"][name] == value
        monkeypatch.setenv(name, value.replace("/var/lib/qgjet/secrets", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv",
        [word.replace("/var/lib/qgjet/secrets", str(tmp_path)) for word in FIRST["command"]],
    )
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    settings = load_settings(
        "", {"QGJET_API_HOST": "0.0.0.0", "QGJET_API_TOKENS_FILE": str(tmp_path / "tokens.json")}
    )
    assert access_of(settings.api, everywhere=False).required
    (kept,) = token_file.read(tmp_path / "tokens.json").values()
    text = (tmp_path / "api-token").read_text().strip()
    assert tokens.find({kept.id: kept}, text) == kept
    assert text not in "".join(capsys.readouterr())


def test_workers_can_be_scaled() -> None:
    worker = SERVICES["qg-worker"]
    assert not {"container_name", "ports", "hostname"} & worker.keys()
    assert "--target" not in worker["command"]


def test_everybody_finds_the_server() -> None:
    listens = SERVICES["nats"]["environment"]["QGJET_NATS_LISTEN"]
    for name in OURS:
        assert (
            SERVICES[name]["environment"]["QGJET_NATS_URL"]
            == f"nats://nats:{listens.rsplit(':', 1)[1]}"
        )
        assert SERVICES[name]["depends_on"]["nats"]["condition"] == "service_healthy"
        assert load_settings("", SERVICES[name]["environment"]).nats_url


def test_everybody_has_a_role_of_its_own_and_can_read_no_other_password() -> None:
    expected = {"qg-api": {"api", "janitor"}, "qg-worker": {"agent"}}
    for name, roles in expected.items():
        login = load_settings("", SERVICES[name]["environment"]).nats
        files = {login.user: login.password_file} | (
            {login.janitor.user: login.janitor.password_file} if login.of_janitor else {}
        )
        assert files == {role: f"/secrets/{role}" for role in roles}
        (volume,) = (volume for volume in SERVICES[name]["volumes"] if ":/secrets" in volume)
        source, target, mode = volume.split(":")
        assert (target, mode) == ("/secrets", "ro")
        served = dict(one.split(":")[:2] for one in SERVICES["nats"]["volumes"])[source]
        assert (
            served
            == SERVICES["nats"]["environment"][
                f"QGJET_SECRETS_{name.removeprefix('qg-').upper().replace('WORKER', 'AGENT')}"
            ]
        )


def test_the_server_refuses_whoever_brings_no_password() -> None:
    assert SERVICES["nats"]["environment"]["QGJET_NATS_NO_AUTH_USER"] == ""


def test_the_server_is_a_version_that_qgjet_accepts() -> None:
    image, tag = SERVICES["nats"]["image"].split(":")
    assert image == "nats"
    assert SERVER_FLOOR <= parse_version(tag) < SERVER_CEILING


def test_state_is_in_a_named_volume() -> None:
    names = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith(".")
    }
    assert names == set(COMPOSE["volumes"])


def test_nothing_is_published_beyond_this_host_unless_asked() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("${QGJET_BIND:-127.0.0.1}:") for port in published)


async def test_the_services_run_jobs_together(server: NatsServer, tmp_path: Path) -> None:
    """Their commands as processes of this host: one API, three agents, no flags but those of the
    file, except for addresses.
    """
    (tmp_path / "qgjet.toml").write_text(
        '[targets.emulator]\nrunner = "scripted"\n[targets.device]\nrunner = "scripted"\n'
    )
    api, worker = (SERVICES[name]["command"][1:] for name in OURS)
    api = [{"0.0.0.0": "127.0.0.1", "8000": "0"}.get(word, word) for word in api]
    async with contextlib.AsyncExitStack() as stack:
        serving = await stack.enter_async_context(
            qgjet(*api, cwd=tmp_path, QGJET_NATS_URL=server.url)
        )
        url = (await serving.says("API on")).split("API on ")[1].split(",")[0]
        for _ in range(3):
            await (
                await stack.enter_async_context(
                    qgjet(*worker, cwd=tmp_path, QGJET_NATS_URL=server.url)
                )
            ).says("serves")
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url))

        async def three_agents() -> bool:
            return len((await client.get("/agents")).json()["agents"]) == 3

        await eventually(three_agents)
        for number in range(12):
            body = {
                "org_id": "acme",
                "app_version_id": "1",
                "test_path": f"tests/{number}.spec.js",
                "target": ("emulator", "device")[number % 2],
            }
            assert (await client.post("/submit", json=body)).is_success

        async def all_done() -> bool:
            jobs = (await client.get("/jobs")).json()["jobs"]
            return len(jobs) == 12 and all(job["status"] == "done" for job in jobs)

        await eventually(all_done)


async def test_the_doctor_finds_all_well_in_the_container_of_the_api(tmp_path: Path) -> None:
    """As CI asks it: the environment and the commands of the services, with addresses and
    directories of this host, and a server that wants passwords.
    """
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["compose"][
        "steps"
    ]
    (doctor,) = (
        step["run"].split(" qg-api qgjet ")[1].split()
        for step in steps
        if "qgjet doctor" in step.get("run", "")
    )
    of_compose = SERVICES["qg-api"]["environment"]
    places = {
        "/var/lib/qgjet/secrets": str(tmp_path / "tokens"),
        "/secrets": str(tmp_path / "passwords"),
    }

    def here(text: str) -> str:
        return next(
            (text.replace(old, new, 1) for old, new in places.items() if text.startswith(old)), text
        )

    (tmp_path / "tokens").mkdir()
    (tmp_path / "passwords").mkdir()
    async with guarded_server(tmp_path / "nats") as server:
        for role in ("api", "janitor"):
            (tmp_path / "passwords" / role).write_text(password_of(server, role))
        variables = {name: here(value) for name, value in of_compose.items()} | {
            "QGJET_NATS_URL": server.url
        }
        made, said = await qgjet_ends(*map(here, FIRST["command"][1:]), cwd=tmp_path, **variables)
        assert made == 0, said
        async with qgjet("serve", "--port", "0", cwd=tmp_path, **variables) as api:
            url = (await api.says("API on")).split("API on ")[1].split(",")[0]
            found, said = await qgjet_ends(
                *(word.replace("http://127.0.0.1:8000", url) for word in doctor),
                cwd=tmp_path,
                **variables,
            )
            assert found == 0, said
            assert f"{url} is ready" in said


def test_images_are_built_from_stages_that_exist_and_run_as_nobody_special() -> None:
    for name in OURS:
        target = SERVICES[name]["build"]["target"]
        assert target in stages()
    assert ["USER", "qgjet"] in stages()["api"]
    assert stages()["worker"][0] == ["FROM", "api", "AS", "worker"]
    assert not any(words[0] == "USER" for words in stages()["worker"])


def test_the_image_gets_what_it_copies() -> None:
    """Sources exist, and .dockerignore lets them through."""
    ignored = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    project = next(words[1].split("=")[1] for words in stages()["project"] if words[0] == "ARG")
    for words in (
        words
        for stage in stages().values()
        for words in stage
        if words[0] == "COPY" and not words[1].startswith("--from")
    ):
        for source in (word.replace("${PROJECT}", project) for word in words[1:-1]):
            assert (ROOT / source).exists(), source
            assert not any(Path(source).match(pattern) for pattern in ignored), source
    copied = {words[1] for words in stages()["build"] if words[0] == "COPY"}
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    assert {package.split("/")[0] for package in wheel["packages"]} <= copied


def test_the_image_installs_from_the_lock() -> None:
    installs = [" ".join(words) for words in stages()["build"] if words[0] == "RUN"]
    assert any("pip install -r requirements.lock" in line for line in installs)
    assert any("--no-deps --no-index" in line for line in installs)
