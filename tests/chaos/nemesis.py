"""What is done to a run: faults from outside, each on real processes, each healed again. The
schedule is drawn from a seed before anything begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.clients import ORGS, RANKS, VERSIONS
from chaos.fleet import SCRIPTED, Fleet, Process, Replica, Worker
from chaos.history import Cut, Fault, Logged
from chaos.messages import read_log
from faults.proxy import TO_CLIENT, TO_SERVER, Proxy
from patience import patience
from qgjet.domain.events import Partition
from qgjet.domain.subjects import Lane
from qgjet.domain.suite import suite_prefix
from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer, nats_server
from qgjet.store.event_log import EventLog
from qgjet.store.job_queue import Queue
from soak.cluster import Cluster

LANES = [
    Lane(Partition(org, version, SCRIPTED), rank)
    for org in ORGS
    for version in VERSIONS
    for rank in RANKS
]
FULL_DISK_MB = 384
DAY_S = 86_400
TESTS_OF_SUBMITTER = 10_000


@dataclass
class Stage:
    """What there is to break."""

    fleet: Fleet
    visibility_s: float
    rng: random.Random
    server: NatsServer | None = None
    cluster: Cluster | None = None
    proxies: list[Proxy] = field(default_factory=list)
    disk: Path | None = None
    """A small file system that the server's store is on; None: there is none."""
    appended: Callable[[], int] = lambda: 0
    """How many events have been seen in the log."""
    was_cut: Callable[[Cut], None] = lambda cut: None
    """Gets what the log has lost, once the server is back."""

    @property
    def long_s(self) -> float:
        """Now and then longer than a visibility timeout, mostly shorter."""
        return self.rng.choice((0.1, 0.3, 0.8, 1.5)) * self.visibility_s

    def victim(self, processes: list[Process]) -> Process:
        return self.rng.choice(processes)


Attack = Callable[[Stage], Awaitable[tuple[str, str]]]
"""Breaks something and heals it; gives the victim and a note."""


# -- agents --------------------------------------------------------------------------------------------------------------------


async def kill_agent(stage: Stage) -> tuple[str, str]:
    place = stage.rng.choice(list(stage.fleet.workers))
    worker = stage.fleet.workers[place]
    worker.kill()
    await asyncio.sleep(stage.rng.uniform(0.0, 1.0))
    stage.fleet.start_worker(place)
    return worker.name, ""


async def drain_agent(stage: Stage) -> tuple[str, str]:
    """Every other time with the second signal, which gives back what runs."""
    place = stage.rng.choice(list(stage.fleet.workers))
    worker = stage.fleet.workers[place]
    worker.expected_to_end = True
    worker.send(signal.SIGTERM)
    if stage.rng.random() < 0.5:
        await asyncio.sleep(0.2)
        worker.send(signal.SIGTERM)
    deadline = time.monotonic() + 4 * stage.visibility_s
    while worker.alive and time.monotonic() < deadline:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.05)
    note = "" if not worker.alive else "killed: it did not end"
    worker.kill()
    stage.fleet.start_worker(place)
    return worker.name, note


async def freeze_agent(stage: Stage) -> tuple[str, str]:
    return await _freeze(stage, stage.victim([*stage.fleet.workers.values()]))


async def _freeze(stage: Stage, process: Process) -> tuple[str, str]:
    seconds = stage.long_s
    process.send(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    process.send(signal.SIGCONT)
    return process.name, f"for {seconds:.1f} s"


async def slow_agent(stage: Stage) -> tuple[str, str]:
    """Its event loop gets a turn now and then only."""
    worker = stage.rng.choice(list(stage.fleet.workers.values()))
    seconds = stage.rng.uniform(0.05, 0.4) * stage.visibility_s
    worker.slow_down(seconds)
    await asyncio.sleep(stage.visibility_s)
    worker.slow_down(0.0)
    return worker.name, f"{seconds:.1f} s at a time"


async def suspend_agent(stage: Stage) -> tuple[str, str]:
    """Its host was suspended: the clock of leases has gone on, timers have not."""
    worker = stage.rng.choice(list(stage.fleet.workers.values()))
    seconds = stage.long_s
    worker.send(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    worker.resume(seconds)
    return worker.name, f"for {seconds:.1f} s"


async def step_clock(stage: Stage) -> tuple[str, str]:
    return await _step_clock(stage, stage.rng.choice(list(stage.fleet.workers.values())))


async def step_api_clock(stage: Stage) -> tuple[str, str]:
    return await _step_clock(stage, stage.rng.choice(list(stage.fleet.replicas.values())))


async def _step_clock(stage: Stage, process: Worker | Replica) -> tuple[str, str]:
    seconds = stage.rng.choice(
        (-100 * DAY_S, -3600.0, -180.0, -2.0, 2.0, 180.0, 3600.0, 100 * DAY_S)
    )
    process.step_clock(seconds)
    await asyncio.sleep(1.5 * stage.visibility_s)
    process.step_clock(0.0)
    return process.name, f"by {seconds:g} s"


async def break_host(stage: Stage) -> tuple[str, str]:
    """An agent whose work directory is gone, beside healthy ones."""
    worker = stage.rng.choice(list(stage.fleet.workers.values()))
    work, aside = worker.settings.path / "work", worker.settings.path / "work-aside"
    with contextlib.suppress(OSError):  # it has just been started, and has none yet
        work.rename(aside)
        work.touch()
    await asyncio.sleep(1.5 * stage.visibility_s)
    if aside.exists():
        work.unlink()
        aside.rename(work)
    return worker.name, ""


async def kill_guarded_agent(stage: Stage) -> tuple[str, str]:
    """One with real test processes, which its guardians have to end."""
    place = stage.rng.choice(list(stage.fleet.guarded))
    name = stage.fleet.guarded[place].output.stem
    stage.fleet.guarded[place].kill()
    stage.fleet.start_guarded(place)
    return name, ""


async def freeze_guarded_agent(stage: Stage) -> tuple[str, str]:
    place = stage.rng.choice(list(stage.fleet.guarded))
    agent, seconds = stage.fleet.guarded[place], stage.long_s
    agent.freeze()
    await asyncio.sleep(seconds)
    agent.thaw()
    return agent.output.stem, f"for {seconds:.1f} s"


# -- links ---------------------------------------------------------------------------------------------------------------------


async def pause_link(stage: Stage) -> tuple[str, str]:
    number = stage.rng.randrange(len(stage.proxies))
    seconds = stage.long_s
    stage.proxies[number].hold()
    await asyncio.sleep(seconds)
    stage.proxies[number].let_go()
    return f"link {number}", f"for {seconds:.1f} s"


async def cut_link(stage: Stage) -> tuple[str, str]:
    number = stage.rng.randrange(len(stage.proxies))
    seconds = stage.long_s
    stage.proxies[number].refuse()
    await asyncio.sleep(seconds)
    await stage.proxies[number].accept()
    return f"link {number}", f"for {seconds:.1f} s"


async def one_way_link(stage: Stage) -> tuple[str, str]:
    number, seconds = stage.rng.randrange(len(stage.proxies)), stage.long_s
    direction = stage.rng.choice((TO_SERVER, TO_CLIENT))
    stage.proxies[number].hold(direction)
    await asyncio.sleep(seconds)
    stage.proxies[number].let_go()
    return f"link {number}", f"nothing {direction} for {seconds:.1f} s"


async def slow_link(stage: Stage) -> tuple[str, str]:
    number, seconds = stage.rng.randrange(len(stage.proxies)), stage.rng.choice((0.05, 0.3, 1.0))
    stage.proxies[number].delay(seconds)
    await asyncio.sleep(2 * stage.visibility_s)
    stage.proxies[number].delay(0.0)
    return f"link {number}", f"by {seconds:g} s"


# -- clients -------------------------------------------------------------------------------------------------------------------


async def kill_submitter(stage: Stage) -> tuple[str, str]:
    """A client that dies in the middle of a large submission, straight to NATS or through the API.
    No agent serves its target.
    """
    name = f"killed-{stage.rng.getrandbits(32):x}"
    over = (
        {"QGJET_NATS_URL": stage.fleet.nats_url}
        if stage.rng.random() < 0.5
        else {"QGJET_API_URL": stage.victim([*stage.fleet.replicas.values()]).url}
    )
    tests = [
        word for number in range(TESTS_OF_SUBMITTER) for word in ("--test", f"{name}/{number}")
    ]
    wanted = [
        "--org-id",
        "acme",
        "--app-version-id",
        name,
        "--target",
        "nowhere",
        "--suite-id",
        name,
        "--queue-timeout",
        "10m",
        *tests,
    ]
    submitter = Process(
        name,
        [sys.executable, "-m", "qgjet_cli.main", "submit", *wanted],
        stage.fleet.directory / f"{name}.log",
        over,
    )
    await _under_way(stage, submitter, name)
    await asyncio.sleep(stage.rng.uniform(0.0, 1.0))
    note = "in time" if submitter.alive else "too late: it had ended"
    submitter.kill()
    return name, note


async def _under_way(stage: Stage, submitter: Process, suite_id: str) -> None:
    """Wait until the log holds a part of its suite, or it has ended."""
    deadline = time.monotonic() + 60.0
    async with contextlib.AsyncExitStack() as stack:
        log: EventLog | None = None
        while submitter.alive and time.monotonic() < deadline:
            with contextlib.suppress(NatsUnavailable):
                log = log or EventLog(
                    await stack.enter_async_context(connect(stage.fleet.nats_url, name="nemesis"))
                )
                if await log.last_of(f"{suite_prefix('acme', suite_id)}.>") is not None:
                    return
            await asyncio.sleep(0.02)


# -- the API -------------------------------------------------------------------------------------------------------------------


async def kill_api(stage: Stage) -> tuple[str, str]:
    place = stage.rng.choice(list(stage.fleet.replicas))
    stage.fleet.replicas[place].kill()
    await asyncio.sleep(stage.rng.uniform(0.0, 1.0))
    stage.fleet.start_replica(place)
    return place, ""


async def freeze_api(stage: Stage) -> tuple[str, str]:
    return await _freeze(stage, stage.victim([*stage.fleet.replicas.values()]))


# -- one server ----------------------------------------------------------------------------------------------------------------


async def kill_server(stage: Stage) -> tuple[str, str]:
    assert stage.server is not None
    away_s = stage.rng.choice((0.0, 0.0, 0.5, 1.2 * stage.visibility_s))
    stage.server.kill()
    await asyncio.sleep(away_s)
    await stage.server.start()
    return "server", f"away for {away_s:.1f} s"


async def stop_server(stage: Stage) -> tuple[str, str]:
    assert stage.server is not None
    await asyncio.to_thread(stage.server.stop)
    await stage.server.start()
    return "server", ""


async def freeze_server(stage: Stage) -> tuple[str, str]:
    assert stage.server is not None
    return await _freeze_node(stage, stage.server, "server")


async def _freeze_node(stage: Stage, node: NatsServer, name: str) -> tuple[str, str]:
    assert node.process is not None
    seconds = stage.long_s
    node.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(seconds)
    node.process.send_signal(signal.SIGCONT)
    return name, f"for {seconds:.1f} s"


async def drop_consumers(stage: Stage) -> tuple[str, str]:
    """Some lanes' consumers, with all they know of deliveries."""
    url = stage.fleet.nats_url
    dropped = 0
    with contextlib.suppress(NatsUnavailable):
        async with connect(url, name="nemesis") as connection:
            for lane in stage.rng.sample(LANES, 6):
                await Queue(connection, stage.fleet.queue).drop(lane)
                dropped += 1
    return "consumers", f"{dropped} lanes"


async def cut_tail(stage: Stage) -> tuple[str, str]:
    """A power cut: what the server has stored of late had not reached the disk, though its clients
    have had their answers.
    """
    server = stage.server
    assert server is not None
    assert server.process is not None
    aside = stage.fleet.directory / f"tail-{stage.rng.getrandbits(32):x}"
    older, newer = aside / "older", aside / "newer"
    server.process.send_signal(signal.SIGSTOP)
    await asyncio.to_thread(shutil.copytree, server.store, older)
    server.process.send_signal(signal.SIGCONT)
    await asyncio.sleep(stage.rng.uniform(0.1, 1.0) * stage.visibility_s)
    began = time.monotonic()
    server.kill()
    await asyncio.to_thread(shutil.copytree, server.store, newer)
    await asyncio.to_thread(shutil.rmtree, server.store)
    await asyncio.to_thread(shutil.copytree, older, server.store)
    lost = await _difference(older, newer)
    await server.start()
    stage.was_cut(Cut(began=began, ended=time.monotonic(), lost=lost))
    await asyncio.to_thread(shutil.rmtree, aside)
    return "log", f"{len(lost)} messages are lost"


async def _difference(older: Path, newer: Path) -> list[Logged]:
    """What one store has of the log, and the other has not."""
    async with nats_server(older) as server, connect(server.url, name="nemesis") as connection:
        last = (await EventLog(connection).state()).last_seq
    async with nats_server(newer) as server, connect(server.url, name="nemesis") as connection:
        return await read_log(connection, last + 1)


async def fill_disk(stage: Stage) -> tuple[str, str]:
    """Nothing can be stored for a while. What the server needs after that, by its own
    documentation, is a restart.
    """
    assert stage.disk is not None
    assert stage.server is not None
    filler = stage.disk / "filler"
    await asyncio.to_thread(_fill, filler)
    await asyncio.sleep(stage.rng.uniform(0.5, 1.0) * stage.visibility_s)
    filler.unlink()
    before, deadline = stage.appended(), time.monotonic() + 3.0
    while stage.appended() == before and time.monotonic() < deadline:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.05)
    if stage.appended() > before:
        return "disk", "went on by itself"
    stage.server.kill()
    await stage.server.start()
    return "disk", "needed a restart"


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"\0" * 65536) == 65536:
            pass
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(b"\0" * 512):
            pass


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path | None]:
    """A file system of its own on `path`, which only root can have; None where that does not work."""
    path.mkdir(parents=True)
    if sys.platform != "linux" or os.geteuid() != 0:
        yield None
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK_MB}m", "tmpfs", str(path)],
        capture_output=True,
        check=False,
    )
    try:
        yield path if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)


# -- three nodes ---------------------------------------------------------------------------------------------------------------


async def _kill_node(stage: Stage, node: NatsServer) -> tuple[str, str]:
    assert stage.cluster is not None
    away_s = stage.rng.uniform(0.0, 8.0)
    node.kill()
    await asyncio.sleep(away_s)
    await node.start()
    return f"node {stage.cluster.nodes.index(node)}", f"away for {away_s:.1f} s"


async def kill_log_leader(stage: Stage) -> tuple[str, str]:
    return await _kill_node(stage, await _patiently(_cluster(stage).leader))


async def kill_lane_leader(stage: Stage) -> tuple[str, str]:
    """The node that leads a consumer which is there, whichever that is."""
    cluster, lanes = _cluster(stage), stage.rng.sample(LANES, len(LANES))

    async def ask() -> NatsServer:
        for lane in lanes:
            with contextlib.suppress(NatsUnavailable):
                return await cluster.lane_leader(lane)
        raise NatsUnavailable("no lane has a leader")

    return await _kill_node(stage, await _patiently(ask))


async def kill_meta_leader(stage: Stage) -> tuple[str, str]:
    return await _kill_node(stage, await _patiently(_cluster(stage).meta_leader))


async def kill_any_node(stage: Stage) -> tuple[str, str]:
    return await _kill_node(stage, stage.rng.choice(_cluster(stage).nodes))


async def freeze_log_leader(stage: Stage) -> tuple[str, str]:
    """As if it were cut off from everybody, and came back with what it believed before."""
    node = await _patiently(_cluster(stage).leader)
    return await _freeze_node(stage, node, f"node {_cluster(stage).nodes.index(node)}")


async def part_node(stage: Stage) -> tuple[str, str]:
    """The leader of the log, or another node, hears nothing of the others and they nothing of it;
    its clients still reach it.
    """
    cluster = _cluster(stage)
    node = (
        await _patiently(cluster.leader)
        if stage.rng.random() < 0.6
        else stage.rng.choice(cluster.nodes)
    )
    seconds, broken = stage.rng.uniform(1.0, 15.0), stage.rng.random() < 0.5
    relays = cluster.relays_of(node)
    for relay in relays:
        relay.refuse() if broken else relay.hold()
    await asyncio.sleep(seconds)
    for relay in relays:
        relay.let_go()
        await relay.accept()
    return (
        f"node {cluster.nodes.index(node)}",
        f"{'cut off' if broken else 'held up'} for {seconds:.1f} s",
    )


async def restart_cluster(stage: Stage) -> tuple[str, str]:
    cluster = _cluster(stage)
    for node in cluster.nodes:
        node.kill()
    await asyncio.sleep(stage.rng.uniform(0.0, 2.0))
    await asyncio.gather(*(node.start() for node in cluster.nodes))
    return "all nodes", ""


def _cluster(stage: Stage) -> Cluster:
    assert stage.cluster is not None
    return stage.cluster


async def _patiently(ask: Callable[[], Awaitable[NatsServer]]) -> NatsServer:
    """The node, once there is a leader to ask."""
    deadline = time.monotonic() + patience(60.0)
    while True:
        try:
            return await ask()
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.25)


# -- the schedule --------------------------------------------------------------------------------------------------------------

AGENTS: dict[Attack, int] = {
    kill_agent: 12,
    freeze_agent: 12,
    drain_agent: 5,
    slow_agent: 6,
    suspend_agent: 6,
    step_clock: 8,
    kill_guarded_agent: 6,
    freeze_guarded_agent: 6,
    pause_link: 8,
    cut_link: 6,
    kill_api: 6,
    freeze_api: 4,
    drop_consumers: 4,
    step_api_clock: 6,
    break_host: 6,
    one_way_link: 6,
    slow_link: 4,
    kill_submitter: 2,
}
ONE_SERVER: dict[Attack, int] = {
    kill_server: 14,
    freeze_server: 6,
    stop_server: 4,
    cut_tail: 3,
    fill_disk: 3,
}
CLUSTER: dict[Attack, int] = {
    kill_log_leader: 20,
    kill_lane_leader: 16,
    kill_meta_leader: 16,
    kill_any_node: 14,
    freeze_log_leader: 12,
    part_node: 14,
    restart_cluster: 8,
}


def schedule(count: int, seed: int, *, nodes: int, disk: bool) -> list[Attack]:
    """`count` faults: every kind once, as far as that goes, then by weight; the same for the same
    arguments.
    """
    weights = AGENTS | (ONE_SERVER if nodes == 1 else CLUSTER)
    if not disk:
        weights.pop(fill_disk, None)
    rng = random.Random(f"schedule {seed}")
    kinds = list(weights)
    each = rng.sample(kinds, len(kinds))[:count]
    return each + rng.choices(kinds, list(weights.values()), k=count - len(each))


def named(kinds: Sequence[str]) -> list[Attack]:
    """The faults of these names. Raises KeyError for one that there is not."""
    known = {attack.__name__: attack for attack in AGENTS | ONE_SERVER | CLUSTER}
    return [known[kind] for kind in kinds]


async def torment(
    stage: Stage, attacks: list[Attack], seed: int, told: Callable[[Fault], None]
) -> AsyncIterator[int]:
    """One fault after the other with a breath between them, or two at once that do not touch the
    same thing; gives the number of those that are over.
    """
    rng = random.Random(f"pauses {seed}")
    number = 0
    while number < len(attacks):
        both = (
            rng.random() < 0.25
            and number + 1 < len(attacks)
            and (attacks[number] in AGENTS) != (attacks[number + 1] in AGENTS)
        )
        together = range(number, number + 1 + both)
        await asyncio.gather(
            *(
                _carry_out(
                    replace(stage, rng=random.Random(f"fault {seed} {one}")), attacks[one], told
                )
                for one in together
            )
        )
        number += len(together)
        stage.fleet.look()
        await asyncio.sleep(rng.uniform(0.1, 0.6) * min(stage.visibility_s, 4.0))
        yield number


async def _carry_out(stage: Stage, attack: Attack, told: Callable[[Fault], None]) -> None:
    began = time.monotonic()
    victim, note = await attack(stage)
    told(Fault(kind=attack.__name__, victim=victim, began=began, ended=time.monotonic(), note=note))
