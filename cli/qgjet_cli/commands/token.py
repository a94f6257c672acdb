"""`qgjet token`: who may use the HTTP API. Works on the file that `qgjet serve` of the same
settings reads; a server that runs takes notice by itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from qgjet.auth import token_file, tokens
from qgjet.auth.tokens import Scope, Token
from qgjet.config import files
from qgjet.errors import InvalidInput, InvalidSettings
from qgjet.support.clock import utc_now
from qgjet_cli.options import flags
from qgjet_cli.options.request import seconds
from qgjet_cli.output import console

COLUMNS = ("id", "name", "scopes", "orgs", "created", "expires", "state")

app = typer.Typer(
    help="Make, list and revoke tokens of the HTTP API.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="The server's file of tokens. [QGJET_API_TOKENS_FILE; default: .qgjet/tokens.json]",
        show_default=False,
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Who uses it, for people.")],
    orgs: Annotated[
        list[str],
        typer.Option(
            "--org",
            metavar="TEXT",
            help="Organisation that it is bound to; repeatable. '*' is every one.",
        ),
    ],
    scopes: Annotated[
        list[Scope] | None,
        typer.Option(
            "--scope",
            help="read; submit: also submit, cancel, rerun; operate: also control the queue. [default: read]",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="DURATION",
            help="It ends after this long, such as 90d. [default: never]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write the token into a file that only you may read, not to stdout.",
            show_default=False,
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Do nothing when a token of this name is there already.")
    ] = False,
    env: Annotated[
        bool,
        typer.Option(
            "--env", help="Write no file of tokens: print a line for the server's environment, too."
        ),
    ] = False,
    file: File = None,
    json: flags.Json = False,
    config_file: flags.Config = None,
) -> None:
    """Make a token and print it: this once, because only its hash is kept."""
    lifetime_s = seconds("expires", expires)
    now = utc_now()
    text, kept = tokens.mint(
        token_id=secrets.token_bytes(tokens.ID_BYTES),
        secret=secrets.token_urlsafe(tokens.SECRET_BYTES),
        name=name,
        scopes=scopes or [Scope.READ],
        orgs=orgs,
        now=now,
        expires_at=_end(now, lifetime_s),
    )
    if env:
        _tell(
            text, kept, out, json, variable="QGJET_API_TOKENS=" + tokens.text_of([kept], indent=0)
        )
        return
    path = _file(file, config_file)
    if _add(path, kept, once=once and (out is None or out.exists())):
        _tell(text, kept, out, json)
        console.note(
            f"Token {kept.id} ({name}) may {', '.join(kept.scopes)} for {_orgs(kept)}. Its hash is in {path}."
        )
    else:
        console.note(f"A token {name!r} is there already.")


def _end(now: datetime, lifetime_s: float | None) -> datetime | None:
    try:
        return None if lifetime_s is None else now + timedelta(seconds=lifetime_s)
    except OverflowError:
        raise InvalidInput("expires", "is too far away") from None


def _add(path: Path, token: Token, *, once: bool) -> bool:
    """False: nothing was written."""
    added = True

    def decide(before: Mapping[str, Token]) -> Mapping[str, Token]:
        nonlocal added
        added = not (
            once
            and any(
                other.name == token.name and not other.why_not(token.created_at)
                for other in before.values()
            )
        )
        return {**before, token.id: token} if added else before

    token_file.change(path, decide)
    return added


def _tell(text: str, kept: Token, out: Path | None, json: bool, *, variable: str = "") -> None:
    if out is not None:
        try:
            token_file.write_secret(out, text + "\n")
        except OSError as error:
            raise InvalidInput(
                "out",
                f"{out} cannot be written: {error.strerror or error}; revoke token {kept.id} and make another one",
            ) from error
    if json:
        told = {} if out else {"token": text}
        console.json(
            {**_shown(kept, utc_now()), **told, **({"environment": variable} if variable else {})}
        )
        return
    if out is None:
        console.line(text)
    if variable:
        console.line(variable)


@app.command("list")
def list_tokens(
    file: File = None, json: flags.Json = False, config_file: flags.Config = None
) -> None:
    """List tokens, without what is secret of them. With --json: a list of them."""
    path = _file(file, config_file)
    now = utc_now()
    found = [_shown(token, now) for token in token_file.read(path).values()]
    if json:
        console.json(found)
    elif found:
        console.table(
            COLUMNS,
            [tuple(str(one[column] or "") for column in COLUMNS) for one in map(_row, found)],
        )
    else:
        console.note(f"No tokens in {path}.")


@app.command()
def revoke(
    token_id: Annotated[
        str,
        typer.Argument(metavar="ID", help="As `qgjet token list` shows it.", show_default=False),
    ],
    file: File = None,
    json: flags.Json = False,
    config_file: flags.Config = None,
) -> None:
    """End a token for good: servers refuse it from the next request on. A second call changes
    nothing.
    """
    path = _file(file, config_file)
    now = utc_now()
    token_file.change(path, lambda before: tokens.revoked(before, token_id, now))
    if json:
        console.json(_shown(token_file.read(path)[token_id], now))
    else:
        console.note(f"Token {token_id} is revoked.")


def _file(given: Path | None, config_file: Path | None) -> Path:
    text = files.load(
        config_file, {"api.tokens_file": str(given) if given else None}
    ).api.tokens_file
    if not text:
        raise InvalidSettings("api.tokens_file", "is empty: name a file with --file")
    return Path(text)


def _shown(token: Token, now: datetime) -> dict[str, Any]:
    state = "revoked" if token.revoked_at else "expired" if token.why_not(now) else "valid"
    return {
        "id": token.id,
        "name": token.name,
        "scopes": token.scopes,
        "orgs": token.orgs,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "state": state,
    }


def _row(shown: Mapping[str, Any]) -> dict[str, str]:
    day = {
        name: f"{shown[f'{name}_at']:%Y-%m-%d}" if shown[f"{name}_at"] else ""
        for name in ("created", "expires")
    }
    return {
        **day,
        "id": shown["id"],
        "name": shown["name"],
        "scopes": " ".join(shown["scopes"]),
        "orgs": " ".join(shown["orgs"]),
        "state": shown["state"],
    }


def _orgs(token: Token) -> str:
    return "every org" if token.only_orgs is None else ", ".join(token.orgs)
