"""Tokens of the HTTP API: what they are, what is kept of them, what they allow. Pure: the time and
the randomness are passed in.

A token is `qgjet_<id>_<secret>`. The prefix lets people and secret scanners recognise it, the id
names it in lists, logs and `revoke`, the secret is 256 random bits. Kept is the SHA-256 of the
whole text and never the text. A slow hash would protect guessable passwords; 256 random bits cannot
be guessed from a hash, and a check that costs a microsecond cannot be used to exhaust the server.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from qgjet.domain.events import Instant
from qgjet.errors import InvalidInput

ID_BYTES, SECRET_BYTES = 6, 32
EVERY_ORG = "*"
MAX_NAME = 64
MAX_ORGS = 100
_FORMAT = re.compile(r"qgjet_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NOBODY = hashlib.sha256(b"").hexdigest()


class Scope(StrEnum):
    """What a token may do; each includes those before it."""

    READ = "read"
    SUBMIT = "submit"
    """Submit, cancel and run again."""
    OPERATE = "operate"
    """Control the queue."""


_LADDER = list(Scope)


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is kept of a token."""

    id: str
    name: str
    """For people: who uses it."""
    sha256: str
    """Of the whole token, in hexadecimal."""
    scopes: tuple[Scope, ...]
    orgs: tuple[str, ...]
    """The orgs it is bound to; `*`: every one."""
    created_at: Instant
    expires_at: Instant | None = None
    revoked_at: Instant | None = None

    def allows(self, scope: Scope) -> bool:
        return any(_LADDER.index(own) >= _LADDER.index(scope) for own in self.scopes)

    @property
    def only_orgs(self) -> frozenset[str] | None:
        """The orgs it is bound to; None for every one."""
        return None if EVERY_ORG in self.orgs else frozenset(self.orgs)

    def why_not(self, now: datetime) -> str:
        """Why it is not accepted any more; empty while it is."""
        if self.revoked_at is not None:
            return f"token {self.id} was revoked at {self.revoked_at:%Y-%m-%d %H:%M} UTC"
        if self.expires_at is not None and self.expires_at <= now:
            return f"token {self.id} expired at {self.expires_at:%Y-%m-%d %H:%M} UTC"
        return ""


class TokenList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the file, and in QGJET_API_TOKENS."""

    tokens: tuple[Token, ...] = ()


def mint(
    *,
    token_id: bytes,
    secret: str,
    name: str,
    scopes: Collection[Scope],
    orgs: Collection[str],
    now: datetime,
    expires_at: datetime | None = None,
) -> tuple[str, Token]:
    """A new token: its text, to be told once, and what is kept of it. Raises InvalidInput for what
    makes no sense.
    """
    _require(
        "name",
        1 <= len(name) <= MAX_NAME and name.isprintable(),
        f"must be 1 to {MAX_NAME} printable characters",
    )
    _require("scope", bool(scopes), "name at least one: read, submit or operate")
    _require(
        "org",
        1 <= len(orgs) <= MAX_ORGS and all(orgs),
        f"name 1 to {MAX_ORGS} orgs, or '{EVERY_ORG}' for every one",
    )
    _require("org", all(_is_text(org) for org in orgs), "half a surrogate pair is no text")
    text = f"qgjet_{token_id.hex()}_{secret}"
    if _FORMAT.fullmatch(text) is None:
        raise ValueError("a token has an id of 6 bytes and a secret of 32, in URL-safe base64")
    every = EVERY_ORG in orgs
    kept = Token(
        id=token_id.hex(),
        name=name,
        sha256=hash_of(text),
        scopes=tuple(scope for scope in Scope if scope in scopes),
        orgs=(EVERY_ORG,) if every else tuple(dict.fromkeys(orgs)),
        created_at=now,
        expires_at=expires_at,
    )
    return text, kept


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def find(tokens: Mapping[str, Token], text: str) -> Token | None:
    """The token that `text` is, of those by id; it may be revoked or expired.

    The id is public and finds the candidate; the hashes are compared in constant time, also where
    there is no candidate.
    """
    match = _FORMAT.fullmatch(text)
    candidate = tokens.get(match[1]) if match else None
    same = hmac.compare_digest(hash_of(text), candidate.sha256 if candidate else _NOBODY)
    return candidate if same else None


def bearer(header: str) -> str:
    """The token in an Authorization header; empty where there is none."""
    kind, _, text = header.strip().partition(" ")
    return text.strip() if kind.lower() == "bearer" else ""


def parse(text: str, where: str) -> dict[str, Token]:
    """Tokens by id. Raises InvalidInput that names `where` for what is no list of tokens."""
    try:
        found = msgspec.json.decode(text or "{}", type=TokenList).tokens
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(
            where, f"is no list of tokens: {error}; `qgjet token create` makes one"
        ) from None
    for token in found:
        _require(
            where,
            bool(_HASH.fullmatch(token.sha256)) and bool(token.scopes) and bool(token.orgs),
            f"token {token.id} has no hash, scope or org",
        )
    return {token.id: token for token in found}


def text_of(tokens: Iterable[Token], *, indent: int = 2) -> str:
    return msgspec.json.format(
        msgspec.json.encode(TokenList(tokens=tuple(tokens))), indent=indent
    ).decode()


def revoked(tokens: Mapping[str, Token], token_id: str, now: datetime) -> dict[str, Token]:
    """`tokens` with one of them revoked; one that is already stays as it is. Raises InvalidInput
    for an id that there is not.
    """
    _require(
        "token",
        token_id in tokens,
        f"there is none with the id {token_id!r}; `qgjet token list` shows them",
    )
    old = tokens[token_id]
    return {**tokens, token_id: old if old.revoked_at else replace(old, revoked_at=now)}


def _is_text(org: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in org)


def _require(field: str, holds: bool, reason: str) -> None:
    if not holds:
        raise InvalidInput(field, reason)
