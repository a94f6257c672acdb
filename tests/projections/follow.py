"""A projector in a process of its own, to be killed: `python follow.py <nats url> <file> <batch>
[<method of the writer> <call>]`.

With a method it kills itself right after that call of it, inside the transaction.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from qgjet.jetstream.connection import connect
from qgjet.store.event_log import EventLog
from qgjet_projections.readmodel import ReadModel, projector
from qgjet_projections.readmodel.writer import Writer


async def follow(url: str, path: Path) -> None:
    async with (
        connect(url, name="follow") as connection,
        projector.Projector(EventLog(connection), ReadModel.open(path)),
    ):
        await asyncio.Event().wait()


def die_after(method: str, call: int) -> None:
    original, calls = getattr(Writer, method), itertools.count(1)

    def last_words(*arguments: Any) -> Any:
        answer = original(*arguments)
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(Writer, method, last_words)


if __name__ == "__main__":
    projector.BATCH = int(sys.argv[3])
    if len(sys.argv) > 4:
        die_after(sys.argv[4], int(sys.argv[5]))
    asyncio.run(follow(sys.argv[1], Path(sys.argv[2])))
