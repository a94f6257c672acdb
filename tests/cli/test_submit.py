"""`qgjet submit`, straight to NATS and through the API."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agents import ended as of_agent
from cli.commandline import ORG, TARGET, VERSION, Cli, Work
from qgjet.config.settings import QueueSettings
from qgjet.domain.events import Slot, Submitted, Verdict
from qgjet.domain.subjects import STREAM, Lane, lane_consumer
from qgjet.jetstream.connection import Connection
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue

A, B = "tests/a.spec.js", "tests/b.spec.js"
S1 = (
    "submit",
    "--org-id",
    "qualgent",
    "--app-version-id",
    "xyz123",
    "--test",
    "tests/onboarding.spec.js",
    "--target",
    "emulator",
    "--priority",
    "2",
)
HOSTILE = "../a b*.>%~/\\\u202e\x1b[31m'\"$(x)"


def slot(test: str = A, **fields: str) -> Slot:
    return Slot(
        fields.get("org_id", ORG),
        fields.get("app_version_id", VERSION),
        fields.get("target", TARGET),
        test,
    )


async def submitted(log: EventLog, of: Slot) -> Submitted:
    event = (await log.history(of))[-1].event
    assert isinstance(event, Submitted)
    return event


async def test_the_first_line_of_s1_works_as_it_stands(either: Cli, log: EventLog) -> None:
    ended = await either(*S1, program="qgjob")
    assert ended.code == 0, ended.err
    spec = (await submitted(log, slot("tests/onboarding.spec.js"))).spec
    assert ended.out == f"Job submitted! ID: {spec.job_id} | Status: queued\n"
    assert (spec.org_id, spec.app_version_id, spec.target, spec.priority) == (
        "qualgent",
        "xyz123",
        "emulator",
        2,
    )


async def test_the_second_line_of_s1_finds_the_job(over_api: Cli) -> None:
    job = (await over_api(*S1, "--json", program="qgjob")).json
    ended = await over_api("status", "--job-id", job["job_id"], program="qgjob")
    assert ended.code == 0
    assert "queued" in ended.out
    found = (await over_api("status", f"--job-id={job['job_id']}", "--json", program="qgjob")).json
    assert (found["job_id"], found["status"], found["legacy_status"], found["test"]) == (
        job["job_id"],
        "queued",
        "queued",
        "tests/onboarding.spec.js",
    )


async def test_one_path_is_one_object(either: Cli) -> None:
    ended = await either("submit", "--test", A, "--tag", "branch=main", "--json")
    job = ended.json
    assert (
        " ".join(job)
        == "job_id status legacy_status org_id app_version_id target test priority suite_id attached replaced seq error"
    )
    assert (
        job["status"],
        job["legacy_status"],
        job["org_id"],
        job["app_version_id"],
        job["target"],
        job["test"],
    ) == (
        "queued",
        "queued",
        ORG,
        VERSION,
        TARGET,
        A,
    )
    assert job["seq"] > 0
    assert (job["attached"], job["replaced"], job["error"], job["suite_id"]) == (
        False,
        None,
        None,
        None,
    )


async def test_a_pattern_and_several_tests_are_a_list_and_a_suite(either: Cli) -> None:
    of_pattern = (await either("submit", "--test", "tests/on*.spec.js", "--json")).json
    of_several = (
        await either(
            "submit",
            "--test",
            B,
            "--test",
            "tests/[ab].spec.{js,ts}",
            "--test",
            "not/here.spec.js",
            "--json",
        )
    ).json
    assert [job["test"] for job in of_pattern] == ["tests/onboarding.spec.js"]
    assert [job["test"] for job in of_several] == [B, A, "not/here.spec.js"]
    assert len({job["suite_id"] for job in of_several}) == 1


async def test_many_jobs_are_told_with_their_tests(either: Cli) -> None:
    ended = await either("submit", "--test", A, "--test", B, "--suite-id", "ci-7")
    first, second, suite = ended.out.splitlines()
    assert first.startswith("Job submitted! ID: ")
    assert first.endswith(f"| Status: queued | Test: {A}")
    assert second.endswith(B)
    assert suite == "Suite: ci-7 | Jobs: 2"


async def test_a_live_duplicate_is_attached_to_rejected_or_replaced(
    either: Cli, log: EventLog
) -> None:
    first = (await either("submit", "--test", A, "--json")).json["job_id"]
    attached = await either("submit", "--test", A)
    assert (
        attached.out
        == f"Job submitted! ID: {first} | Status: queued | attached to a live job of the same test\n"
    )
    rejected = await either("submit", "--test", A, "--on-duplicate", "reject")
    assert (rejected.code, rejected.out) == (2, "")
    assert first in rejected.error
    replaced = (await either("submit", "--test", A, "--on-duplicate", "replace", "--json")).json
    assert (replaced["replaced"], replaced["attached"]) == (first, False)
    assert (await submitted(log, slot())).replaces == first


async def test_of_many_the_refused_ones_are_named_and_the_others_are_submitted(either: Cli) -> None:
    await either("submit", "--test", A)
    ended = await either(
        "submit", "--test", A, "--test", B, "--on-duplicate", "reject", "--partial", "--json"
    )
    refused, accepted = ended.json
    assert ended.code == 2
    assert (refused["job_id"], accepted["error"]) == (None, None)
    assert "already live" in refused["error"]
    assert A in ended.error


async def test_of_many_one_that_is_refused_refuses_all(either: Cli, log: EventLog) -> None:
    live = (await either("submit", "--test", A, "--json")).json["job_id"]
    ended = await either("submit", "--test", A, "--test", B, "--on-duplicate", "reject", "--json")
    assert (ended.code, [one["job_id"] for one in ended.json]) == (2, [None, None])
    assert live in ended.json[0]["error"]
    assert "so none was" in ended.json[1]["error"]
    assert await log.load(slot(B)) is None


async def test_the_same_idempotency_key_gives_the_same_job(either: Cli) -> None:
    first = (await either("submit", "--test", A, "--idempotency-key", "run 7", "--json")).json
    again = (await either("submit", "--test", A, "--idempotency-key", "run 7", "--json")).json
    assert (again["job_id"], again["attached"], again["seq"]) == (
        first["job_id"],
        False,
        first["seq"],
    )
    other = await either("submit", "--test", A, "--idempotency-key", "run 7", "--priority", "1")
    assert other.code == 2
    assert "another request" in other.error


async def test_an_idempotency_key_holds_for_many_jobs(either: Cli) -> None:
    asked = ("submit", "--test", A, "--test", B, "--idempotency-key", "run 8", "--json")
    first, again = (await either(*asked)).json, (await either(*asked)).json
    assert [job["job_id"] for job in first] == [job["job_id"] for job in again]
    assert {job["suite_id"] for job in first} == {job["suite_id"] for job in again}


async def test_flags_go_before_variables_and_variables_before_the_file(
    either: Cli, project: Path, log: EventLog
) -> None:
    (project / "qgjet.toml").write_text(
        'org_id = "file"\ntarget = "file"\n[job]\nmax_retries = 7\ninfra_retries = 1\nqueue_timeout = "2h"\n'
    )
    ended = await either(
        "submit",
        "--test",
        A,
        "--target",
        "flag",
        "--infra-retries",
        "2",
        "--execution-timeout",
        "90s",
    )
    assert ended.code == 0, ended.err
    spec = (await submitted(log, slot(target="flag"))).spec
    assert (
        spec.org_id,
        spec.max_retries,
        spec.infra_retries,
        spec.queue_timeout_s,
        spec.execution_timeout_s,
    ) == (ORG, 7, 2, 7200.0, 90.0)


async def test_hostile_ids_are_kept_as_they_are_and_shown_harmlessly(
    either: Cli, log: EventLog
) -> None:
    test = "it's (a) $PATH; rm `x` > y | \u202e 100%.spec.js"
    ended = await either(
        "submit",
        "--test",
        test,
        "--test",
        A,
        "--org-id",
        HOSTILE,
        "--target",
        HOSTILE,
        "--tag",
        f"k={HOSTILE}",
    )
    assert ended.code == 0, ended.err
    assert "\x1b" not in ended.out + ended.err
    assert "\u202e" not in ended.out + ended.err
    spec = (await submitted(log, slot(test, org_id=HOSTILE, target=HOSTILE))).spec
    assert spec.tags == {"k": HOSTILE}


async def test_undecodable_arguments_are_refused(cli: Cli) -> None:
    ended = await cli("submit", "--test", A, "--org-id", "\udcff")
    assert ended.code == 2
    assert "--org-id" in ended.error


async def test_a_target_that_nobody_serves_is_warned_of(either: Cli, work: Work) -> None:
    async with work():
        await asyncio.sleep(0)
        served = await either("submit", "--test", A)
        unserved = await either("submit", "--test", A, "--target", "toaster", "--json")
    assert "Warning" not in served.err
    assert unserved.code == 0
    assert "Warning: no agent serves target toaster" in unserved.err
    assert unserved.json["target"] == "toaster"


async def test_a_job_is_found_by_an_agent_that_comes_later_without_a_janitor(
    cli: Cli, work: Work, log: EventLog
) -> None:
    await cli("submit", "--test", A)
    async with work():
        assert (await of_agent(log, slot())).verdict is Verdict.PASSED


async def test_a_lane_keeps_the_visibility_timeout_of_its_deployment(
    cli: Cli, connection: Connection
) -> None:
    async def config() -> Any:
        return (await connection.api(f"CONSUMER.INFO.{STREAM}.{lane_consumer(lane)}"))["config"]

    lane = Lane(slot().partition, 5)
    await Queue(connection, QueueSettings(visibility_timeout_s=77.0)).ensure(lane)
    before = await config()
    assert (await cli("submit", "--test", A)).code == 0
    assert await config() == before


async def test_the_order_of_priorities_is_that_of_the_server(
    cli: Cli, server: object, project: Path, log: EventLog
) -> None:
    ended = await cli(
        "submit", "--test", A, "--priority", "9", QGJET_QUEUE_PRIORITY_ORDER="high-first"
    )
    assert ended.code == 4
    assert "priority_order is low-first" in ended.error
    await cli("submit", "--test", A, "--priority", "9")
    assert (await submitted(log, slot())).spec.rank == 9


async def test_a_batch_larger_than_one_request_is_cut(over_api: Cli, project: Path) -> None:
    for number in range(1003):
        (project / "tests" / f"n{number:04}.spec.ts").touch()
    jobs = (await over_api("submit", "--test", "tests/n*.spec.ts", "--json")).json
    assert [job["test"] for job in jobs] == [
        f"tests/n{number:04}.spec.ts" for number in range(1003)
    ]
    assert len({job["job_id"] for job in jobs}) == 1003
    assert len({job["suite_id"] for job in jobs}) == 1


async def test_paths_count_from_the_project_that_the_settings_name(cli: Cli, project: Path) -> None:
    (project / "apps" / "shop" / "tests").mkdir(parents=True)
    (project / "apps" / "shop" / "tests" / "cart.spec.ts").touch()
    (project / "qgjet.toml").write_text(f'[targets.{TARGET}]\ndir = "apps/shop"\n')
    inner = Cli(project / "apps")
    inner.environment = cli.environment
    assert [
        job["test"]
        for job in (await inner("submit", "--test", "tests/**/*.spec.ts", "--json")).json
    ] == ["tests/cart.spec.ts"]
    assert (await cli("submit", "--test", "apps/shop/tests/*.spec.ts")).code == 5


async def test_a_key_belongs_to_one_request_whatever_its_test(
    either: Cli, cli: Cli, log: EventLog
) -> None:
    """Another test is another slot, where the first job is not found."""
    assert (await either("submit", "--test", A, "--idempotency-key", "k")).code == 0
    for command in ("submit", "run"):
        other = await cli(command, "--test", B, "--idempotency-key", "k")
        assert (other.code, "belongs to another request" in other.error) == (2, True), command
    assert await log.load(Slot(ORG, VERSION, TARGET, B)) is None


async def test_the_wishes_that_an_attached_job_does_not_follow_are_named(either: Cli) -> None:
    assert (
        "not followed" not in (await either("submit", "--test", A, "--execution-timeout", "9s")).err
    )
    assert "not followed" not in (await either("submit", "--test", A, "--no-ci-tags")).err
    attached = await either(
        "submit",
        "--test",
        A,
        "--execution-timeout",
        "5s",
        "--priority",
        "1",
        "--max-retries",
        "1",
        "--no-ci-tags",
        "--json",
    )
    assert attached.json["attached"], (attached.code, attached.out, attached.err)
    assert (
        "1 job attached: the better priority and the shorter timeouts of both submissions count"
        in attached.err
    )
    assert "Warning: 1 job attached; max retries of this command not followed" in attached.err
