"""Processes under their guardian: results, stops, and that nobody outlives the job whatever is
killed or frozen.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patience import patience
from qgjet.process import supervised_process as tree_module
from qgjet.process.run import KILL_MARGIN_S, ProcessResult, _patience, run_process, run_within
from qgjet.process.stop_control import StopControl, StopReason
from qgjet.process.supervised_process import Command, Output, StartError, SupervisedProcess
from qgjet.support.clock import lease_time
from runners.processes import FakeAgent, Family, Printed, wait_until

Script = Callable[[str], list[str]]

HANG = "say('ready'); signal.pause()"
DAEMON = """
said, saying = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        say("daemon", os.getpid())
        os.close(saying)
        time.sleep(1000)
    os._exit(0)
os.close(saying)
os.read(said, 1)
os.wait()
"""
AGENT = """
import asyncio, sys, time
from pathlib import Path
from qgjet.process.run import keep_alive, run_process
from qgjet.process.stop_control import StopControl
from qgjet.support.clock import lease_time

async def main():
    stop_control = StopControl(lease_time() + 1)
    keep_alive(stop_control.extend, hold_s={hold_s}, every_s=0.1)
    await run_process({argv!r}, cwd=Path("/"), env={env!r}, stop_control=stop_control, on_output=lambda data: print(data.decode(), flush=True))
    print("done")

asyncio.run(main())
"""


def stop_control(hold_s: float = 60.0) -> StopControl:
    return StopControl(lease_time() + hold_s)


async def run(argv: list[str], family: Family, **options: Any) -> ProcessResult:
    given: dict[str, Any] = {"cwd": Path("/"), "env": family.env, "stop_control": stop_control()}
    return await run_process(argv, **(given | options))


async def test_the_result_has_exit_code_duration_and_the_end_of_both_outputs(
    family: Family, tmp_path: Path
) -> None:
    began = time.monotonic()
    result = await run(["sh", "-c", "echo out; echo err >&2; pwd; exit 3"], family, cwd=tmp_path)
    assert (result.exit_code, result.signal, result.stopped) == (3, "", None)
    assert result.tail == f"out\nerr\n{tmp_path}\n".encode()
    assert 0 < result.duration_s <= time.monotonic() - began


async def test_a_command_is_not_started_after_the_hard_end(family: Family, tmp_path: Path) -> None:
    """An agent may have stood still since it claimed the job: another one may be running it."""
    for number in range(10):
        result = await run(
            ["sh", "-c", f"echo > {number}; sleep 60"],
            family,
            cwd=tmp_path,
            stop_control=StopControl(lease_time() - 0.001),
        )
        assert (result.exit_code, result.stopped) == (None, StopReason.LEASE_LOST)
    assert not list(tmp_path.iterdir())


async def test_a_command_that_dies_of_a_signal_has_no_exit_code(family: Family) -> None:
    result = await run(["sh", "-c", "kill -SEGV $$"], family)
    assert (result.exit_code, result.signal, result.stopped) == (None, "SIGSEGV", None)


async def test_arguments_are_passed_as_they_are_and_stdin_is_empty(
    family: Family, python: Script
) -> None:
    nasty = ["$(touch /tmp/x)", "a b", "*", ";", "'", '"', "", "ü", "\udce9", "\n"]
    result = await run(
        [*python("say([os.fsencode(a) for a in sys.argv[1:]], sys.stdin.read())"), *nasty], family
    )
    assert result.tail.decode() == f"{[os.fsencode(argument) for argument in nasty]} \n"


async def test_the_environment_is_the_given_one_and_the_mark_of_the_tree(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SECRET", "swordfish")
    result = await run(["/usr/bin/env", "-0"], family)
    variables = dict(item.split("=", 1) for item in result.tail.decode().split("\0") if item)
    assert variables.keys() - family.env.keys() == {"QGJET_TREE"}


async def test_output_goes_to_the_listener_and_the_log_as_it_comes(
    family: Family, tmp_path: Path, printed: Printed, python: Script
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    argv = python(f"say('first'); open({str(gate)!r}).read(); say('second')")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(argv, family, on_output=printed, log_path=tmp_path / "log"))
        await printed.says("first")
        assert (tmp_path / "log").read_text() == "first\n"
        assert not task.done()
        gate.write_text("")
    assert printed.text == (tmp_path / "log").read_text() == "first\nsecond\n"


async def test_a_log_is_cut_at_its_limit_and_says_so(
    family: Family, tmp_path: Path, printed: Printed
) -> None:
    await run(
        ["sh", "-c", "yes 0123456 | head -c 80000"],
        family,
        log_path=tmp_path / "log",
        log_limit=50_000,
        on_output=printed,
    )
    log = (tmp_path / "log").read_bytes()
    assert log[:50_000] == printed.data[:50_000]
    assert log[50_000:] == b"\n[qgjet: the log ends here, it is limited to 50000 bytes]\n"
    assert len(printed.data) == 80_000


async def test_a_hundred_megabytes_of_output_do_not_grow_the_agent(
    family: Family, fake_agent: Callable[[str], FakeAgent], tmp_path: Path
) -> None:
    agent = fake_agent(f"""
import asyncio, resource, time
from pathlib import Path
from qgjet.process.run import run_process
from qgjet.process.stop_control import StopControl
from qgjet.support.clock import lease_time

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

async def main():
    options = dict(cwd=Path("/"), env={family.env!r}, stop_control=StopControl(lease_time() + 60), log_path=Path("log"), log_limit=20_000_000)
    await run_process(["true"], **options)
    before = peak()
    result = await run_process(["head", "-c", "100000000", "/dev/zero"], **options)
    print("grown", peak() - before, len(result.tail))

asyncio.run(main())
""")
    _, grown_kib, tail = (await agent.says(b"grown")).split()
    assert int(grown_kib) < 8 * 1024
    assert int(tail) == 64 * 1024
    assert 20_000_000 < (tmp_path / "log").stat().st_size < 20_000_200


@pytest.mark.parametrize(
    ("argv", "cwd", "message"),
    [
        (["no-such-program"], "/", "no-such-program"),
        (["./no-such-program"], "/", "No such file"),
        (["/etc/passwd"], "/", "Permission denied"),
        (["true"], "/no/such/directory", r"No such file or directory \(the directory\)"),
        (["a\0b"], "/", "NUL"),
        (["true", "\ud800"], "/", "surrogates not allowed"),
        ([], "/", "no command"),
    ],
)
async def test_a_command_that_cannot_be_started_is_named(
    argv: list[str], cwd: str, message: str, family: Family
) -> None:
    with pytest.raises(StartError, match=message):
        await run(argv, family, cwd=Path(cwd))


async def test_a_script_without_interpreter_line_cannot_be_started(
    family: Family, tmp_path: Path
) -> None:
    (tmp_path / "script").write_text("echo hello")
    (tmp_path / "script").chmod(0o755)
    with pytest.raises(StartError, match="Exec format error"):
        await run(["./script"], family, cwd=tmp_path)


async def test_no_file_descriptor_is_leaked_whatever_happens(family: Family) -> None:
    await run(["true"], family)  # the event loop opens its own at the first use
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only
    for argv in (["true"], ["no-such-program"], ["a\0b"]):
        try:
            await run(argv, family)
        except StartError:
            continue
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above


async def test_many_run_side_by_side(family: Family) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(run(["sh", "-c", f"echo {number}; exit {number}"], family))
            for number in range(20)
        ]
    assert [(task.result().exit_code, task.result().tail) for task in tasks] == [
        (number, b"%d\n" % number) for number in range(20)
    ]


# --- stops ---


async def stop_when_ready(
    argv: list[str],
    family: Family,
    printed: Printed,
    reason: StopReason = StopReason.CANCELLED,
    **options: Any,
) -> ProcessResult:
    rope = options.pop("stop_control", None) or stop_control()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(argv, family, stop_control=rope, on_output=printed, **options))
        await printed.says("ready")
        rope.stop(reason)
    return task.result()


async def test_a_stop_is_a_sigint_first_and_leaves_time_to_write_a_report(
    family: Family, printed: Printed, python: Script
) -> None:
    polite = python("""
def end(*_):
    say("report written"); sys.exit(130)
signal.signal(signal.SIGINT, end)
say("ready")
while True: signal.pause()
""")
    result = await stop_when_ready(polite, family, printed, StopReason.DEADLINE)
    assert (result.exit_code, result.signal, result.stopped) == (130, "", StopReason.DEADLINE)
    assert printed.text.endswith("report written\n")


async def test_who_ignores_sigint_gets_sigterm_and_then_sigkill(
    family: Family, printed: Printed, python: Script
) -> None:
    stubborn = python("""
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: say(signal.Signals(number).name))
say("ready")
while True: signal.pause()
""")
    result = await stop_when_ready(
        stubborn, family, printed, stop_ladder=((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2))
    )
    assert (result.exit_code, result.signal, result.stopped) == (
        None,
        "SIGKILL",
        StopReason.CANCELLED,
    )
    assert printed.text.split() == ["ready", "SIGINT", "SIGTERM"]


async def test_a_stop_reaches_the_whole_group(family: Family, printed: Printed) -> None:
    result = await stop_when_ready(
        [
            "sh",
            "-c",
            "sh -c \"trap 'echo child got it; exit' INT; echo ready; while :; do sleep 0.01; done\"",
        ],
        family,
        printed,
    )
    assert result.stopped is StopReason.CANCELLED
    assert "child got it" in printed.text


async def test_the_ladder_is_shortened_to_end_before_the_hold_does(
    family: Family, printed: Printed, python: Script
) -> None:
    stubborn = python("""
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: say(signal.Signals(number).name))
say("ready")
while True: signal.pause()
""")
    rope = stop_control(60.0)

    def hold_runs_out(data: bytes) -> None:
        printed(data)
        if b"ready" in data:
            rope.extend(lease_time() + 1.1)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(stubborn, family, stop_control=rope, on_output=hold_runs_out))
        await printed.says("ready")
        rope.stop(StopReason.LEASE_LOST)
    assert lease_time() < rope.kill_at
    assert (task.result().signal, task.result().stopped) == ("SIGKILL", StopReason.LEASE_LOST)
    assert printed.text.split() == ["ready", "SIGINT", "SIGTERM"]


@given(graces=st.lists(st.floats(0, 100), min_size=1, max_size=5), left_s=st.floats(-10, 300))
def test_a_ladder_always_fits_into_the_time_left(graces: list[float], left_s: float) -> None:
    used = 0.0
    for step in range(len(graces)):
        patience = _patience(graces[step:], left_s - used)
        assert 0 <= patience <= graces[step]
        used += patience
    assert used <= max(left_s - KILL_MARGIN_S, 0) + 1e-6
    if left_s - KILL_MARGIN_S >= sum(graces) * (1 + 1e-9):
        assert used == pytest.approx(sum(graces))


async def test_who_had_ended_before_the_stop_keeps_its_result(
    family: Family, printed: Printed, python: Script
) -> None:
    rope = stop_control()

    def stop_after_the_end(data: bytes) -> None:
        printed(data)
        while Path(
            f"/proc/{printed.text.strip()}"
        ).exists():  # the event loop stands still: the agent cannot have noticed the end yet
            time.sleep(0.001)
        rope.stop(StopReason.CANCELLED)

    result = await run(
        python("sys.stdout.write(str(os.getpid()))"),
        family,
        stop_control=rope,
        on_output=stop_after_the_end,
    )
    assert (result.exit_code, result.stopped) == (0, None)


async def test_a_stop_before_the_start_ends_the_command_too(family: Family, python: Script) -> None:
    rope = stop_control()
    rope.stop(StopReason.DRAINED)
    result = await run(python(HANG), family, stop_control=rope, stop_ladder=((signal.SIGINT, 5.0),))
    assert (result.signal, result.stopped) == ("SIGINT", StopReason.DRAINED)


async def test_signals_that_the_agent_ignores_still_stop_its_jobs(
    family: Family, printed: Printed, python: Script
) -> None:
    before = signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # as nohup, or a shell's & without job control, leaves it
    try:
        result = await stop_when_ready(
            python("say(signal.getsignal(signal.SIGINT));" + HANG), family, printed
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert "default_int_handler" in printed.text
    assert result.signal == "SIGINT"


async def test_the_hold_is_the_hard_end(family: Family, python: Script) -> None:
    rope = stop_control(0.3)
    result = await run(python(HANG), family, stop_control=rope)
    assert (result.exit_code, result.signal, result.stopped) == (
        None,
        "SIGKILL",
        StopReason.LEASE_LOST,
    )
    assert lease_time() >= rope.kill_at


async def test_an_extension_moves_the_hard_end(
    family: Family, printed: Printed, python: Script, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    rope = stop_control(1.0)
    first_end = rope.kill_at
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run(
                python(f"say('ready'); open({str(gate)!r}).read()"),
                family,
                stop_control=rope,
                on_output=printed,
            )
        )
        await printed.says("ready")
        rope.extend(lease_time() + 60)
        await wait_until(lambda: lease_time() > first_end + 0.1, "the first end has passed")
        gate.write_text("")
    assert (task.result().exit_code, task.result().stopped) == (0, None)


async def test_a_cancelled_run_kills_the_tree_at_once(
    family: Family, printed: Printed, python: Script
) -> None:
    deaf = python(
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + DAEMON
        + HANG
    )
    task = asyncio.create_task(run(deaf, family, on_output=printed))
    await printed.says("ready")
    task.cancel()
    async with asyncio.timeout(patience(2)):  # the hold of its stop control is a minute
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not family.pids()


async def test_a_run_cancelled_twice_kills_the_tree_all_the_same(
    family: Family, printed: Printed, python: Script
) -> None:
    task = asyncio.create_task(run(python(HANG), family, on_output=printed))
    await printed.says("ready")
    task.cancel()
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    await family.dies()


async def test_a_listener_that_raises_ends_the_tree_and_is_heard(
    family: Family, python: Script
) -> None:
    def broken(data: bytes) -> None:
        raise ZeroDivisionError(data.decode())

    with pytest.raises(ZeroDivisionError, match="ready"):
        await run(python(HANG), family, on_output=broken)
    assert not family.pids()


async def test_a_full_disk_ends_the_tree_and_is_no_result(family: Family, python: Script) -> None:
    with pytest.raises(OSError, match="No space left"):
        await run(python(HANG), family, log_path=Path("/dev/full"))
    assert not family.pids()


# --- nobody is left ---


async def test_nobody_of_the_group_is_left_after_the_command(family: Family) -> None:
    result = await run(["sh", "-c", "sleep 1000 & sleep 1000 & echo started"], family)
    assert not family.pids()
    assert (result.exit_code, result.tail) == (0, b"started\n")


async def test_a_daemon_is_gone_and_its_open_pipe_does_not_hang_the_run(
    family: Family, python: Script
) -> None:
    result = await run(python(DAEMON + "os._exit(7)"), family)
    assert not family.pids()
    assert result.exit_code == 7
    assert result.tail.startswith(b"daemon ")


async def test_daemons_of_daemons_that_multiply_in_groups_of_their_own_are_gone(
    family: Family, python: Script
) -> None:
    breeder = python("""
def breed(depth):
    for _ in range(3):
        if depth and os.fork() == 0:
            os.setsid()
            breed(depth - 1)
            say("born")
            time.sleep(1000)
            os._exit(0)
breed(4)
""")
    await run(breeder, family)
    assert not family.pids()


async def test_a_job_that_stands_still_is_killed_like_any_other(
    family: Family, python: Script
) -> None:
    rope = stop_control()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run(
                python("os.kill(os.getpid(), signal.SIGSTOP)"),
                family,
                stop_control=rope,
                stop_ladder=((signal.SIGINT, 0.1),),
            )
        )
        await wait_until(lambda: "T" in map(state_of, family.pids()), "the job stands still")
        rope.stop(StopReason.CANCELLED)
    assert task.result().signal == "SIGKILL"


async def test_kill_9_of_the_agent_ends_the_whole_tree(
    family: Family, fake_agent: Callable[[str], FakeAgent], python: Script
) -> None:
    agent = fake_agent(AGENT.format(argv=python(DAEMON + HANG), env=family.env, hold_s=60))
    await agent.says(b"ready")
    assert len(family.pids()) == 2
    os.kill(agent.pid, signal.SIGKILL)
    await family.dies(within_s=2)


async def test_a_frozen_agent_loses_its_tree_by_the_deadline(
    family: Family, fake_agent: Callable[[str], FakeAgent], python: Script
) -> None:
    agent = fake_agent(AGENT.format(argv=python(DAEMON + HANG), env=family.env, hold_s=0.5))
    await agent.says(b"ready")
    os.kill(agent.pid, signal.SIGSTOP)
    await family.dies(within_s=3)
    os.kill(agent.pid, signal.SIGCONT)
    await agent.says(b"done")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def guardian_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


async def test_kill_9_of_the_guardian_ends_the_whole_tree(
    family: Family, printed: Printed, python: Script
) -> None:
    argv = python(DAEMON + "subprocess.Popen(['sleep', '1000']); say('pid', os.getpid());" + HANG)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(argv, family, on_output=printed))
        await printed.says("ready")
        assert len(family.pids()) == 3
        os.kill(guardian_of(int(printed.text.split("pid ")[1].split()[0])), signal.SIGKILL)
    assert not family.pids()
    assert (task.result().exit_code, task.result().signal, task.result().stopped) == (
        None,
        "SIGKILL",
        None,
    )


async def test_a_guardian_killed_together_with_its_agent_takes_the_command_along(
    family: Family, fake_agent: Callable[[str], FakeAgent], python: Script
) -> None:
    agent = fake_agent(
        AGENT.format(argv=python("say('pid', os.getpid());" + HANG), env=family.env, hold_s=60)
    )
    guardian = guardian_of(int((await agent.says(b"pid")).split()[1]))
    os.kill(agent.pid, signal.SIGSTOP)  # so that it is the kernel who ends the command
    os.kill(guardian, signal.SIGKILL)
    await family.dies(within_s=2)
    os.kill(agent.pid, signal.SIGKILL)


async def test_a_guardian_that_is_asked_to_end_takes_its_tree_along(
    family: Family, printed: Printed, python: Script
) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run(python(DAEMON + "say('pid', os.getpid());" + HANG), family, on_output=printed)
        )
        await printed.says("ready")
        os.kill(guardian_of(int(printed.text.split("pid ")[1].split()[0])), signal.SIGTERM)
    assert not family.pids()
    assert (task.result().signal, task.result().stopped) == ("SIGKILL", None)


async def test_a_frozen_guardian_is_found_and_its_tree_ended(
    family: Family, printed: Printed, python: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree_module, "GUARDIAN_GRACE_S", 0.2)
    rope = stop_control()
    argv = python(DAEMON + "say('pid', os.getpid());" + HANG)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            run(
                argv,
                family,
                stop_control=rope,
                on_output=printed,
                stop_ladder=((signal.SIGINT, 0.1),),
            )
        )
        await printed.says("ready")
        os.kill(guardian_of(int(printed.text.split("pid ")[1].split()[0])), signal.SIGSTOP)
        rope.stop(StopReason.CANCELLED)
    assert not family.pids()
    assert task.result().signal == "SIGKILL"


# --- trees that outlive their command ---


def keep(
    argv: list[str], family: Family, output: Output, hold_s: float = 60.0
) -> SupervisedProcess:
    return SupervisedProcess(
        Command(argv=argv, cwd=Path("/"), env=family.env),
        kill_at=lease_time() + hold_s,
        output=output,
        keep=True,
    )


async def test_a_kept_tree_lives_on_after_its_command_until_it_is_told_to_end(
    family: Family, python: Script
) -> None:
    with Output() as output:
        tree = keep(
            python(DAEMON + "subprocess.Popen(['sleep', '1000']); os._exit(0)"), family, output
        )
        async with asyncio.timeout(patience(10)):
            await tree.ended.wait()
        assert tree.exit == (0, "")
        await family.counts(2)
        assert not tree.gone.is_set()
        await tree.end()
    assert not family.pids()
    assert not tree.expired


async def test_a_kept_tree_ends_with_its_hold(family: Family, python: Script) -> None:
    with Output() as output:
        tree = keep(python(DAEMON), family, output, hold_s=0.5)
        async with asyncio.timeout(patience(10)):
            await tree.gone.wait()
    assert tree.expired
    assert not family.pids()


async def test_a_kept_tree_dies_with_its_agent(
    family: Family, fake_agent: Callable[[str], FakeAgent], python: Script
) -> None:
    agent = fake_agent(f"""
import asyncio, time
from pathlib import Path
from qgjet.process.supervised_process import Command, SupervisedProcess, Output
from qgjet.support.clock import lease_time

async def main():
    command = Command(argv={python(DAEMON)!r}, cwd=Path("/"), env={family.env!r})
    tree = SupervisedProcess(command, kill_at=lease_time() + 60, output=Output(), keep=True)
    await tree.ended.wait()
    print("kept")
    await asyncio.Event().wait()

asyncio.run(main())
""")
    await agent.says(b"kept")
    assert len(family.pids()) == 1
    os.kill(agent.pid, signal.SIGKILL)
    await family.dies(within_s=2)


async def test_a_command_without_a_job_is_stopped_after_its_time(
    family: Family, tmp_path: Path, python: Script
) -> None:
    result = await run_within(
        python(HANG), cwd=Path("/"), env=family.env, timeout_s=0.3, log_path=tmp_path / "log"
    )
    assert (result.signal, result.stopped) == ("SIGTERM", StopReason.DEADLINE)


@pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux")
async def test_zombies_of_a_long_job_are_collected_while_it_runs(
    family: Family, printed: Printed, python: Script
) -> None:
    argv = python("""
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
say("pid", os.getpid()); say("ready")
signal.pause()
""")
    rope = stop_control()
    async with asyncio.TaskGroup() as group:
        group.create_task(run(argv, family, stop_control=rope, on_output=printed))
        await printed.says("ready")
        guardian = guardian_of(int(printed.text.split("pid ")[1].split()[0]))
        children = Path(f"/proc/{guardian}/task/{guardian}/children")
        await wait_until(lambda: len(children.read_text().split()) == 1, "only the command is left")
        rope.stop(StopReason.CANCELLED)
