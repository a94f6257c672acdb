"""Much that a job leaves is no burden for its agent. `tests/soak` has the same with ten times as
much.
"""

from __future__ import annotations

from faults.crew import SOON, Yard
from faults.large import large
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog


async def test_large_files_neither_fill_the_agent_nor_hold_up_its_heartbeats(
    server: NatsServer, log: EventLog, yard: Yard
) -> None:
    seen = await large(server.url, log, yard, log_mb=10, video_mb=20)
    assert [(one.name, one.size, one.note) for one in seen.artifacts] == [
        ("output.log", 10_000_000, ""),
        ("test-results/video.webm", 20_000_000, ""),
    ]
    assert seen.peak_mb < 150
    assert seen.longest_silence_s < SOON.visibility_timeout_s * 2 / 3
