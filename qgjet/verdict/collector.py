"""Collects the cases of a report within bounded memory. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec

from qgjet.verdict.evidence import ReportedCase

_NOT_GREEN = frozenset({"failed", "timed_out", "interrupted", "flaky"})
_KEPT_BYTES = 4 * 1024 * 1024
"""Texts of cases kept of one report, for each of two classes. An outcome holds an eighth of it."""


class CaseCollector:
    """Collects the cases of a report within bounded memory.

    Every case is counted. A case is kept while there is room, and always when it is the first of
    its kind, so that the rules see the same as with all of them.
    """

    def __init__(self) -> None:
        self.cases: list[ReportedCase] = []
        self.totals: Counter[str] = Counter()
        self.omitted = 0
        self._room = {True: _KEPT_BYTES, False: _KEPT_BYTES}
        self._kinds: set[tuple[object, ...]] = set()
        self._ids: Counter[str] = Counter()

    def add(self, case: ReportedCase) -> None:
        self.totals[case.result.outcome] += 1
        important = case.result.outcome in _NOT_GREEN or not case.finished
        kind = (
            case.result.outcome,
            case.asked,
            case.finished,
            case.blame and case.blame.sign,
            case.final,
        )
        size = _size(case)
        if kind in self._kinds and size > self._room[important]:
            self.omitted += 1
            return
        self._kinds.add(kind)
        self._room[important] -= size
        self.cases.append(self._unique(case))

    def _unique(self, case: ReportedCase) -> ReportedCase:
        """The case with an ID of its own: repetitions of one test share theirs in the report."""
        result = case.result
        self._ids[result.id] += 1
        n = self._ids[result.id]
        return (
            case
            if n == 1
            else msgspec.structs.replace(
                case, result=msgspec.structs.replace(result, id=f"{result.id}#{n}")
            )
        )


def _size(case: ReportedCase) -> int:
    result = case.result
    tries = sum(100 + (len(one.error.message) if one.error else 0) for one in result.tries)
    return (
        200
        + len(result.id)
        + len(result.title)
        + len(result.file)
        + tries
        + (len(case.blame.text) if case.blame else 0)
    )
