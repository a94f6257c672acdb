"""The processes that are on trial: agents that record what they execute, agents with real child
processes, and API replicas.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from chaos.history import Execution
from chaos.worker import WorkerSettings
from faults.crew import AgentProcess, Yard
from qgjet.config.settings import QueueSettings

TESTS = Path(__file__).resolve().parent.parent
SCRIPTED, GUARDED = "browserstack", "emulator"
"""Targets: of the recording agents, and of those with real processes."""
STOP_S = 15.0
UNREACHABLE = 4
"""Exit code of an agent that finds no server when it starts: whatever started it starts it again.
"""


class Process:
    """A child of ours, and when it lived. What it says goes to a file."""

    def __init__(
        self, name: str, argv: Sequence[str], output: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.output = output
        with output.open("ab") as file:
            env = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(
                    [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
                ),
                **(environ or {}),
            }
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=env,
            )
        self.died: float | None = None
        self.expected_to_end = False

    @property
    def alive(self) -> bool:
        if self.died is None and self._process.poll() is not None:
            self.died = time.monotonic()
        return self.died is None

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. A second call is harmless."""
        self.expected_to_end = True
        if self.alive:
            self._process.kill()
            self._process.wait()
            self.died = time.monotonic()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """SIGTERM, and SIGKILL when that is not obeyed."""
        self.expected_to_end = True
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        assert not self.alive


class Worker(Process):
    """`worker.py`, with files to set its clock and to slow it down."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        settings.path.mkdir(parents=True)
        argv = [sys.executable, "-m", "chaos.worker", msgspec.json.encode(settings).decode()]
        super().__init__(settings.name, argv, settings.path / "output")
        self._suspended_s = 0.0

    def resume(self, suspended_s: float) -> None:
        """After SIGSTOP: go on as on a host that was suspended, where timers have stood still, too."""
        if self.settings.ledger.exists():
            self._suspended_s += suspended_s
            (self.settings.path / "suspended").write_text(str(self._suspended_s))
            self.send(signal.SIGUSR1)
        self.send(signal.SIGCONT)

    def step_clock(self, seconds: float) -> None:
        (self.settings.path / "clock").write_text(str(seconds))

    def slow_down(self, seconds: float) -> None:
        (self.settings.path / "slow").write_text(str(seconds))


class Replica(Process):
    """`qgjet serve` on a port and a database that stay the same over its restarts, with a file to
    set its clock.
    """

    CONFIG = """
nats_url = "{url}"
[queue]
visibility_timeout = {queue.visibility_timeout_s}
max_deliver = {queue.max_deliver}
replicas = {queue.replicas}
retry_base = {queue.retry_base_s}
retry_cap = {queue.retry_cap_s}
"""

    def __init__(
        self, name: str, url: str, queue: QueueSettings, port: int, directory: Path
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{port}"
        self.database = directory / f"{name}.sqlite"
        config = directory / f"{name}.toml"
        config.write_text(self.CONFIG.format(url=url, queue=queue))
        self._clock = directory / f"{name}.clock"
        serve = [
            "serve",
            "--config",
            str(config),
            "--port",
            str(port),
            "--database",
            str(self.database),
        ]
        super().__init__(
            name,
            [sys.executable, "-m", "chaos.replica", str(self._clock), *serve],
            directory / f"{name}.log",
        )

    def step_clock(self, seconds: float) -> None:
        self._clock.write_text(str(seconds))


@dataclass
class Fleet:
    """Everything that was started, dead or alive; the newest of each place is the one in charge."""

    directory: Path
    queue: QueueSettings
    nats_url: str
    seed: int
    workers: dict[str, Worker] = field(default_factory=dict)
    """By place; a place keeps its address, a new process gets a new name."""
    guarded: dict[str, AgentProcess] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    buried: list[Worker] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.yard = Yard(self.directory / "yard")

    def start_worker(self, place: str, url: str = "", slots: int = 6) -> Worker:
        """The worker of a place; of one that had another, with its address and slots."""
        before = self.workers.get(place)
        if before is not None:
            url, slots = before.settings.url, before.settings.slots
            self.buried.append(before)
        self._count += 1
        name = f"{place}-{self._count}"
        directory = str(self.directory / "workers" / name)
        settings = WorkerSettings(
            name=name,
            url=url or self.nats_url,
            target=SCRIPTED,
            slots=slots,
            directory=directory,
            queue=self.queue,
            seed=self.seed + self._count,
        )
        self.workers[place] = Worker(settings)
        return self.workers[place]

    def start_guarded(self, place: str) -> AgentProcess:
        self._count += 1
        self.guarded[place] = AgentProcess(
            self.nats_url, self.yard, f"{place}-{self._count}", slots=2, queue=self.queue
        )
        return self.guarded[place]

    def start_replica(self, place: str, port: int = 0) -> Replica:
        self.ports.setdefault(place, port)
        self.replicas[place] = Replica(
            place, self.nats_url, self.queue, self.ports[place], self.directory / "api"
        )
        return self.replicas[place]

    def look(self) -> None:
        """Whoever has ended without being told to is a surprise, and is started again."""
        for place, worker in list(self.workers.items()):
            if not worker.alive and not worker.expected_to_end:
                self.surprises.append(
                    f"agent {worker.name} has ended by itself: {_last_words(worker.output)}"
                )
                worker.expected_to_end = True
                self.start_worker(place)
        for place, replica in list(self.replicas.items()):
            if not replica.alive and not replica.expected_to_end:
                self.surprises.append(
                    f"{replica.name} has ended by itself: {_last_words(replica.output)}"
                )
                self.start_replica(place)

        for place, agent in list(self.guarded.items()):
            if (code := agent.process.poll()) is not None:
                if code != UNREACHABLE:
                    self.surprises.append(
                        f"agent {agent.output.stem} has ended by itself: {_last_words(agent.output)}"
                    )
                self.start_guarded(place)

    def everybody(self) -> list[Process]:
        return [*self.workers.values(), *self.replicas.values()]

    def stop_agents(self) -> None:
        for worker in self.workers.values():
            worker.send(signal.SIGTERM)
        for agent in self.guarded.values():
            agent.thaw()
            agent.terminate()
        for worker in self.workers.values():
            worker.stop()
        for agent in self.guarded.values():
            try:
                agent.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                agent.kill()

    def close(self) -> None:
        """Kill whoever is left."""
        for one in self.everybody():
            one.kill()
        for agent in self.guarded.values():
            agent.close()

    # -- what they have written down ---------------------------------------------------------------------------------

    def executions(self, found: list[Execution]) -> int:
        """Add the executions of all recording agents, which have ended, to `found`; gives the
        number of lines that cannot be read.
        """
        return sum(_read(worker, found) for worker in (*self.buried, *self.workers.values()))


def _last_words(output: Path) -> str:
    return " / ".join(output.read_text(errors="replace").strip().splitlines()[-3:])


def _read(worker: Worker, found: list[Execution]) -> int:
    assert not worker.alive, worker.name
    assert worker.died is not None
    ledger = worker.settings.ledger
    under_way: dict[tuple[str, int], tuple[Execution, float]] = {}
    unread = 0
    for line in ledger.read_text().splitlines() if ledger.exists() else ():
        match line.split():
            case ["start", job_id, attempt, agent, at, hold]:
                under_way[job_id, int(attempt)] = (
                    Execution(
                        job_id=job_id,
                        attempt=int(attempt),
                        agent=agent,
                        began=float(at),
                        ended=worker.died,
                    ),
                    float(hold),
                )
            case ["hold", job_id, attempt, until]:
                under_way[job_id, int(attempt)] = (under_way[job_id, int(attempt)][0], float(until))
            case ["end", job_id, attempt, at, verdict]:
                begun, until = under_way.pop((job_id, int(attempt)))
                found.append(
                    msgspec.structs.replace(
                        begun,
                        ended=min(float(at), until),
                        verdict="" if verdict == "-" else verdict,
                    )
                )
            case _:
                unread += 1
    found += [
        msgspec.structs.replace(begun, ended=min(begun.ended, hold))
        for begun, hold in under_way.values()
    ]
    return unread
