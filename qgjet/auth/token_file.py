"""The file of tokens: changed by one command at a time, replaced as a whole, and read again by
servers when it has changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from qgjet.auth import tokens
from qgjet.auth.tokens import Token
from qgjet.errors import InvalidInput, InvalidSettings
from qgjet.support import private_files

log = logging.getLogger(__name__)

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read(path: Path) -> dict[str, Token]:
    """Tokens by id; none without a file. Raises InvalidSettings for a file that cannot be read, is
    none of ours, or that others may write.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & _OTHERS_MAY_WRITE:
                raise InvalidSettings(
                    "api.tokens_file",
                    f"others may write {path}, and give themselves tokens: chmod 600 {path}",
                )
            return tokens.parse(file.read(), f"api.tokens_file: {path}")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            "api.tokens_file", f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except InvalidInput as error:
        raise (
            error
            if isinstance(error, InvalidSettings)
            else InvalidSettings(error.field, error.reason)
        ) from None


def change(path: Path, decide: Callable[[Mapping[str, Token]], Mapping[str, Token]]) -> None:
    """Replace what is in the file by what `decide` makes of it; several processes take turns. What
    a crash leaves is the old file or the new one, whole.

    Raises InvalidSettings, and whatever `decide` raises: then nothing is written.
    """
    try:
        private_files.make_directory(path.parent)
        with _locked(path):
            before = read(path)
            after = decide(before)
            if after != before:
                write_secret(path, tokens.text_of(after.values()) + "\n")
    except OSError as error:
        raise InvalidSettings(
            "api.tokens_file", f"{path} cannot be written: {error.strerror or error}"
        ) from error


def write_secret(path: Path, text: str) -> None:
    """Replace the file by one that nobody else may read."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(
            os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The lock is a file of its own: the one with the tokens is replaced. Windows has no such lock:
    there, one command at a time.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with os.fdopen(
        os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600), "w"
    ) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when we are gone, however
        yield


class TokenStore:
    """The tokens that a server accepts: those of the environment, and those of the file as it is
    now.
    """

    def __init__(self, path: Path, text: str = "") -> None:
        """Raises InvalidSettings when either cannot be used."""
        try:
            self._fixed = tokens.parse(text, "api.tokens")
        except InvalidInput as error:
            raise InvalidSettings(error.field, error.reason) from None
        self._path = path
        self._seen = _version(path)
        self._tokens = read(path) | self._fixed
        self.had_any = bool(self._tokens)
        """Once there was a token, it is never again as if there had been none: neither after the
        file is emptied nor after it is deleted.
        """

    @property
    def tokens(self) -> Mapping[str, Token]:
        """By id. A file that cannot be read any more changes nothing, and says so in the log."""
        version = _version(self._path)
        if version != self._seen:
            self._seen = version
            try:
                self._tokens = read(self._path) | self._fixed
            except InvalidSettings as error:
                log.error("the tokens stay as they were: %s", error)
            self.had_any = self.had_any or bool(self._tokens)
        return self._tokens


def _version(path: Path) -> tuple[int, ...]:
    """Differs when the file was replaced or changed."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode)
