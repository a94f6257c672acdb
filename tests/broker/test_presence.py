"""The list of agents that are alive."""

from __future__ import annotations

from typing import Any

import pytest

from factories import NOW
from qgjet.jetstream import direct_get
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.store.event_log import EventLog


def info(name: str) -> AgentInfo:
    return AgentInfo(
        instance=name,
        name=name,
        host="h",
        pid=1,
        version="1",
        targets=(TargetSlots(target="emulator", slots=1),),
        slots=1,
        since=NOW,
    )


async def test_an_agent_that_moves_while_the_list_is_read_stands_on_it_once(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        await agent_registry.announce(log.connection, info(name))
    pages = 0

    async def a_page_later(*args: Any, **more: Any) -> list[direct_get.Stored]:
        nonlocal pages
        found = await direct_get.messages(*args, **more)
        pages += 1
        if pages == 1:
            await agent_registry.announce(log.connection, info("a"))
            await agent_registry.withdraw(log.connection, "b")
        return found

    monkeypatch.setattr(agent_registry, "_BATCH", 2)
    monkeypatch.setattr(agent_registry, "messages", a_page_later)
    assert [one.name for one in await agent_registry.agents(log.connection)] == ["a", "c"]
    assert pages > 1
