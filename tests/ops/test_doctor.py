"""The doctor sees what is wrong, says how to fix it, and needs nothing to be there."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agents import eventually, running_agent
from factories import spec
from ops.commands import qgjet_ends
from qgjet.config.loader import load_settings
from qgjet.config.settings import QueueSettings, Settings, TargetSettings
from qgjet.domain.subjects import STREAM, Lane
from qgjet.jetstream.connection import Connection, connect
from qgjet.jetstream.server import NatsServer
from qgjet.store.agent_registry import agents
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from qgjet_cli.commands.agent import retries_of
from qgjet_cli.commands.doctor import examine
from qgjet_cli.doctor.check import Check, Health, exit_code, worst
from qgjet_cli.doctor.host import look_at_target
from qgjet_cli.doctor.server import look_at_api, look_at_server
from qgjet_projections.serving.local_stack import LocalStack


def of(checks: list[Check], about: str) -> Check:
    (found,) = [check for check in checks if check.about == about]
    return found


def appwright_project(directory: Path, *, playwright: str = "1.59.1") -> TargetSettings:
    packages = {"@playwright/test": playwright, "appwright": "0.1.1"}
    for name, version in packages.items():
        package = directory / "node_modules" / name
        package.mkdir(parents=True)
        (package / "package.json").write_text(json.dumps({"version": version}))
    (directory / "appwright.config.ts").touch()
    node = directory / "bin/node"
    node.parent.mkdir()
    node.write_text("#!/bin/sh\necho v20.1.0\n")
    node.chmod(0o755)
    return TargetSettings(name="emulator", dir=str(directory), env={"PATH": str(node.parent)})


def worst_of(target: TargetSettings) -> tuple[Health, str]:
    checks = look_at_target(target)
    return worst(checks), "; ".join(f"{check.found} -> {check.fix}" for check in checks)


# -- targets -------------------------------------------------------------------------------------------------------------


def test_a_complete_project_is_fine(tmp_path: Path) -> None:
    assert worst_of(appwright_project(tmp_path)) == (
        Health.OK,
        "appwright, 1 slot, Node.js 20.1.0, Playwright 1.59.1 -> ",
    )


def test_a_project_without_its_packages_needs_npm_ci(tmp_path: Path) -> None:
    target = appwright_project(tmp_path)
    (tmp_path / "node_modules/@playwright/test/package.json").unlink()
    health, text = worst_of(target)
    assert (health, "npm ci" in text) == (Health.FAIL, True)


def test_a_playwright_that_breaks_appwright_is_found(tmp_path: Path) -> None:
    health, text = worst_of(appwright_project(tmp_path, playwright="1.60.0"))
    assert (health, "1.60.0 breaks AppWright" in text) == (Health.FAIL, True)


@pytest.mark.parametrize(
    ("answer", "says"),
    [("echo v16.20.0", "16.20.0 is too old"), ("exit 1", "no Node.js"), ("", "no Node.js")],
)
def test_node_has_to_be_there_and_new_enough(tmp_path: Path, answer: str, says: str) -> None:
    target = appwright_project(tmp_path)
    node = tmp_path / "bin/node"
    node.write_text(f"#!/bin/sh\n{answer}\n") if answer else node.unlink()
    health, text = worst_of(target)
    assert (health, says in text) == (Health.FAIL, True)


def test_programs_of_a_target_have_to_be_there(tmp_path: Path) -> None:
    target = TargetSettings(
        name="t",
        runner="command",
        dir=str(tmp_path),
        command=("no-such-program",),
        prepare=("./boot.sh",),
    )
    health, text = worst_of(target)
    assert (health, "no-such-program" in text, "./boot.sh" in text) == (Health.FAIL, True, True)


def test_a_directory_that_is_not_there_and_settings_that_cannot_work(tmp_path: Path) -> None:
    assert worst_of(TargetSettings(name="t", dir=str(tmp_path / "gone")))[0] is Health.FAIL
    health, text = worst_of(
        TargetSettings(
            name="t", runner="command", dir=str(tmp_path), command=("sh", "-c", "echo {test}")
        )
    )
    assert (health, "placeholder" in text) == (Health.FAIL, True)


def test_retries_that_multiply_are_a_warning(tmp_path: Path) -> None:
    target = replace(appwright_project(tmp_path), test_retries=2)
    (check,) = look_at_target(target, max_retries=3)
    assert (
        check.health,
        "runs 12 times: 3 inside AppWright for each of 4 by the queue" in check.found,
    ) == (Health.WARN, True)
    assert (
        retries_of(target)
        == "failed tests are retried up to 2 times inside AppWright, and then by the queue"
    )
    assert [one.health for one in look_at_target(target, max_retries=0)] == [Health.OK]
    assert retries_of(replace(target, test_retries=0)) == "failed tests are retried by the queue"


def test_a_missing_build_is_a_warning(tmp_path: Path) -> None:
    target = TargetSettings(
        name="t", runner="scripted", dir=str(tmp_path), build="builds/{app_version_id}.apk"
    )
    assert worst_of(target)[0] is Health.WARN
    (tmp_path / "builds").mkdir()
    (tmp_path / "builds/1.apk").touch()
    assert worst_of(target)[0] is Health.OK


# -- server and queue ----------------------------------------------------------------------------------------------------


async def test_an_empty_server_is_no_failure(server: NatsServer) -> None:
    checks = await look_at_server(Settings(nats_url=server.url))
    assert of(checks, "NATS server").found == f"2.15.1 at {server.url}, as operator"
    assert of(checks, "streams").health is Health.WARN


async def test_a_stack_that_runs_is_fine() -> None:
    settings = load_settings('[targets.emulator]\nrunner = "scripted"')
    async with LocalStack(settings) as stack:
        assert stack.agent is not None

        async def fine() -> bool:
            checks = await examine(stack.settings)
            return worst(checks) is Health.OK and {"queue", "agents", "API", "streams"} <= {
                check.about for check in checks
            }

        await eventually(fine)


async def test_work_that_nobody_serves_is_found(
    connection: Connection, log: EventLog, server: NatsServer, tmp_path: Path
) -> None:
    one = spec(target="emulator")
    await log.submit(one)
    await Queue(connection, QueueSettings()).ensure(Lane(one.partition, one.rank))
    queue = of(await look_at_server(Settings(nats_url=server.url)), "queue")
    assert (queue.health, queue.fix) == (Health.WARN, "qgjet agent --target emulator")
    async with running_agent(log, tmp_path):
        await eventually(lambda: agents(connection))
        assert of(await look_at_server(Settings(nats_url=server.url)), "queue").health is Health.OK


async def test_queued_work_without_a_consumer_is_found() -> None:
    settings = load_settings("[api]\njanitor = false")
    async with LocalStack(settings, with_agent=False) as stack:
        async with connect(stack.nats_url, name="test") as connection:
            await EventLog(connection).submit(spec())

        async def found() -> bool:
            checks = await look_at_server(stack.settings)
            return any("have no consumer" in check.found for check in checks)

        await eventually(found)


async def test_a_target_without_an_agent_is_found(
    connection: Connection, server: NatsServer
) -> None:
    settings = Settings(nats_url=server.url, targets={"ios": TargetSettings(name="ios")})
    found = of(await look_at_server(settings), "agents")
    assert (found.health, found.fix) == (Health.WARN, "qgjet agent --target ios")


async def test_settings_that_disagree_with_the_server_are_found(
    connection: Connection, server: NatsServer
) -> None:
    order = of(
        await look_at_server(
            load_settings(f'nats_url = "{server.url}"\n[queue]\npriority_order = "high-first"')
        ),
        "streams",
    )
    assert (order.health, order.fix) == (
        Health.FAIL,
        "set queue.priority_order to low-first: it is fixed",
    )
    replicas = of(
        await look_at_server(load_settings(f'nats_url = "{server.url}"\n[queue]\nreplicas = 3')),
        "streams",
    )
    assert (replicas.health, f"nats stream edit {STREAM} --replicas 3" in replicas.fix) == (
        Health.WARN,
        True,
    )
    lease = of(
        await look_at_server(
            load_settings(f'nats_url = "{server.url}"\n[queue]\nvisibility_timeout = "1m"')
        ),
        "streams",
    )
    assert (lease.health, "timeout 30s; the settings say 60s" in lease.found) == (Health.WARN, True)


async def test_somebody_elses_stream_is_refused(server: NatsServer) -> None:
    async with connect(server.url, name="test") as connection:
        await connection.api(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["other.>"]})
    checks = await look_at_server(Settings(nats_url=server.url))
    assert (of(checks, "streams").health, exit_code(checks)) == (Health.FAIL, 4)


# -- API and the whole ---------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_an_api_is_looked_at_only_where_one_is_configured() -> None:
    assert await look_at_api(Settings()) == []
    (check,) = await look_at_api(Settings(api_url=f"http://127.0.0.1:{free_port()}"))
    assert (check.health, exit_code([check])) == (Health.FAIL, 4)


async def test_with_nothing_there_it_warns_and_ends_with_0(tmp_path: Path) -> None:
    """Unless something listens on the usual port of this machine."""
    code, text = await qgjet_ends("doctor", cwd=tmp_path)
    assert code == 0, text
    assert "no targets" in text
    assert "NATS server" in text


async def test_a_configured_server_that_is_gone_ends_with_4_and_json_is_json(
    tmp_path: Path,
) -> None:
    (tmp_path / "qgjet.toml").write_text('[targets.t]\nrunner = "scripted"')
    code, text = await qgjet_ends(
        "doctor", "--json", "--nats", f"nats://127.0.0.1:{free_port()}", cwd=tmp_path
    )
    answer: dict[str, Any] = json.loads(text)
    assert (code, answer["health"]) == (4, "fail")
    assert {check["about"]: check["health"] for check in answer["checks"]} | {"disk": "ok"} == {
        "settings": "ok",
        "target t": "ok",
        "disk": "ok",
        "nats-server": "ok",
        "NATS server": "fail",
    }
    assert all(check["fix"] for check in answer["checks"] if check["health"] != "ok")


async def test_settings_that_cannot_be_read_end_with_3(tmp_path: Path) -> None:
    (tmp_path / "qgjet.toml").write_text("[targets.t]\nrunner = 'magic'")
    code, text = await qgjet_ends("doctor", cwd=tmp_path)
    assert (code, "targets.t.runner" in text) == (3, True), text
