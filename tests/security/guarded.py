"""A server that lets nobody in without a password, as operators run it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from qgjet.config.settings import NatsSettings
from qgjet.jetstream.server import NatsServer


@contextlib.asynccontextmanager
async def guarded_server(store: Path, **options: object) -> AsyncIterator[NatsServer]:
    server = NatsServer(store, **options)  # type: ignore[arg-type]
    server.logins["QGJET_NATS_NO_AUTH_USER"] = ""
    await server.start()
    try:
        yield server
    finally:
        server.stop()


def password_of(server: NatsServer, role: str) -> str:
    return server.logins[f"QGJET_NATS_{role.upper()}_PASSWORD"]


def login_of(server: NatsServer, role: str) -> NatsSettings:
    return NatsSettings(user=role, password=password_of(server, role))


def variables_of(server: NatsServer, role: str, prefix: str = "QGJET_NATS") -> dict[str, str]:
    return {f"{prefix}_USER": role, f"{prefix}_PASSWORD": password_of(server, role)}
