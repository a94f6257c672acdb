"""One adb server for all slots: real adb, on a port of the kernel's choice."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import spec
from qgjet.config.settings import TargetSettings
from qgjet.domain.events import Verdict
from qgjet.process.stop_control import StopControl
from qgjet.runners import adb
from qgjet.runners.adb import ensure_server, local_port
from qgjet.runners.base import Attempt
from qgjet.runners.command import command_runner
from qgjet.support.clock import lease_time
from qgjet.verdict.patterns import default_patterns


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """With an adb server of its own, which is ended with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANDROID_ADB_SERVER_PORT": str(port),
    }
    yield found
    subprocess.run(["adb", "kill-server"], env=found, check=False, capture_output=True, timeout=60)


async def answers(env: dict[str, str]) -> bool:
    return await adb._answers(int(env["ANDROID_ADB_SERVER_PORT"]))


async def test_the_server_that_a_job_uses_stays_for_the_others(
    env: dict[str, str], tmp_path: Path
) -> None:
    variables = {name: value for name, value in env.items() if name != "PATH"}
    target = TargetSettings(
        name="t", runner="command", dir=str(tmp_path), command=("adb", "devices"), env=variables
    )
    session = await command_runner(target, default_patterns()).prepare(spec().partition, tmp_path)
    assert await answers(env), "it is there before the first job"
    for number in (1, 2):
        attempt = Attempt(
            spec=spec(),
            number=number,
            path=str(tmp_path / f"job-{number}"),
            stop_control=StopControl(lease_time() + 120),
        )
        assert (await session.run(attempt)).verdict is Verdict.PASSED
        assert await answers(env), "and after each"
    await asyncio.to_thread(
        subprocess.run, ["adb", "kill-server"], env=env, check=True, capture_output=True, timeout=60
    )
    attempt = Attempt(
        spec=spec(),
        number=3,
        path=str(tmp_path / "job-3"),
        stop_control=StopControl(lease_time() + 120),
    )
    assert (await session.run(attempt)).verdict is Verdict.PASSED
    assert await answers(env), "one that has ended is started again before the next job"
    await session.release()


async def test_a_host_without_adb_and_a_server_elsewhere_are_left_alone(
    env: dict[str, str], tmp_path: Path
) -> None:
    await ensure_server({**env, "PATH": str(tmp_path)})
    await ensure_server({**env, "ANDROID_ADB_SERVER_ADDRESS": "192.0.2.1"})
    assert not await answers(env)


async def test_slots_that_start_at_the_same_moment_share_one_server(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.gather(*(ensure_server(env | {"SECRET": "x"}) for _ in range(4)))
    assert await answers(env)
    assert not caplog.records


async def test_an_adb_that_cannot_start_its_server_is_a_warning(
    env: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "adb").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "adb").chmod(0o755)
    await ensure_server({**env, "PATH": str(tmp_path)})
    assert "start-server exited with 3" in caplog.text


@pytest.mark.parametrize(
    ("env", "port"),
    [
        ({}, 5037),
        ({"ANDROID_ADB_SERVER_PORT": "6000"}, 6000),
        ({"ANDROID_ADB_SERVER_PORT": "x"}, None),
        ({"ANDROID_ADB_SERVER_PORT": "70000"}, None),
        ({"ANDROID_ADB_SERVER_ADDRESS": "localhost"}, 5037),
        ({"ANDROID_ADB_SERVER_ADDRESS": "farm.example"}, None),
        ({"ADB_SERVER_SOCKET": "tcp:6001"}, 6001),
        ({"ADB_SERVER_SOCKET": "tcp:localhost:6002", "ANDROID_ADB_SERVER_PORT": "1"}, 6002),
        ({"ADB_SERVER_SOCKET": "tcp:farm.example:6003"}, None),
        ({"ADB_SERVER_SOCKET": "localfilesystem:/run/adb"}, None),
    ],
)
def test_the_port_that_an_environment_names(env: dict[str, str], port: int | None) -> None:
    assert local_port(env) == port


@given(
    st.dictionaries(
        st.sampled_from(
            ["ADB_SERVER_SOCKET", "ANDROID_ADB_SERVER_PORT", "ANDROID_ADB_SERVER_ADDRESS"]
        ),
        st.text(),
    )
)
def test_any_value_is_a_port_or_none(env: dict[str, str]) -> None:
    port = local_port(env)
    assert port is None or 0 < port < 65_536
