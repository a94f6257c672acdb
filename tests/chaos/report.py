"""What a run comes to: figures for people, and the verdict."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from chaos.campaign import Plan, Result
from chaos.checker import Violation
from chaos.history import History
from qgjet.domain.events import AttemptLost, Finished, Started, Status, Submitted, event_type

SHOWN = 30
"""Violations that are printed; the history has them all."""


def stalls(history: History, began: float, healed: float) -> list[tuple[float, float]]:
    """(from, to): nothing was started, though clients submitted all the while."""
    starts = [
        one.at
        for one in history.log
        if isinstance(one.event, Started) and began <= one.at <= healed
    ]
    return list(pairwise([began, *starts, healed])) if starts else [(began, healed)]


def recoveries(result: Result) -> dict[str, list[float]]:
    """Per kind of fault: the longest stall that each one met, between its beginning and the next
    one's.
    """
    history = result.history
    found: dict[str, list[float]] = defaultdict(list)
    everything = stalls(history, result.began, result.healed)
    faults = sorted(history.faults, key=lambda fault: fault.began)
    for fault, until in zip(
        faults, [*(fault.began for fault in faults[1:]), result.healed], strict=True
    ):
        met = [
            to - since
            for since, to in everything
            if to > fault.began and since < max(until, fault.ended)
        ]
        found[fault.kind].append(max(met, default=0.0))
    return dict(found)


def lines(plan: Plan, result: Result, violations: list[Violation]) -> Iterator[str]:
    """The report, as it is printed."""
    history = result.history
    events = Counter(event_type(one.event) for one in history.log if one.event is not None)
    jobs = len({one.event.job_id for one in history.log if isinstance(one.event, Submitted)})
    longest = max(to - since for since, to in stalls(history, result.began, result.healed))
    took_s = result.healed - result.began
    yield f"seed {plan.seed}, {plan.nodes} node{'s' * (plan.nodes > 1)}, visibility timeout {plan.visibility_s:g} s, {took_s:.0f} s under faults"
    yield f"jobs          {jobs} ({_verdicts(history)})"
    yield f"events        {len(history.log)}: {', '.join(f'{count} {name}' for name, count in events.most_common())}"
    yield f"executions    {len(history.executions)} by the agents' own records"
    yield f"operations    {_operations(history)}"
    yield f"faults        {len(history.faults)}"
    for kind, met in sorted(recoveries(result).items()):
        yield f"  {kind:22s} {len(met):3d}   stall: median {median(met):5.1f} s, longest {max(met):5.1f} s"
    yield f"recoveries    {sum(isinstance(one.event, AttemptLost) for one in history.log)} attempts were lost and given to others; {_started_again(history)}"
    yield f"longest stall {longest:.1f} s without a start, while clients submitted"
    yield f"settled       {result.settled_s:.1f} s after the last fault; {result.left} jobs left"
    for what in result.not_tried:
        yield f"not tried     {what}"
    yield from _verdict(result, violations)


def _verdicts(history: History) -> str:
    finished = Counter(
        str(one.event.verdict) for one in history.log if isinstance(one.event, Finished)
    )
    replaced = sum(
        isinstance(one.event, Submitted) and bool(one.event.replaces) for one in history.log
    )
    finished["cancelled"] += sum(
        one.event is not None and one.event.status is Status.CANCELLED for one in history.log
    )
    return (
        ", ".join(f"{count} {verdict}" for verdict, count in finished.most_common())
        + f", {replaced} replaced"
    )


def _operations(history: History) -> str:
    fates = Counter((op.kind, op.fate) for op in history.ops)
    return ", ".join(f"{count} {kind} {fate}" for (kind, fate), count in sorted(fates.items()))


def _started_again(history: History) -> str:
    again = sum(isinstance(one.event, Started) and one.event.attempt > 1 for one in history.log)
    return f"{again} attempts were not the first"


def _verdict(result: Result, violations: list[Violation]) -> Iterator[str]:
    by_rule = Counter(violation.rule for violation in violations)
    if result.left:
        yield f"{result.left} jobs have not ended, though everything is healed"
    for violation in violations[:SHOWN]:
        yield f"VIOLATION     {violation.rule}: {violation.job_id} {violation.what}"
    if violations:
        yield f"verdict       BROKEN: {', '.join(f'{count} {rule}' for rule, count in by_rule.most_common())}"
    elif result.left:
        yield "verdict       BROKEN: jobs without an end"
    else:
        yield "verdict       every promise was kept" + (
            f"; {len(result.not_tried)} kind of fault not tried" if result.not_tried else ""
        )
