"""Texts that clients give, such as reasons: bounded where they come in, and shortened in answers,
because older versions stored longer ones. Pure.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from qgjet.errors import InvalidInput

MAX_CHARACTERS = 500
ShortText = Annotated[str, Meta(max_length=MAX_CHARACTERS)]
"""For request bodies. The commands check it again, because they also come over NATS."""


def check_short(field: str, text: str) -> str:
    """Raises InvalidInput for a text that is too long."""
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            field, f"has {len(text)} characters; at most {MAX_CHARACTERS} are accepted"
        )
    return text


def shortened(text: str, limit: int = MAX_CHARACTERS) -> str:
    """`text` in at most `limit` characters; `…` marks what was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
