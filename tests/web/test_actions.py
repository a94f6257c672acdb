"""Every action asks once, does what it says, tells it once, and is in the log."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from agents import running_agent, scripted
from qgjet.support.clock import utc_now
from web.stack import Stack
from web.visits import Visits, act, column, live, said

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def the_event(stack: Stack, kind: str) -> dict[str, object]:
    """The only one of its kind."""
    (found,) = [event for event in await stack.events() if event["type"] == kind]
    return found


async def test_a_target_is_paused_for_a_while_and_resumed(stack: Stack, visit: Visits) -> None:
    await stack.submit()
    page = await live(await visit(stack.url))
    await act(page, "Pause emulator", "Pause emulator", for_s="900", reason="new <devices>")
    assert await said(page) == "Paused target emulator."
    notice = page.locator(".notice.flaky")
    assert "Target emulator is paused until" in await notice.inner_text()
    assert "new <devices>" in await notice.inner_text()
    assert await column(page, "Waits for") == ["paused"]
    assert await page.get_by_text("Pause emulator").count() == 0
    event = await the_event(stack, "paused")
    assert (event["kind"], event["name"], event["reason"], event["by"]) == (
        "target",
        "emulator",
        "new <devices>",
        "api",
    )
    until = datetime.fromisoformat(str(event["until"]))
    assert abs(until - utc_now() - timedelta(minutes=15)) < timedelta(minutes=1)

    await page.reload()
    assert await page.locator("#said").count() == 0
    await page.get_by_role("button", name="Resume").click()
    assert await said(page) == "Resumed target emulator."
    assert await notice.count() == 0
    assert (await the_event(stack, "resumed"))["name"] == "emulator"


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
async def test_a_target_where_nothing_waits_is_paused_until_a_time_of_the_readers(
    stack: Stack, visit: Visits, scripts: bool
) -> None:
    async with running_agent(stack.log, stack.directory / "work"):
        page = await visit(stack.url, scripts=scripts)
        await act(page, "Pause a target", "Pause it", target="emulator", until="2099-01-31T18:00")
    assert await said(page) == "Paused target emulator."
    event = await the_event(stack, "paused")
    assert event["until"] == ("2099-01-31T12:30:00Z" if scripts else "2099-01-31T18:00:00Z"), (
        "in Kolkata, or in the zone that the form names"
    )
    assert "until 2099-01-31 18:00:00" in await page.locator(".notice.flaky").inner_text()
    job_id = await stack.submit()
    await page.goto(f"{stack.url}/ui/jobs/{job_id}")
    assert (
        "It waits: Target emulator is paused until 2099-01-31 18:00:00"
        in await page.locator(".attempt.calm").inner_text()
    )


async def test_an_end_of_a_pause_that_cannot_be_is_refused(stack: Stack) -> None:
    async with stack.client() as client:
        for fields, words in (
            ({"until": "2020-01-01T00:00"}, "until: is over already"),
            ({"until": "soon"}, "until: soon is not a time such as"),
            ({"until": "2099-01-01T00:00", "for_s": "900"}, "not both"),
        ):
            answer = await client.post(
                "/ui/queue/pause",
                data={"target": "emulator", **fields},
                headers={"Origin": stack.url},
            )
            assert (answer.status_code, words in answer.text) == (400, True), answer.text
    assert [event for event in await stack.events() if event["type"] == "paused"] == []


async def test_an_org_is_paused(stack: Stack, visit: Visits) -> None:
    await stack.submit()
    page = await live(await visit(stack.url))
    await act(page, "Pause an org", "Pause it", reason="over budget")
    event = await the_event(stack, "paused")
    assert await said(page) == f"Paused org {event['name']}."
    assert (event["kind"], event["reason"], event.get("until")) == ("org", "over budget", None)
    assert await column(page, "Waits for") == ["paused"]
    await page.get_by_role("button", name="Resume").click()
    assert await said(page) == f"Resumed org {event['name']}."


async def test_an_agent_is_drained_and_goes(stack: Stack, visit: Visits) -> None:
    async with running_agent(stack.log, stack.directory / "work", name="mac-1") as agent:
        page = await live(await visit(stack.url))
        await page.get_by_text("mac-1").first.wait_for()
        await act(page, "Drain", "Drain mac-1", reason="maintenance")
        assert await said(page) == f"Asked {agent.instance} to drain."
        await page.get_by_text("No agent is alive").wait_for()  # by itself
        assert await said(page) == f"Asked {agent.instance} to drain."
    event = await the_event(stack, "drain_requested")
    assert (event["name"], event["reason"]) == (agent.instance, "maintenance")


async def test_a_queued_job_is_cancelled_and_run_again(stack: Stack, visit: Visits) -> None:
    job_id = await stack.submit()
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    await act(page, "Cancel", "Cancel this job", reason="not needed")
    assert await said(page) == "The job is cancelled."
    assert await page.locator("h1 + .badge").inner_text() == "cancelled"
    (event,) = [one for one in await stack.events(job_id) if one["type"] == "cancel_requested"]
    assert (event["reason"], event["by"]) == ("not needed", "api")

    await act(page, "Run again", "Run it again")
    assert await said(page) == "This is the new job."
    assert job_id not in page.url
    assert await page.get_by_role("link", name=job_id).is_visible()
    (new,) = [
        one for one in await stack.events(page.url.rpartition("/")[2]) if one["type"] == "submitted"
    ]
    assert new["spec"]["rerun_of"] == job_id


async def test_a_running_job_is_cancelled_by_its_agent(stack: Stack, visit: Visits) -> None:
    job_id = await stack.submit()
    async with running_agent(
        stack.log, stack.directory / "work", runners=scripted(gate=asyncio.Event())
    ):
        page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
        await page.locator("h1 + .badge.live").wait_for()
        await act(page, "Cancel", "Cancel this job")
        assert await said(page) == "Its agent was asked to stop the job."
        await page.locator("h1 + .badge", has_text="cancelled").wait_for()
        assert await page.locator("summary").all_inner_texts() == ["Run again"]


async def test_a_queued_job_gets_another_priority(stack: Stack, visit: Visits) -> None:
    job_id = await stack.submit()
    page = await live(await visit(f"{stack.url}/ui/jobs/{job_id}"))
    await act(page, "Priority", "Change it", priority="1")
    assert await said(page) == "Its priority is 1 now; it was 5."
    assert "1 (" in await page.locator("dl.facts").inner_text()
    (event,) = [one for one in await stack.events(job_id) if one["type"] == "requeued"]
    assert (event["spec"]["priority"], event["by"]) == (1, "api")


async def test_a_suite_is_cancelled(stack: Stack, visit: Visits) -> None:
    jobs = await stack.suite("ci-1", ["tests/a.spec.ts", "tests/b.spec.ts"])
    page = await live(await visit(f"{stack.url}/ui/suites/ci-1"))
    await act(page, "Cancel", "Cancel the suite", reason="superseded")
    assert await said(page) == "Cancelled 2 jobs."
    assert await column(page, "State") == ["cancelled", "cancelled"]
    assert {
        event["job_id"]
        for event in await stack.events()
        if event["type"] == "cancel_requested" and event["reason"] == "superseded"
    } == set(jobs)


@pytest.mark.parametrize("everything", [False, True])
async def test_what_failed_in_a_suite_is_run_again_or_all_of_it(
    stack: Stack, visit: Visits, everything: bool
) -> None:
    jobs = await stack.suite("ci-1", ["tests/a.spec.ts", "tests/b.spec.ts"], max_retries=0)
    async with running_agent(
        stack.log, stack.directory / "work", runners=scripted({"tests/b.spec.ts": ("failed",)})
    ):
        await stack.ended(*jobs)
    page = await live(await visit(f"{stack.url}/ui/suites/ci-1"))
    await act(
        page, "Run failed again", "Run them again", **({"everything": "yes"} if everything else {})
    )
    assert await said(page) == f"This is the new suite, of {1 + everything} jobs."
    assert "/ui/suites/ci-1?" not in page.url
    assert (
        sorted(await column(page, "Test"))
        == ["tests/a.spec.ts", "tests/b.spec.ts"][not everything :]
    )
    again = {
        event["spec"].get("rerun_of")
        for event in await stack.events()
        if event["type"] == "submitted"
    } - {None}
    assert again == set(jobs[not everything :])


async def dead(stack: Stack, *tests: str) -> list[str]:
    jobs = [await stack.submit(test, max_retries=0) for test in tests]
    async with running_agent(
        stack.log, stack.directory / "work", runners=scripted({"*": ("config_error",)})
    ):
        await stack.ended(*jobs)
    return jobs


async def test_dead_letters_are_redriven_and_discarded_one_by_one(
    stack: Stack, visit: Visits
) -> None:
    first, second = await dead(stack, "tests/a.spec.ts", "tests/b.spec.ts")
    page = await live(await visit(f"{stack.url}/ui/dead"))
    row = page.locator("tr", has_text="tests/a.spec.ts")
    await row.get_by_text("Redrive").click()
    await row.get_by_role("button", name="Run it again").click()
    assert (await said(page)).startswith("Redriven as job ")
    new_id = (await said(page)).split()[-1].rstrip(".")
    assert await column(page, "Test") == ["tests/b.spec.ts"]
    await act(page, "Discard", "Discard it", reason="known")
    assert await said(page) == "Discarded."
    assert await page.get_by_text("Nothing waits here.").is_visible()
    (again,) = [event for event in await stack.events(new_id) if event["type"] == "submitted"]
    assert again["spec"]["rerun_of"] == first
    event = await the_event(stack, "discarded")
    assert (event["name"], event["reason"]) == (second, "known")
    await page.goto(f"{stack.url}/ui/dead?settled=true")
    assert sorted(await column(page, "Test")) == ["tests/a.spec.ts", "tests/b.spec.ts"]
    assert await page.get_by_role("link", name=new_id[:8]).is_visible()


async def test_all_dead_letters_of_a_filter_are_redriven_or_discarded(
    stack: Stack, visit: Visits
) -> None:
    await dead(stack, "tests/a.spec.ts", "tests/b.spec.ts", "tests/c.spec.ts")
    page = await live(await visit(f"{stack.url}/ui/dead?test=tests%2Fa.spec.ts"))
    await act(page, "Redrive all", "Run them again")
    assert await said(page) == "Redriven: 1."
    assert sorted(await column(page, "Test")) == ["tests/b.spec.ts", "tests/c.spec.ts"]
    await act(page, "Discard all", "Discard them", because="old build")
    assert await said(page) == "Discarded: 2."
    assert await column(page, "Test") == []
    assert [event["reason"] for event in await stack.events() if event["type"] == "discarded"] == [
        "old build"
    ] * 2


async def test_a_filter_that_is_not_understood_settles_nothing(stack: Stack) -> None:
    await dead(stack, "tests/a.spec.ts")
    async with stack.client() as client:
        for action in ("redrive", "discard"):
            answer = await client.post(
                f"/ui/dead/{action}", data={"verdict": "infra"}, headers={"Origin": stack.url}
            )
            assert answer.status_code == 400, action
    assert [
        event
        for event in await stack.events()
        if event["type"] == "discarded" or event.get("spec", {}).get("rerun_of")
    ] == []


async def test_what_somebody_else_was_quicker_with_is_told(stack: Stack, visit: Visits) -> None:
    visit.expected = ["409 POST"]
    job_id = await stack.submit()
    page = await visit(f"{stack.url}/ui/jobs/{job_id}", scripts=False)
    async with running_agent(stack.log, stack.directory / "work"):
        await stack.ended(job_id)
    await act(page, "Priority", "Change it", priority="1")
    assert "quicker" in await page.locator("main").inner_text()


async def test_actions_work_without_scripts(stack: Stack, visit: Visits) -> None:
    await stack.submit()
    page = await visit(stack.url, scripts=False)
    await act(page, "Pause emulator", "Pause emulator")
    assert await said(page) == "Paused target emulator."
    await page.reload()
    assert await page.locator("#said").count() == 0
