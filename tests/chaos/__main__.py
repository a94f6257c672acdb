"""`python -m chaos` (`make chaos`): jobs under faults from outside, and whether every promise was
kept. Exit code 1 when one was not.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

from chaos import report
from chaos.campaign import Plan, run
from chaos.checker import check
from chaos.history import load, save
from chaos.recovery import measure

SECONDS_PER_FAULT = {1: 3.5, 3: 10.0}
JOBS_PER_FAULT = 100


def main() -> int:
    asked = _asked()
    if asked.check:
        violations = check(load(asked.check))
        print(
            *(f"{one.rule}: {one.job_id} {one.what}" for one in violations),
            f"{len(violations)} violations",
            sep="\n",
        )
        return int(bool(violations))
    logging.basicConfig(level=logging.ERROR)
    directory = Path(tempfile.mkdtemp(prefix="qgjet-chaos-"))
    if asked.recovery:
        return _recovery(directory, asked.events)
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    seconds = (asked.hours * 60 if asked.hours else asked.minutes) * 60
    faults = (
        max(1, round(seconds / SECONDS_PER_FAULT[asked.nodes]))
        if asked.faults is None
        else asked.faults
    )
    jobs = faults * JOBS_PER_FAULT if asked.jobs is None else asked.jobs
    plan = Plan(seed=seed, jobs=jobs, faults=faults, nodes=asked.nodes, directory=directory)
    print(
        f"seed {seed}: {jobs} jobs, {faults} faults, {asked.nodes} node(s); again with --seed {seed} --jobs {jobs} --faults {faults} --nodes {asked.nodes}",
        flush=True,
    )
    return _carry_out(plan)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=3.0,
        help="about so long; more faults and jobs for more minutes [default: 3]",
    )
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--jobs", type=int, help="at least so many are accepted")
    parser.add_argument("--faults", type=int, help="exactly so many")
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument(
        "--seed",
        type=int,
        help="the schedule of faults and what clients want; another one each time unless given",
    )
    parser.add_argument(
        "--recovery",
        action="store_true",
        help="measure how long it takes until work goes on after each loss, and do nothing else",
    )
    parser.add_argument(
        "--events",
        type=int,
        default=1_000_000,
        help="for --recovery: events in the log when the API is killed [default: 1000000]",
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="HISTORY",
        help="look at the history of an earlier run again, and do nothing else",
    )
    return parser.parse_args()


def _recovery(directory: Path, events: int) -> int:
    in_time = asyncio.run(measure(directory, lambda line: print(line, flush=True), events=events))
    shutil.rmtree(directory, ignore_errors=True)
    print("verdict       everything in time" if in_time else "verdict       TOO SLOW")
    return int(not in_time)


def _carry_out(plan: Plan) -> int:
    result = asyncio.run(run(plan, lambda line: print(line, flush=True)))
    violations = check(result.history)
    print(*report.lines(plan, result, violations), sep="\n")
    if violations or result.left:
        save(result.history, plan.directory / "history.json")
        print(
            f"the history is in {plan.directory / 'history.json'}, beside what every process has said"
        )
        return 1
    shutil.rmtree(plan.directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
