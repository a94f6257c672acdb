"""Who a connection is for the NATS server, and what that server lets it do: logins, certificates,
permissions.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

from qgjet.config.settings import NatsSettings
from qgjet.domain.subjects import encode_token
from qgjet.errors import InvalidSettings

WHO_AM_I = "$SYS.REQ.USER.INFO"
T = TypeVar("T")
_EMPTY = "the password is empty: set it, a NATS server could let everybody in with none"


class Rules(Struct, frozen=True):
    """What may be published to, by the server's own word. An empty `allow` is everything."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def permit(self, subject: str) -> bool:
        allowed = not self.allow or any(matches(pattern, subject) for pattern in self.allow)
        return allowed and not any(matches(pattern, subject) for pattern in self.deny)


class Permissions(Struct, frozen=True):
    publish: Rules = Rules()


class Identity(Struct, frozen=True):
    """A user as the server knows it."""

    user: str = ""
    permissions: Permissions = field(default_factory=Permissions)


class WhoAmI(Struct, frozen=True):
    """The answer to WHO_AM_I."""

    data: Identity = field(default_factory=Identity)


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject is one of those that a pattern with `*` and `>` stands for."""
    tokens, wanted = subject.split("."), pattern.split(".")
    if wanted[-1] == ">":
        wanted, tokens = (
            wanted[:-1],
            tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else [],
        )
    return len(tokens) == len(wanted) and all(
        one in ("*", token) for one, token in zip(wanted, tokens, strict=True)
    )


def user_of(nats: NatsSettings, servers: Sequence[str]) -> str:
    """The name to log in with: that of the settings, else the one in the address. Empty: nobody."""
    return nats.user or next(
        (unquote(user) for server in servers if (user := urlsplit(_with_scheme(server)).username)),
        "",
    )


def options(nats: NatsSettings, servers: Sequence[str]) -> dict[str, Any]:
    """How to log in, as nats-py wants it. Raises InvalidSettings for what cannot be used."""
    user = user_of(nats, servers)
    _check(nats, user)
    prefix = nats.inbox_prefix or (f"_INBOX_{encode_token(user)}" if user else "_INBOX")
    found: dict[str, Any] = {"inbox_prefix": prefix}
    if nats.nkey:
        found["nkeys_seed_str"] = _seed(nats.nkey)
    elif nats.password_file:
        found |= {"user": user, "password": _reread(nats.password_file)}
    elif nats.password:
        found |= {"user": user, "password": nats.password}
    if wants_tls(nats, servers):
        found["tls"] = _tls(nats)
    return found


def _check(nats: NatsSettings, user: str) -> None:
    given = [name for name in ("password", "password_file", "nkey") if getattr(nats, name)]
    if len(given) > 1:
        raise InvalidSettings(
            f"nats.{given[1]}", f"cannot stand beside nats.{given[0]}: set one of them"
        )
    if given and given[0] != "nkey" and not user:
        raise InvalidSettings("nats.user", f"is needed with nats.{given[0]}: the name of your role")
    if bool(nats.cert) != bool(nats.key):
        raise InvalidSettings("nats.cert", "and nats.key belong together: set both or none")


def wants_tls(nats: NatsSettings, servers: Sequence[str]) -> bool:
    return bool(nats.ca or nats.cert) or any(server.startswith("tls://") for server in servers)


def _with_scheme(server: str) -> str:
    return server if "//" in server else f"nats://{server}"


def _password(file: str) -> str:
    password = _read("nats.password_file", file).decode("utf-8", "replace").strip()
    if not password:
        raise InvalidSettings("nats.password_file", f"{file}: {_EMPTY}")
    return password


def _reread(file: str) -> Callable[[], str]:
    """The password, read anew for every connection, because secrets are rotated. While the file
    cannot be read, the last one.
    """
    last = [_password(file)]

    def read() -> str:
        with contextlib.suppress(InvalidSettings):  # nats-py would end its reconnecting for good
            last[0] = _password(file)
        return last[0]

    return read


def _seed(file: str) -> str:
    try:
        import nkeys

        seed = _read("nats.nkey", file).strip()
        nkeys.from_seed(bytearray(seed))
        return seed.decode()
    except ImportError:
        raise InvalidSettings(
            "nats.nkey", "needs the package nkeys: pip install 'qgjet[nkeys]'"
        ) from None
    except InvalidSettings:
        raise
    except Exception:  # the library has many, some of which show what they were given
        raise InvalidSettings(
            "nats.nkey", f"{file} does not hold the seed of an nkey, a line that begins with SU"
        ) from None


def _tls(nats: NatsSettings) -> ssl.SSLContext:
    context = _or_refused(
        "nats.ca", nats.ca, lambda: ssl.create_default_context(cafile=nats.ca or None)
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if nats.cert:
        _or_refused(
            "nats.cert",
            nats.cert,
            lambda: context.load_cert_chain(nats.cert, nats.key, password=""),
        )
    return context


def _or_refused(key: str, file: str, load: Callable[[], T]) -> T:
    try:
        return load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidSettings(
            key, f"{file} cannot be used: {getattr(error, 'strerror', None) or error}"
        ) from None


def _read(key: str, file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError as error:
        raise InvalidSettings(key, f"{file} cannot be read: {error.strerror or error}") from None
