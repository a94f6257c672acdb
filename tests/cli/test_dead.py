"""`dead`, and steering the queue, through the API."""

from __future__ import annotations

from typing import Any

import pytest

from agents import ended as end_of
from agents import eventually
from cli.commandline import ORG, TARGET, VERSION, Cli, Work
from qgjet.domain.events import Slot
from qgjet.store.event_log import EventLog
from qgjet_projections.usecases import decisions

A, B, C = (f"tests/{name}.spec.js" for name in "abc")


async def died(over_api: Cli, work: Work, log: EventLog, *tests: str) -> list[str]:
    """Jobs that ended without a verdict about the app."""
    async with work({test: ("infra_error",) for test in tests}):
        flags = [flag for test in tests for flag in ("--test", test)]
        answer = (
            await over_api("submit", *flags, "--infra-retries", "0", "--suite-id", "ci", "--json")
        ).json
        for test in tests:
            await end_of(log, Slot(ORG, VERSION, TARGET, test))
    jobs: list[Any] = answer if isinstance(answer, list) else [answer]
    return [job["job_id"] for job in jobs]


async def test_dead_letters_are_listed_shown_redriven_and_discarded(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    first, second, third = await died(over_api, work, log, A, B, C)
    listed = await over_api("dead", "list", "--cause", "scripted")
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [
        [job, "infra_error"] for job in (third, second, first)
    ]
    assert (await over_api("dead", "list", "--test", B, "--target", TARGET, "--json")).json[0][
        "job_id"
    ] == second
    shown = await over_api("dead", "show", first)
    for text in (first, "infra_error", A, "ATTEMPT"):
        assert text in shown.out
    redriven = await over_api("dead", "redrive", first, "--json")
    assert redriven.code == 0
    (done,) = redriven.json
    assert (await over_api("status", done["new_job_id"], "--json")).json["rerun_of"] == first
    again = await over_api("dead", "redrive", first)
    assert (again.code, done["new_job_id"] in again.out) == (2, True)
    discarded = await over_api("dead", "discard", "--test", B, "--reason", "known")
    assert (discarded.code, discarded.out) == (0, f"Job {second} → discarded\n")
    assert (
        f"Job {third} → redriven as"
        in (await over_api("dead", "redrive", "--older-than", "0s")).out
    )
    assert "No dead letters." in (await over_api("dead", "list")).err
    settled = (await over_api("dead", "list", "--settled", "--json")).json
    assert {one["job_id"]: one["settlement"]["how"] for one in settled} == {
        first: "redriven",
        second: "discarded",
        third: "redriven",
    }


async def test_which_has_to_be_said(over_api: Cli) -> None:
    for args in (
        ("dead", "redrive"),
        ("dead", "discard", "x", "--all"),
        ("dead", "redrive", "--all", "--target", "emulator"),
        ("dead", "show", "nobody"),
    ):
        ended = await over_api(*args)
        assert (ended.code, bool(ended.error)) == (2, True), args


async def test_those_behind_refused_ones_are_not_passed_over_in_silence(
    over_api: Cli, work: Work, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "MOST_AT_ONCE", 1)
    first, _ = await died(over_api, work, log, A, B)
    await over_api("submit", "--test", A)  # its slot is taken again
    tried = await over_api("dead", "redrive", "--all")
    assert (
        tried.code,
        tried.out.startswith(f"Job {first} → "),
        "1 more wait behind these" in tried.err,
    ) == (2, True, True)


async def test_a_paused_queue_says_so_and_goes_on_when_it_is_resumed(
    over_api: Cli, work: Work, log: EventLog
) -> None:
    paused = await over_api("pause", "--target", TARGET, "--for", "2h", "--reason", "new cables")
    assert (paused.code, f"Target {TARGET} → paused until" in paused.out) == (0, True)
    await over_api("submit", "--test", A)
    async with work():
        shown = await over_api("queue")
        assert shown.out.splitlines()[-1].split()[:4] == [ORG, VERSION, TARGET, "1"]
        assert shown.out.rstrip().endswith("paused")
        assert "new cables" in shown.err
        assert "queued (paused)" in (await over_api("list")).out
        found = (await over_api("queue", "--json")).json
        assert [found["pauses"][0]["name"], found["partitions"][0]["pending_reason"]] == [
            TARGET,
            "paused",
        ]
        assert (await over_api("resume", "--target", TARGET)).out == f"Target {TARGET} → resumed\n"
        await end_of(log, Slot(ORG, VERSION, TARGET, A))
    assert "Nothing is queued" in (await over_api("queue")).err


async def test_a_pause_is_of_one_thing_and_until_a_time(over_api: Cli) -> None:
    for args in (
        (),
        ("--target", "a", "--org-id", "b"),
        ("--target", "a", "--until", "soon"),
        ("--target", "a", "--until", "2020-01-01"),
        ("--org-id", "a", "--for", "x"),
    ):
        assert (await over_api("pause", *args)).code == 2, args
    assert (await over_api("pause", "--org-id", ORG, "--until", "2040-01-01T00:00:00Z")).code == 0


async def test_agents_are_listed_and_drained(over_api: Cli, work: Work) -> None:
    assert "No agents are alive" in (await over_api("agents")).err
    async with work() as agent:

        async def alive() -> list[Any]:
            found: list[Any] = (await over_api("agents", "--json")).json
            return found

        await eventually(alive)
        assert agent.instance in (await over_api("agents")).out
        drained = await over_api("drain", agent.instance, "--reason", "new cables")
        assert (drained.code, drained.out) == (0, f"Agent {agent.instance} → asked to drain\n")

        async def drains() -> bool:
            return agent.draining

        await eventually(drains)
    assert (await over_api("drain", "nobody")).code == 2


async def test_a_queued_job_is_moved(over_api: Cli) -> None:
    job_id = (await over_api("submit", "--test", A, "--json")).json["job_id"]
    moved = await over_api("priority", job_id, "0")
    assert (moved.code, moved.out) == (0, f"Job {job_id} → priority 0 (it was 5)\n")
    assert (await over_api("priority", job_id, "10")).code == 2
    assert (await over_api("priority", "nobody", "1")).code == 2
