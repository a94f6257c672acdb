"""The adb server, which all slots of a host share. A job that finds none starts one, which ends
with the job's process tree, for the others, too.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from qgjet.support.log_limiter import LogLimiter

log = logging.getLogger(__name__)

DEFAULT_PORT = 5037
START_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 2.0
ANOTHER_TRIES = 20
_LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1"})
_VARIABLES = frozenset({"HOME", "LANG", "LC_ALL", "PATH", "TMPDIR"})
"""What the server gets, beside those of adb and Android: it lives on, and the secrets of a target
are not for it.
"""
_complaints = LogLimiter(log)


async def ensure_server(env: Mapping[str, str]) -> None:
    """Start the adb server that commands with this environment use, unless it runs. Does nothing on
    a host without adb, and for a server elsewhere.

    Never raises: whether a device can be reached is for the target's own commands to find out. The
    server outlives the agent, as one of any other program.
    """
    adb, port = _program(env), local_port(env)
    if adb is None or port is None or await _answers(port):
        return
    await _start(
        adb,
        port,
        {
            name: value
            for name, value in env.items()
            if name in _VARIABLES or name.startswith(("ADB_", "ANDROID_"))
        },
    )


async def _start(adb: str, port: int, env: Mapping[str, str]) -> None:
    try:
        # its output to nowhere: the server keeps what it inherits, and a pipe would never end
        nowhere = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            adb,
            "start-server",
            env=dict(env),
            cwd="/",
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
    except (OSError, TimeoutError) as error:
        _complaints.warn(
            f"the adb server on port {port} cannot be started: {error or f'not within {START_TIMEOUT_S:g} s'}"
        )
        return
    if code and not await _comes_up(port):
        _complaints.warn(
            f"the adb server on port {port} cannot be started: {adb} start-server exited with {code}"
        )


async def _comes_up(port: int) -> bool:
    """Whether the server answers soon: of several that are started at the same moment adb lets one
    run, and the others fail.
    """
    for _ in range(ANOTHER_TRIES):
        if await _answers(port):
            return True
        await asyncio.sleep(0.1)
    return False


def local_port(env: Mapping[str, str]) -> int | None:
    """The port of the adb server on this host that an environment names, 5037 if it names none;
    None for a server elsewhere or a bad value.
    """
    server = env.get("ADB_SERVER_SOCKET", "")
    if server and not server.startswith("tcp:"):
        return None
    address = env.get("ANDROID_ADB_SERVER_ADDRESS", ""), "", env.get("ANDROID_ADB_SERVER_PORT", "")
    host, _, port = server.removeprefix("tcp:").rpartition(":") if server else address
    if host not in _LOCAL:
        return None
    try:
        number = int(port or DEFAULT_PORT)
    except ValueError:
        return None
    return number if 0 < number < 65_536 else None


def _program(env: Mapping[str, str]) -> str | None:
    homes = [
        Path(env[name]) / "platform-tools"
        for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT")
        if env.get(name)
    ]
    return shutil.which("adb", path=":".join([env.get("PATH", ""), *map(str, homes)]))


async def _answers(port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
