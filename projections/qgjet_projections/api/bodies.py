"""Request bodies: JSON, decoded once and strictly into the struct that the handler asks for."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from qgjet.support.text import shortened
from qgjet_projections.usecases.errors import FieldError, InvalidBody, pointer

MAX_BODY_BYTES = 1024 * 1024

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRequest(Request[Any, Any, Any]):
    """Litestar would read numbers from text and overlook unknown fields."""

    async def json(self) -> Any:
        media_type = self.content_type[0]
        if media_type not in ("", "application/json") and not media_type.endswith("+json"):
            raise HTTPException(
                status_code=415,
                detail=f"the body must be JSON: send `Content-Type: application/json`, not {media_type}",
            )
        field = self.route_handler.parsed_data_field
        return read(await self.body(), field.annotation if field is not None else Any)


def read(data: bytes, kind: Any) -> Any:
    """`data` as a `kind`. Raises InvalidBody that points to the first place that does not fit."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidBody([_explained(str(error))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = (
            "is not valid JSON" if not isinstance(error, UnicodeDecodeError) else "is not UTF-8"
        )
        if _SURROGATE.search(data):
            reason += " (does it hold half of a surrogate pair?)"
        raise InvalidBody([FieldError(f"{reason}: {error}", "#")]) from None


def _explained(message: str) -> FieldError:
    what, at, where = message.rpartition(" - at `")
    if not at:
        what, where = message, ""
    steps = _steps(where)
    if match := _UNKNOWN.fullmatch(what):
        name = shortened(match[1])
        return FieldError(f"unknown field {name!r}", pointer([*steps, name]))
    if match := _MISSING.fullmatch(what):
        return FieldError("is required", pointer([*steps, match[1]]))
    return FieldError(what.replace("`", ""), pointer(steps))


def _steps(path: str) -> list[str]:
    """``$.jobs[3].tags[...]`` -> jobs, 3, tags: msgspec does not name the key of a mapping."""
    return [
        name or index
        for name, index in _STEP.findall(path.partition("$")[2].rstrip("`"))
        if (name or index) != "..."
    ]
