"""The order in which free slots take lanes: single choices, and whole days simulated."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qgjet.agent.scheduling import Bench, Turns, Waiting, choose
from qgjet.domain.events import Partition
from qgjet.domain.subjects import Lane


def waiting(
    org: str = "acme", version: str = "1", target: str = "emulator", rank: int = 5, since: int = 1
) -> Waiting:
    return Waiting(lane=Lane(Partition(org, version, target), rank), since=since)


def bench(**given: Any) -> Bench:
    return Bench(**{"free_targets": {"emulator"}, **given})


def test_nothing_waiting_is_no_choice() -> None:
    assert choose([], bench(), Turns()) is None


def test_a_lane_whose_target_has_no_free_slot_is_left_alone() -> None:
    assert choose([waiting(target="device")], bench(), Turns()) is None


def test_a_partition_that_cools_off_is_left_to_others() -> None:
    one = waiting()
    assert choose([one], bench(cooling={one.lane.partition}), Turns()) is None


def test_the_better_rank_goes_before_the_warm_partition() -> None:
    warm, urgent = waiting(version="1", rank=5), waiting(version="2", rank=4)
    assert choose([warm, urgent], bench(warm={warm.lane.partition: 0}), Turns()) == urgent


def test_the_warm_partition_goes_before_an_older_one() -> None:
    warm, older = waiting(version="1", since=9), waiting(version="2", since=1)
    assert choose([warm, older], bench(warm={warm.lane.partition: 2}), Turns()) == warm


def test_after_a_whole_batch_warmth_no_longer_counts() -> None:
    warm, older = waiting(version="1", since=9), waiting(version="2", since=1)
    assert choose([warm, older], bench(warm={warm.lane.partition: 3}, batch=3), Turns()) == older


def test_a_partition_that_is_warm_in_a_busy_slot_is_taken_last() -> None:
    theirs, other = waiting(version="1", since=1), waiting(version="2", since=9)
    assert choose([theirs, other], bench(warm_busy={theirs.lane.partition}), Turns()) == other
    assert choose([theirs], bench(warm_busy={theirs.lane.partition}), Turns()) == theirs


def test_the_org_whose_turn_it_is_goes_before_the_older_job() -> None:
    turns = Turns()
    turns.take("acme")
    ours, theirs = waiting(org="acme", since=1), waiting(org="zeta", since=9)
    assert choose([ours, theirs], bench(), turns) == theirs


def test_the_longest_waiting_goes_first_when_all_else_is_equal() -> None:
    assert choose(
        [waiting(version="1", since=7), waiting(version="2", since=3)], bench(), Turns()
    ) == waiting(version="2", since=3)


def simulate(queues: dict[Lane, int], steps: int, batch: int = 3) -> list[Lane]:
    """One slot, `steps` jobs: the lane of each, in order."""
    turns, warm, in_a_row, done = Turns(), None, 0, []
    for _ in range(steps):
        lanes = [
            Waiting(lane=lane, since=index)
            for index, (lane, left) in enumerate(sorted(queues.items()))
            if left
        ]
        prepared = {warm: in_a_row} if warm is not None else {}
        chosen = choose(lanes, bench(warm=prepared, batch=batch), turns)
        if chosen is None:
            break
        partition = chosen.lane.partition
        in_a_row = in_a_row + 1 if partition == warm and in_a_row < batch else 1
        warm = partition
        turns.take(partition.org_id)
        queues[chosen.lane] -= 1
        done.append(chosen.lane)
    return done


def test_a_flood_of_one_org_does_not_starve_another() -> None:
    flood, few = waiting(org="flood").lane, waiting(org="small").lane
    order = simulate({flood: 1000, few: 10}, 40)
    assert Counter(lane.partition.org_id for lane in order)["small"] == 10


def test_batches_avoid_most_installs() -> None:
    lanes = {waiting(version=str(number)).lane: 30 for number in range(4)}
    order = simulate(lanes, 120)
    installs = 1 + sum(
        before.partition != after.partition for before, after in itertools.pairwise(order)
    )
    assert len(order) == 120
    assert installs <= 40


def test_orgs_that_come_late_start_at_par() -> None:
    turns = Turns()
    for _ in range(100):
        turns.take("old")
    assert turns.of("new") <= turns.of("old")
    assert turns.of("old") - turns.of("new") <= 1


lanes = st.builds(
    waiting,
    st.sampled_from("ab"),
    st.sampled_from("12"),
    st.sampled_from(["emulator", "device"]),
    st.integers(0, 9),
    st.integers(1, 99),
)


@given(st.lists(lanes), st.lists(st.sampled_from("ab")), st.randoms())
def test_the_choice_is_one_of_the_best_rank_and_does_not_depend_on_the_order_of_the_question(
    found: list[Waiting], past: list[str], random: Any
) -> None:
    turns = Turns()
    for org in past:
        turns.take(org)
    chosen = choose(found, bench(), turns)
    suitable = [one for one in found if one.lane.partition.target == "emulator"]
    assert (chosen is None) == (not suitable)
    if chosen is not None:
        assert chosen.lane.rank == min(one.lane.rank for one in suitable)
        shuffled = random.sample(found, len(found))
        assert choose(shuffled, bench(), turns) == chosen


@given(st.dictionaries(lanes.map(lambda one: one.lane), st.integers(1, 20), min_size=1, max_size=6))
def test_everything_that_fits_is_run_exactly_once(queues: dict[Lane, int]) -> None:
    expected = Counter(
        {lane: count for lane, count in queues.items() if lane.partition.target == "emulator"}
    )
    assert Counter(simulate(dict(queues), 1000)) == expected
