"""Follows the output of an attempt over the API: server-sent events that resume at the byte where
they broke off.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator

from msgspec import Struct

from qgjet.client.base import Notice
from qgjet.client.follow import Outage
from qgjet.client.sse import Message, Parser
from qgjet.client.transport import PAUSE_S, Http, NoStream, NotOurs
from qgjet.errors import CannotReach


class LogLine(Struct, frozen=True):
    data: bytes
    """With its end of line, where it has one. Empty for the mark."""
    live: bool = False
    """A mark: what came before was there already, what follows is new."""


async def follow_log(
    http: Http, path: str, attempt: int, notice: Notice
) -> AsyncGenerator[LogLine, None]:
    outage, after, told = Outage(http, notice), "", False
    while True:
        try:
            async with contextlib.aclosing(_messages(http, path, attempt, after)) as stream:
                async for messages in stream:
                    outage.over()
                    for message in messages:
                        if message.event == "end":
                            return
                        if message.event == "live":
                            if not told:
                                told = True
                                yield LogLine(b"", live=True)
                            continue
                        after = message.id or after
                        yield LogLine(
                            _bytes(http, message.data)
                            if message.event == "bytes"
                            else message.data + b"\n"
                        )
        except NoStream:
            raise CannotReach(
                f"{http.where} does not stream output: it is too old for this client, or a proxy on the way collects it"
            ) from None
        except NotOurs:
            raise
        except CannotReach as error:
            outage.begins(error)
        await asyncio.sleep(outage.pause_s or PAUSE_S)


def _bytes(http: Http, data: bytes) -> bytes:
    try:
        return base64.b64decode(data)
    except ValueError:
        raise NotOurs(f"what {http.where} sends is not the output of a job") from None


async def _messages(
    http: Http, path: str, attempt: int, after: str
) -> AsyncGenerator[list[Message], None]:
    parser = Parser()
    async with contextlib.aclosing(http.stream(path, {"attempt": attempt}, after=after)) as pieces:
        async for piece in pieces:
            yield parser.feed(piece)
