"""A job that leaves much behind: a log and a video of so many megabytes each, as `large(server,
log, yard, log_mb=, video_mb=)`.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import NamedTuple

from nats.aio.msg import Msg

from agents import agree, ended, submit
from factories import spec
from faults.crew import SOON, AgentProcess, Yard, crew
from qgjet.domain.events import Artifact
from qgjet.store.event_log import EventLog

JOB = """
import os, sys
log_mb, video_mb = map(int, sys.argv[1:])
line = b"x" * 99 + b"\\n"
for _ in range(log_mb * 10):
    os.write(1, line * 1000)
os.mkdir(os.environ["QGJET_ATTEMPT_DIR"] + "/test-results")
with open(os.environ["QGJET_ATTEMPT_DIR"] + "/test-results/video.webm", "wb") as video:
    for _ in range(video_mb):
        video.write(os.urandom(1_000_000))
sys.exit(1)
"""


class Seen(NamedTuple):
    artifacts: tuple[Artifact, ...]
    peak_mb: float
    """The largest that the agent's process has been."""
    longest_silence_s: float
    """Between two heartbeats of the job."""
    heartbeats: int


async def large(
    url: str, log: EventLog, yard: Yard, *, log_mb: int, video_mb: int, within_s: float = 40.0
) -> Seen:
    beats: list[float] = []

    async def heard(message: Msg) -> None:
        if message.data.startswith(b"+WPI"):
            beats.append(time.monotonic())

    await agree(log.connection, SOON.deployment)
    listening = await log.connection.client.subscribe("$JS.ACK.QG_EVENTS.>", cb=heard)
    (yard.path / "large.py").write_text(JOB)
    command = (sys.executable, "-I", "-S", str(yard.path / "large.py"), str(log_mb), str(video_mb))
    job = spec(test="large", max_retries=0, infra_retries=0)
    with crew(url, yard) as agents:
        agent = agents.start(
            "large", command=command, more='[artifacts]\nmax_file = "1GB"\nmax_attempt = "2GB"'
        )
        await agent.ready()
        before = time.monotonic()
        await submit(log, job)
        await ended(log, job.slot, within_s=within_s)
        peak_mb = _peak_mb(agent)
    await listening.unsubscribe()
    times = [before, *beats, time.monotonic()]
    outcome = (await log.history(job.slot))[-1].event.outcome  # type: ignore[union-attr]
    return Seen(
        outcome.artifacts,
        peak_mb,
        max(after - one for one, after in itertools.pairwise(times)),
        len(beats),
    )


def _peak_mb(agent: AgentProcess) -> float:
    with open(f"/proc/{agent.process.pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) / 1000 for line in status if line.startswith("VmHWM"))
