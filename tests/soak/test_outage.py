"""A server that is away for minutes: what stands for hours."""

from __future__ import annotations

from pathlib import Path

from faults.outage import at_work, away, cpu_s, listening, memory_kb, works
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog

AWAY_S = 150.0


async def test_minutes_without_a_server_cost_neither_lines_nor_memory_nor_time(
    server: NatsServer, log: EventLog, tmp_path: Path
) -> None:
    async with at_work(log, tmp_path) as service:
        await works(service, log, "before")
        await away(server, service, 5.0)
        held, used = memory_kb(), cpu_s()
        with listening() as lines:
            await away(server, service, AWAY_S)
        assert cpu_s() - used < 0.1 * AWAY_S
        assert memory_kb() - held < 10_000
        assert len(lines.said) < 15 + AWAY_S / 5, "\n".join(lines.said)
        await works(service, log, "after")
