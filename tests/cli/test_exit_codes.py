"""One test for each exit code, with a real process."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from agents import eventually
from cli.commandline import ORG, TARGET, VERSION, Cli, Inside, Work
from qgjet.domain.decide import Cancel
from qgjet.domain.events import Slot, Status, Verdict
from qgjet.jetstream.server import NatsServer
from qgjet.store.event_log import EventLog
from qgjet_cli import exits
from qgjet_cli.exits import Exit, of_verdicts

A, B, C = (f"tests/{name}.spec.js" for name in "abc")
HANG = ("hang",)


def slot(test: str = A) -> Slot:
    return Slot(ORG, VERSION, TARGET, test)


@pytest.mark.parametrize(
    ("outcomes", "flags", "code"),
    [
        ({}, (), 0),
        ({A: ("failed", "passed")}, (), 0),
        ({A: ("failed", "passed")}, ("--fail-on-flaky",), 1),
        ({A: ("failed",)}, ("--max-retries", "0"), 1),
        ({A: ("timed_out",)}, ("--max-retries", "0"), 1),
        ({A: ("infra_error",)}, ("--infra-retries", "0"), 3),
        ({A: ("config_error",)}, (), 3),
        ({A: ("config_error",), B: ("failed",)}, ("--max-retries", "0"), 1),
    ],
    ids=[
        "passed",
        "flaky",
        "flaky is not allowed",
        "failed",
        "timed out",
        "infra error",
        "config error",
        "failed before config error",
    ],
)
async def test_the_worst_verdict_decides(
    cli: Cli, work: Work, outcomes: dict[str, tuple[str, ...]], flags: tuple[str, ...], code: int
) -> None:
    async with work(outcomes):
        ended = await cli("run", "--test", A, "--test", B, *flags, "--json")
    assert ended.code == code, ended.err
    assert ended.json["summary"]["exit_code"] == code


async def test_nothing_but_skipped_is_0_with_a_warning(cli: Cli, work: Work) -> None:
    async with work({"*": ("skipped",)}):
        ended = await cli("run", "--test", A)
    assert ended.code == 0
    assert "Warning: every test was skipped" in ended.err


async def test_a_cancelled_job_is_6(cli: Cli, work: Work, log: EventLog) -> None:
    async with work({A: HANG}), cli.start("run", "--test", A, "--test", B) as running:
        await running.says("→ running", A)
        await log.execute(slot(), Cancel("somebody else"), await log.load(slot()))
        assert (await running.ends()).code == 6


def test_of_mixed_verdicts_1_goes_before_3_and_3_before_6() -> None:
    passed, failed, infra, cancelled = (
        Verdict.PASSED,
        Verdict.FAILED,
        Verdict.INFRA_ERROR,
        Verdict.CANCELLED,
    )
    assert of_verdicts([passed, cancelled, infra, failed]) is Exit.FAILED
    assert of_verdicts([passed, cancelled, infra]) is Exit.INCONCLUSIVE
    assert of_verdicts([passed, cancelled, None]) is Exit.INCONCLUSIVE
    assert of_verdicts([passed, cancelled]) is Exit.CANCELLED
    assert of_verdicts([passed, Verdict.SKIPPED, Verdict.FLAKY]) is Exit.PASSED
    assert of_verdicts([]) is Exit.INCONCLUSIVE


def test_the_table_in_the_help_has_every_code_of_run_and_wait() -> None:
    assert exits.__doc__ is not None
    for code in Exit:
        assert str(int(code)) in exits.__doc__
        assert str(int(code)) in exits.HELP or code is Exit.HUNG_UP


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("submit",), "--test"),
        (("submit", "--test", A, "--priority", "10"), "--priority"),
        (("submit", "--test", A, "--priority", "high"), "--priority"),
        (("submit", "--test", A, "--max-retries", "11"), "--max-retries"),
        (("submit", "--test", A, "--nope"), "--nope"),
        (("submit", "--test", A, "--tag", "novalue"), "--tag"),
        (("submit", "--test", A, "--execution-timeout", "soon"), "--execution-timeout"),
        (("submit", "--test", A, "--queue-timeout", "0"), "--queue-timeout"),
        (("submit", "--test", A, "--suite-id", "a/b"), "--suite-id"),
        (("submit", "--test", A, "--idempotency-key", ""), "--idempotency-key"),
        (("submit", "--test", "/etc/passwd"), "--test"),
        (("submit", "--test", "../x.spec.js"), "--test"),
        (("submit", "--test", "../*.spec.js"), "--test"),
        (("submit", "--test", ""), "--test"),
        (("submit", "--test", "a\nb"), "--test"),
        (("submit", "--test", "-x.spec.js"), "--test"),
        (("submit", "--test", "tests"), "directory"),
        (("submit", "--test", "tests\\a.spec.js"), "--test"),
        (("submit", "--test", "x" * 600), "--test"),
        (("submit", "--test", A, "--org-id", "x" * 65), "--org-id"),
        (("submit", "--test", A, "--target", "é" * 40), "--target"),
        (("submit", "--test", A, "--config", "nowhere.toml"), "--config"),
        (("submit", "--test", A, "--nats", "", "--api", "ftp://x"), "--api"),
        (("submit", "--test", A, "--nats", "nats://[::1"), "--nats"),
        (("submit", "--test", A, "--nats", "nats://127.0.0.1:99999"), "--nats"),
        (("run", "--test", A, "--timeout", "-1s"), "--timeout"),
        (("wait",), "give jobs"),
        (("wait", "x", "--suite", "y"), "give jobs"),
        (("status",), "give one job"),
        (("cancel",), "give jobs"),
        (("frobnicate",), "frobnicate"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_bad_usage_is_2_and_the_line_names_the_flag(
    inside: Inside, args: tuple[str, ...], says: str
) -> None:
    ended = inside(
        *args,
        QGJET_ORG_ID=ORG,
        QGJET_APP_VERSION_ID=VERSION,
        QGJET_TARGET=TARGET,
        QGJET_NATS_URL="nats://127.0.0.1:1",
    )
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.error
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("missing", ["QGJET_ORG_ID", "QGJET_APP_VERSION_ID", "QGJET_TARGET"])
def test_what_has_to_be_given_is_asked_for_by_name(inside: Inside, missing: str) -> None:
    ended = inside(
        "submit",
        "--test",
        A,
        **{
            "QGJET_ORG_ID": ORG,
            "QGJET_APP_VERSION_ID": VERSION,
            "QGJET_TARGET": TARGET,
            missing: "",
        },
    )
    assert ended.code == 2
    assert missing in ended.error


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize(
    "verb",
    [
        ("submit", "--test", A),
        ("run", "--test", A),
        ("status", "1"),
        ("wait", "1"),
        ("wait", "--suite", "1"),
        ("list",),
        ("cancel", "1"),
    ],
)
def test_an_api_that_is_not_there_is_4(inside: Inside, verb: tuple[str, ...]) -> None:
    ended = inside(
        *verb,
        "--api",
        f"http://127.0.0.1:{closed_port()}",
        QGJET_ORG_ID=ORG,
        QGJET_APP_VERSION_ID=VERSION,
        QGJET_TARGET=TARGET,
    )
    assert (ended.code, ended.out) == (4, "")
    assert "qgjet up" in ended.error


async def test_a_nats_server_that_is_not_there_is_4(cli: Cli) -> None:
    ended = await cli(
        "run", "--test", A, "--nats", f"nats://somebody:secret@127.0.0.1:{closed_port()}"
    )
    assert (ended.code, ended.out) == (4, "")
    assert "secret" not in ended.err
    assert "NATS" in ended.error


async def test_without_any_server_a_submission_looks_for_the_api_on_this_machine(
    alone: Cli,
) -> None:
    ended = await alone(
        "submit",
        "--org-id",
        "o",
        "--app-version-id",
        "v",
        "--test",
        A,
        "--target",
        "t",
        QGJET_API_PORT=str(closed_port()),
    )
    assert ended.code == 4, ended.err
    assert "http://127.0.0.1:" in ended.error


@pytest.mark.parametrize("verb", ["submit", "run"])
async def test_no_tests_matched_is_5(cli: Cli, project: Path, verb: str) -> None:
    ended = await cli(verb, "--test", A, "--test", "tests/**/*.spec.ts")
    assert (ended.code, ended.out) == (5, "")
    assert "tests/**/*.spec.ts" in ended.error
    assert str(project) in ended.error


@pytest.mark.parametrize("verb", [("status", "1"), ("wait", "1"), ("list",), ("cancel", "1")])
def test_reading_and_cancelling_by_id_need_the_api_and_say_so(
    inside: Inside, verb: tuple[str, ...]
) -> None:
    ended = inside(*verb, QGJET_NATS_URL="nats://127.0.0.1:1")
    assert ended.code == 2
    assert "set QGJET_API_URL or pass --api" in ended.error


async def test_the_clients_timeout_is_124_and_the_jobs_go_on(cli: Cli, log: EventLog) -> None:
    ended = await cli("run", "--test", A, "--timeout", "0.3s", "--json")
    assert ended.code == 124
    assert ended.json["summary"]["no_result"] == 1
    assert "qgjet wait --suite" in ended.err
    job = await log.load(slot())
    assert job is not None
    assert job.live


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_while_waiting_is_130_or_143(
    cli: Cli, work: Work, log: EventLog, number: signal.Signals, code: int
) -> None:
    async with work({A: HANG}), cli.start("run", "--test", A) as running:
        await running.says("→ running")
        running.signal(number)
        ended = await running.ends()
        assert ended.code == code
        job = await eventually(lambda: log.load(slot()))
        assert job is not None
        assert job.status is Status.CANCELLED


async def test_the_server_that_stays_away_is_4(cli: Cli, server: NatsServer) -> None:
    async with cli.start("run", "--test", A, "--test", B, "--patience", "1s") as running:
        await running.says("Suite")
        server.kill()
        await running.says("is lost")
        ended = await running.ends()
    assert ended.code == 4, ended.err
    assert "has been away" in ended.error
    assert "queued" in ended.out
