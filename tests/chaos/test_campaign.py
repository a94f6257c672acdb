"""A small `make chaos`: five hundred jobs, ten faults, one server."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import nemesis, report
from chaos.campaign import Plan, Result, run
from chaos.checker import check
from chaos.history import Fault, History, Logged, load, save
from factories import NOW, spec
from qgjet.domain.events import Started, Status

KINDS = (
    "kill_agent",
    "kill_server",
    "kill_guarded_agent",
    "kill_api",
    "freeze_agent",
    "break_host",
    "one_way_link",
    "step_api_clock",
    "suspend_agent",
    "cut_tail",
)
JOBS = 500


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings(
    "ignore:unclosed <StreamWriter:ResourceWarning"
)  # nats-py 2.16 forgets its end of a connection that breaks during the handshake
async def test_every_promise_is_kept_while_one_thing_after_the_other_dies(tmp_path: Path) -> None:
    plan = Plan(
        seed=1, jobs=JOBS, faults=len(KINDS), nodes=1, directory=tmp_path / "chaos", kinds=KINDS
    )
    result = await run(plan, print)
    violations = check(result.history)
    save(result.history, tmp_path / "history.json")
    told = list(report.lines(plan, result, violations))
    assert violations == [], "\n".join(told)
    assert result.left == 0, "\n".join(told)
    assert result.created >= JOBS
    assert len(result.history.executions) >= JOBS / 2, "the agents have written down what they ran"
    assert sorted(fault.kind for fault in result.history.faults) == sorted(KINDS)
    assert told[-1].endswith("every promise was kept")
    assert load(tmp_path / "history.json") == result.history


def test_a_seed_gives_one_schedule_and_every_kind_of_fault_is_in_it() -> None:
    for nodes, kinds in (
        (1, nemesis.AGENTS | nemesis.ONE_SERVER),
        (3, nemesis.AGENTS | nemesis.CLUSTER),
    ):
        drawn = nemesis.schedule(40, 7, nodes=nodes, disk=True)
        assert (
            drawn
            == nemesis.schedule(40, 7, nodes=nodes, disk=True)
            != nemesis.schedule(40, 8, nodes=nodes, disk=True)
        )
        assert set(drawn) == set(kinds)
    assert nemesis.fill_disk not in nemesis.schedule(40, 7, nodes=1, disk=False)


def test_the_longest_stall_is_the_longest_time_without_a_start_under_load() -> None:
    started = Started(job_id="a", at=NOW, status=Status.RUNNING, attempt=1, agent="agent")
    log = [
        Logged(seq=seq, at=at, slot=spec().slot, event=started)
        for seq, at in enumerate((1.0, 2.0, 9.0, 30.0), 1)
    ]
    kill = Fault(kind="kill_server", victim="server", began=2.5, ended=3.0)
    late = Fault(kind="kill_api", victim="api-0", began=9.5, ended=9.6)
    history = History(visibility_s=3.0, log=log, faults=[kill, late])
    assert report.recoveries(
        Result(history, created=1, left=0, began=0.5, healed=10.0, settled_s=0.0, not_tried=[])
    ) == {
        "kill_server": [7.0],
        "kill_api": [1.0],
    }
