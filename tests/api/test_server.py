"""Starting and ending, as a library and as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from patience import patience
from qgjet.config.settings import ApiSettings, QueueSettings, Settings
from qgjet.domain.deployment import Deployment
from qgjet.errors import IncompatibleServer, InvalidSettings
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer
from qgjet.store import streams
from qgjet_projections.serving.server import serve

RunApi = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]


async def test_a_port_that_is_taken_is_said_before_anything_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidSettings, match=str(port)):
            await serve(
                Settings(api=ApiSettings(port=port, database=str(tmp_path / "x.sqlite"))),
                ready=print,
            )


async def test_a_server_with_another_priority_order_is_refused(
    server: NatsServer, tmp_path: Path
) -> None:
    async with connect(server.url, name="test") as connection:
        await streams.ensure(connection, Deployment(priority_order="high-first"))
    settings = Settings(
        nats_url=server.url, api=ApiSettings(port=0, database=str(tmp_path / "x.sqlite"))
    )
    with pytest.raises(IncompatibleServer, match="high-first"):
        await serve(settings, ready=print)


async def test_an_address_that_is_none_ends_the_start(tmp_path: Path) -> None:
    settings = Settings(
        nats_url="nats://:x", api=ApiSettings(port=0, database=str(tmp_path / "read.sqlite"))
    )
    with pytest.raises(InvalidSettings, match="is not an address"):
        await serve(settings, ready=lambda url: None)


async def test_the_order_of_the_deployment_is_applied(
    server: NatsServer, settings: Settings, run_api: RunApi, s0_body: dict[str, object]
) -> None:
    async with run_api(replace(settings, queue=QueueSettings(priority_order="high-first"))) as api:
        answer = (await api.post("/submit", json={**s0_body, "priority": 9})).json()
        job = (await api.get(f"/jobs/{answer['job_id']}", params={"min_seq": answer["seq"]})).json()
        assert (job["priority"], job["rank"]) == (9, 0)
        assert (await api.get("/partitions")).json()["priority_order"] == "high-first"


async def test_it_serves_on_ipv6_and_says_the_port(settings: Settings, run_api: RunApi) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return  # no IPv6 on this machine
    async with run_api(replace(settings, api=replace(settings.api, host="::1"))) as api:
        assert str(api.base_url).startswith("http://[::1]:")
        assert (await api.get("/livez")).status_code == 200


async def test_two_replicas_show_the_same(
    settings: Settings, run_api: RunApi, tmp_path: Path, s0_body: dict[str, object]
) -> None:
    other = replace(settings, api=replace(settings.api, database=str(tmp_path / "other.sqlite")))
    async with run_api(settings) as one, run_api(other) as two:
        answer = (await one.post("/submit", json=s0_body)).json()
        assert (
            await two.get(f"/status/{answer['job_id']}", params={"min_seq": answer["seq"]})
        ).json()["status"] == "queued"
        assert (await two.post("/submit", json=s0_body)).json()["job_id"] == answer["job_id"]


async def test_processes_may_share_a_file(
    settings: Settings, run_api: RunApi, s0_body: dict[str, object]
) -> None:
    async with run_api(settings) as one, run_api(settings) as two:
        for number, api in enumerate([one, two] * 5):
            answer = (
                await api.post("/submit", json={**s0_body, "test_path": f"{number}.js"})
            ).json()
            for each in (one, two):
                assert (
                    await each.get(f"/status/{answer['job_id']}", params={"min_seq": answer["seq"]})
                ).status_code == 200


async def test_the_janitor_works_beside_it(
    settings: Settings, run_api: RunApi, s0_body: dict[str, object], eventually: Any
) -> None:
    async with run_api(replace(settings, api=replace(settings.api, janitor=True))) as api:
        job_id = (await api.post("/submit", json={**s0_body, "queue_timeout": 0.1})).json()[
            "job_id"
        ]

        async def expired() -> bool:
            return (await api.get(f"/status/{job_id}")).json()["reason"] == "queue_timeout"

        await eventually(expired)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_uvicorn_serves_asgi_app_and_ends_on_a_signal_with_streams_open(
    server: NatsServer, tmp_path: Path, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "qgjet.toml").write_text('[api]\ndatabase = "data/read.sqlite"\njanitor = false\n')
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "qgjet_projections.asgi:app", "--port", str(port)),
        cwd=tmp_path,
        env={**os.environ, "QGJET_NATS_URL": server.url, "QGJET_API_AUTH": "false"},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with (
            asyncio.timeout(patience(30)),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as api,
        ):
            await _until_it_answers(api)
            for method, path in (("GET", "/jobs"), ("GET", "/"), ("POST", "/suites/x/cancel")):
                assert (
                    await api.request(method, path, headers={"Host": f"evil.example:{port}"})
                ).status_code == 403
            async with api.stream("GET", "/events") as answer:
                assert answer.status_code == 200
                process.send_signal(number)
                async for _ in answer.aiter_bytes():
                    pass
            _, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (tmp_path / "data" / "read.sqlite").exists()
    assert "Application shutdown complete" in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def _until_it_answers(api: httpx.AsyncClient) -> None:
    while True:  # its own deadline is the caller's
        try:
            if (await api.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)
