"""Holds a history against what qgjet promises. Pure: a history in, every violation out.

It knows the events' shapes and next to nothing else of qgjet: attempts, ends and live jobs are
counted here anew, not by the code that is on trial. Only that each event was legal where it stands
is asked of `qgjet.domain.job`, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

from msgspec import Struct
from msgspec.structs import replace

from chaos.history import (
    CANCEL,
    OK,
    READ,
    REFUSED,
    SUBMIT,
    SUITE,
    Execution,
    History,
    Logged,
    Op,
    of_test,
)
from qgjet.domain.events import (
    AttemptEnded,
    AttemptLost,
    CancelRequested,
    Finished,
    JobSpec,
    Outcome,
    Released,
    Requeued,
    Slot,
    Started,
    Status,
    Submitted,
    Verdict,
    event_type,
)
from qgjet.domain.job import Job, broken_rule, evolve, state_of
from qgjet.domain.subjects import Lane, lane_consumer

CLOCK_SLACK_S = 0.05
"""The server's wall clock against the agents' monotonic one, on one host."""
STOP_SLACK_S = 1.0
"""What a busy machine may take to end a process that was told to."""
NOTICE_S = 5.0
"""How long it takes an API to connect again and to look at its log."""
_LAST = frozenset({Status.DONE, Status.FAILED, Status.CANCELLED})
_NOBODY_RAN_IT = frozenset(
    {"attempt_lost", "prepare_failed", "queue_timeout", "deliveries_exhausted"}
)
_ANSWERS = frozenset({"404", "409", "503"})
"""HTTP statuses that a client has to expect, beside success."""
_SAID = frozenset({Verdict.PASSED, Verdict.FAILED, Verdict.SKIPPED})
"""Verdicts that only a run to its end can give."""


class Violation(Struct, frozen=True, kw_only=True):
    rule: str
    what: str
    job_id: str = ""


class Story(Struct, kw_only=True):
    """All that is known of one job."""

    spec: JobSpec
    slot: Slot
    events: list[Logged] = []
    ends: list[Logged] = []
    """Events after which it is not live; the submission that replaces it is one."""
    executions: list[Execution] = []

    @property
    def job_id(self) -> str:
        return self.spec.job_id

    def start_of(self, attempt: int) -> Logged | None:
        return next(
            (
                one
                for one in self.events
                if isinstance(one.event, Started) and one.event.attempt == attempt
            ),
            None,
        )

    def end_of(self, attempt: int) -> Logged | None:
        """The event that took the attempt from its agent."""
        begun = False
        for one in self.events:
            if isinstance(one.event, Started):
                begun = begun or one.event.attempt == attempt
            elif begun and isinstance(one.event, AttemptEnded | AttemptLost | Released):
                return one
        return self.ends[0] if begun and self.ends else None


class Told(Struct, kw_only=True):
    """A history, put in order."""

    history: History
    stories: dict[str, Story] = {}
    by_seq: dict[int, Logged] = {}
    breaches: list[Violation] = []
    """What was found wrong while it was read."""
    forgotten: frozenset[str] = frozenset()
    """Jobs, and suites, of which the log has lost events. The log still has to be sound, and they
    have to end; what clients and agents saw of them is gone.
    """


def check(history: History) -> list[Violation]:
    """Every violation, by rule. Empty: all promises were kept."""
    told = tell(history)
    return [*told.breaches, *(one for rule in RULES for one in rule(told))]


def tell(history: History) -> Told:
    """Read the log from its beginning; jobs, their ends and what may not be."""
    forgotten = frozenset(_forgotten(history))
    history = _remembered(history, forgotten)
    told = Told(history=history, by_seq={one.seq: one for one in history.log}, forgotten=forgotten)
    live: dict[Slot, Story] = {}
    states: dict[Slot, Job] = {}
    for one in history.log:
        if one.slot is None or one.event is None:
            continue
        _hold_against_the_table(told, states, one)
        if isinstance(one.event, Submitted):
            _submission(told, live, one, one.event)
        else:
            _step(told, live, one)
    for execution in history.executions:
        story = told.stories.get(execution.job_id)
        if story is not None:
            story.executions.append(execution)
    return told


def _forgotten(history: History) -> Iterator[str]:
    for one in (one for cut in history.cuts for one in cut.lost):
        if one.event is not None:
            yield one.event.job_id
        if isinstance(one.event, Submitted) and one.event.replaces:
            yield one.event.replaces
        if one.opened is not None:
            yield one.opened.suite_id


def _remembered(history: History, forgotten: frozenset[str]) -> History:
    """Without what was said and done about jobs whose events are lost."""
    lost_tests = {one.slot.test for cut in history.cuts for one in cut.lost if one.slot is not None}
    unknown = forgotten | {of_test(test) for test in lost_tests}
    return replace(
        history,
        ops=[
            op
            for op in history.ops
            if not forgotten & {op.asked_id, op.suite_id, *(wanted.job_id for wanted in op.wanted)}
            and not _misnumbered(history, op)
        ],
        executions=[run for run in history.executions if run.job_id not in unknown],
        clashes=[clash for clash in history.clashes if clash.partition(":")[0] not in lost_tests],
    )


def _misnumbered(history: History, op: Op) -> bool:
    """A read of a replica that may not have noticed yet that the log gives its last sequences a
    second time.
    """
    return op.kind == READ and any(
        cut.began <= (op.ended or cut.began) and op.began <= cut.ended + NOTICE_S
        for cut in history.cuts
    )


def _hold_against_the_table(told: Told, states: dict[Slot, Job], one: Logged) -> None:
    assert one.slot is not None
    assert one.event is not None
    before = states.get(one.slot)
    broken = broken_rule(before, one.event)
    after = evolve(before, one.event, one.seq)
    if broken is not None:
        told.breaches.append(
            Violation(
                rule="illegal_event", job_id=one.event.job_id, what=f"event {one.seq}: {broken}"
            )
        )
    elif after != state_of(one.event, one.seq):
        told.breaches.append(
            Violation(
                rule="illegal_event",
                job_id=one.event.job_id,
                what=f"event {one.seq} does not carry the state it leads to",
            )
        )
    if after is not None:
        states[one.slot] = after


def _submission(told: Told, live: dict[Slot, Story], one: Logged, event: Submitted) -> None:
    assert one.slot is not None
    before = live.get(one.slot)
    if before is not None and event.replaces == before.job_id:
        before.ends.append(one)
    elif before is not None:
        what = f"submitted ({one.seq}) beside the live job {before.job_id} of {one.slot.test}"
        told.breaches.append(Violation(rule="two_live_jobs", job_id=event.job_id, what=what))
    if event.job_id in told.stories:
        told.breaches.append(
            Violation(
                rule="two_live_jobs",
                job_id=event.job_id,
                what=f"submitted a second time ({one.seq})",
            )
        )
        return
    live[one.slot] = told.stories[event.job_id] = Story(
        spec=event.spec, slot=one.slot, events=[one]
    )


def _step(told: Told, live: dict[Slot, Story], one: Logged) -> None:
    assert one.slot is not None
    assert one.event is not None
    story = told.stories.get(one.event.job_id)
    if story is None:
        what = f"{event_type(one.event)} ({one.seq}) of a job that was never submitted"
        told.breaches.append(Violation(rule="illegal_event", job_id=one.event.job_id, what=what))
        return
    story.events.append(one)
    if story.ends and one.event.status not in _LAST:
        told.breaches.append(
            Violation(
                rule="two_ends",
                job_id=story.job_id,
                what=f"{event_type(one.event)} ({one.seq}) after its end ({story.ends[0].seq})",
            )
        )
    if one.event.status in _LAST:
        story.ends.append(one)
        if live.get(one.slot) is story:
            del live[one.slot]


# -- the rules -----------------------------------------------------------------------------------------------------------------


def no_hole(told: Told) -> Iterator[Violation]:
    """Nothing that was stored is gone again."""
    for before, after in pairwise([0, *(one.seq for one in told.history.log)]):
        if after != before + 1:
            yield Violation(
                rule="hole", what=f"the log has no message between {before} and {after}"
            )


def no_lost_submission(told: Told) -> Iterator[Violation]:
    """What a client was told is accepted is in the log, in the slot that was asked for."""
    for op in told.history.ops:
        if op.kind not in (SUBMIT, SUITE) or op.fate != OK:
            continue
        for wanted in op.wanted:
            story = told.stories.get(wanted.job_id)
            if story is None or story.slot != wanted.slot:
                yield Violation(
                    rule="lost_submission",
                    job_id=wanted.job_id,
                    what=f"{op.client} was told that {wanted.slot.test} is accepted (seq {op.seq})",
                )


def one_end(told: Told) -> Iterator[Violation]:
    """Every job has exactly one terminal event, or is live and can be delivered."""
    for story in told.stories.values():
        if len(story.ends) > 1:
            yield Violation(
                rule="two_ends",
                job_id=story.job_id,
                what=f"ended by {[one.seq for one in story.ends]}",
            )
        elif not story.ends and not _is_deliverable(told, story):
            yield Violation(
                rule="stranded",
                job_id=story.job_id,
                what=f"{story.slot.test} has no end, and nothing will deliver it",
            )


def _is_deliverable(told: Told, story: Story) -> bool:
    ranks = [
        one.event.spec.rank for one in story.events if isinstance(one.event, Submitted | Requeued)
    ]
    return lane_consumer(Lane(story.slot.partition, ranks[-1])) in told.history.deliverable


def attempts_without_gaps(told: Told) -> Iterator[Violation]:
    for story in told.stories.values():
        numbers = [one.event.attempt for one in story.events if isinstance(one.event, Started)]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Violation(
                rule="attempt_gap", job_id=story.job_id, what=f"its attempts are {numbers}"
            )


def within_budget(told: Told) -> Iterator[Violation]:
    for story in told.stories.values():
        free = sum(isinstance(one.event, Released) for one in story.events)
        allowed = 1 + story.spec.max_retries + story.spec.infra_retries + free
        starts = sum(isinstance(one.event, Started) for one in story.events)
        if starts > allowed:
            yield Violation(
                rule="over_budget",
                job_id=story.job_id,
                what=f"{starts} attempts, {allowed} were allowed",
            )


def no_overlap(told: Told) -> Iterator[Violation]:
    """No two executions of one job at a time: what is lost is dead before it is started anew."""
    for what in told.history.clashes:
        yield Violation(rule="overlap", what=what)
    for story in told.stories.values():
        for before, after in pairwise(sorted(story.executions, key=lambda one: one.began)):
            if after.began < before.ended:
                first = f"attempt {before.attempt} on {before.agent}"
                second = f"attempt {after.attempt} on {after.agent}"
                what = f"{second} began {before.ended - after.began:.3f} s before {first} ended"
                yield Violation(rule="overlap", job_id=story.job_id, what=what)


def claimed_before_run(told: Told) -> Iterator[Violation]:
    """An agent runs what its own `started` says, after that was stored, and once."""
    seen: Counter[tuple[str, int]] = Counter()
    for run in told.history.executions:
        story = told.stories.get(run.job_id)
        start = story.start_of(run.attempt) if story is not None else None
        if start is None or start.event is None or start.event.agent != run.agent:
            yield Violation(
                rule="unclaimed",
                job_id=run.job_id,
                what=f"attempt {run.attempt} ran on {run.agent} without its `started`",
            )
        elif run.began < start.at - CLOCK_SLACK_S:
            yield Violation(
                rule="unclaimed",
                job_id=run.job_id,
                what=f"attempt {run.attempt} ran {start.at - run.began:.3f} s before it was claimed",
            )
        seen[run.job_id, run.attempt] += 1
        if seen[run.job_id, run.attempt] == 2:
            yield Violation(
                rule="executed_twice",
                job_id=run.job_id,
                what=f"attempt {run.attempt} was executed more than once",
            )


def nothing_outlived(told: Told) -> Iterator[Violation]:
    """What was taken from its agent, by a loss, a cancel or a replacement, ends within one
    visibility timeout.
    """
    for story in told.stories.values():
        for run in story.executions:
            taken = story.end_of(run.attempt)
            if (
                taken is not None
                and run.ended > taken.at + told.history.visibility_s + STOP_SLACK_S
            ):
                what = f"attempt {run.attempt} on {run.agent} ran on for {run.ended - taken.at:.1f} s after event {taken.seq}"
                yield Violation(rule="outlived", job_id=story.job_id, what=what)


def no_early_loss(told: Told) -> Iterator[Violation]:
    """An attempt is declared lost one visibility timeout after the slot's last event, not before:
    by the server's clock, whatever the agents' say.
    """
    for story in told.stories.values():
        for before, after in pairwise(story.events):
            waited = after.at - before.at
            if (
                isinstance(after.event, AttemptLost)
                and waited < told.history.visibility_s - CLOCK_SLACK_S
            ):
                yield Violation(
                    rule="early_loss",
                    job_id=story.job_id,
                    what=f"event {after.seq}: lost {waited:.3f} s after event {before.seq}",
                )


def no_start_after_cancel(told: Told) -> Iterator[Violation]:
    for story in told.stories.values():
        asked = next(
            (one.seq for one in story.events if isinstance(one.event, CancelRequested)), None
        )
        for one in story.events:
            if asked is not None and isinstance(one.event, Started) and one.seq > asked:
                yield Violation(
                    rule="start_after_cancel",
                    job_id=story.job_id,
                    what=f"started ({one.seq}) after cancel_requested ({asked})",
                )


def cancels_are_kept(told: Told) -> Iterator[Violation]:
    """Who was told that a job is being cancelled, or is cancelled already, finds that in the log."""
    for op in told.history.ops:
        if op.kind != CANCEL or op.fate != OK:
            continue
        story = told.stories.get(op.asked_id)
        if story is None or not any(
            isinstance(one.event, CancelRequested) or _cancels(one, story)
            for one in (*story.events, *story.ends)
        ):
            yield Violation(
                rule="lost_cancel",
                job_id=op.asked_id,
                what=f"{op.client} was told that it is cancelled",
            )


def _cancels(one: Logged, story: Story) -> bool:
    return one.event is not None and (
        one.event.status is Status.CANCELLED or one.event.job_id != story.job_id
    )


def refused_is_not_run(told: Told) -> Iterator[Violation]:
    refused = {
        op.asked_id
        for op in told.history.ops
        if op.kind == SUBMIT and op.fate == REFUSED and op.asked_id
    }
    for job_id in sorted(refused & told.stories.keys()):
        yield Violation(
            rule="refused_but_there",
            job_id=job_id,
            what="the client was told that it is refused, and it is in the log",
        )
    for run in told.history.executions:
        if run.job_id in refused or run.job_id not in told.stories:
            yield Violation(
                rule="refused_but_run",
                job_id=run.job_id,
                what=f"executed on {run.agent}, though nobody accepted it",
            )


def verdicts_are_true(told: Told) -> Iterator[Violation]:
    """A verdict is what the last execution came to, by its own record; passed after a failure is
    flaky.
    """
    for story in told.stories.values():
        if story.job_id in told.forgotten:
            continue
        failures, unresolved = 0, set[str]()
        for one in story.events:
            event = one.event
            if (
                not isinstance(event, AttemptEnded | Finished)
                or event.outcome.reason in _NOBODY_RAN_IT
            ):
                continue
            failures += event.outcome.verdict in (Verdict.FAILED, Verdict.TIMED_OUT)
            runs = [run.verdict for run in story.executions if run.attempt == event.attempt]
            if event.outcome.verdict in _SAID and runs != [event.outcome.verdict]:
                what = f"event {one.seq} says that attempt {event.attempt} {event.outcome.verdict}, its execution says {runs}"
                yield Violation(rule="untrue_verdict", job_id=story.job_id, what=what)
            _keep_unresolved(unresolved, event.outcome)
            if isinstance(event, Finished) and event.verdict != _over_all(
                event.outcome.verdict, failures, unresolved
            ):
                yield Violation(
                    rule="untrue_verdict",
                    job_id=story.job_id,
                    what=f"finished as {event.verdict} after {failures} failures",
                )


def _keep_unresolved(unresolved: set[str], outcome: Outcome) -> None:
    """Test cases that failed in an attempt and have not passed since. An attempt without a
    statement about the app changes nothing.
    """
    if outcome.verdict not in (
        Verdict.PASSED,
        Verdict.FLAKY,
        Verdict.SKIPPED,
        Verdict.FAILED,
        Verdict.TIMED_OUT,
    ):
        return
    unresolved -= {test.id for test in outcome.tests if test.outcome in ("passed", "flaky")}
    if outcome.verdict in (Verdict.FAILED, Verdict.TIMED_OUT):
        unresolved |= {
            test.id
            for test in outcome.tests
            if test.outcome in ("failed", "timed_out", "interrupted")
        }


def _over_all(last: Verdict, failures: int, unresolved: set[str]) -> Verdict:
    if not failures:
        return last
    if last in (Verdict.PASSED, Verdict.FLAKY):
        return Verdict.FAILED if unresolved else Verdict.FLAKY
    # none of these shows anything about the app, so the failure stands
    return (
        Verdict.FAILED
        if last in (Verdict.SKIPPED, Verdict.INFRA_ERROR, Verdict.CONFIG_ERROR)
        else last
    )


def reads_are_fresh(told: Told) -> Iterator[Violation]:
    """A read with `min_seq` knows that much, and says what the log said at some moment; nobody
    reads backwards of what they wrote.
    """
    for op in told.history.ops:
        if op.kind != READ:
            continue
        if op.fate == REFUSED:
            if (
                op.asked_id in told.stories
                and told.stories[op.asked_id].events[0].seq <= op.min_seq
            ):
                yield Violation(
                    rule="stale_read",
                    job_id=op.asked_id,
                    what=f"{op.client} was told that it does not exist, with min_seq {op.min_seq}",
                )
        elif op.fate == OK:
            yield from _said_by_the_log(told, op)


def _said_by_the_log(told: Told, op: Op) -> Iterator[Violation]:
    story = told.stories.get(op.asked_id)
    known = (
        max((one.seq for one in (*story.events, *story.ends) if one.seq <= op.min_seq), default=0)
        if story is not None
        else 0
    )
    if op.seq < known:
        yield Violation(
            rule="stale_read",
            job_id=op.asked_id,
            what=f"{op.client} read event {op.seq}, with min_seq {op.min_seq}: event {known} was known",
        )
    one = told.by_seq.get(op.seq)
    if one is None or one.event is None:
        yield Violation(
            rule="stale_read",
            job_id=op.asked_id,
            what=f"{op.client} read event {op.seq}, which is not in the log",
        )
        return
    replaced = isinstance(one.event, Submitted) and one.event.replaces == op.asked_id
    if (not replaced and one.event.job_id != op.asked_id) or op.status != (
        Status.CANCELLED if replaced else one.event.status
    ):
        yield Violation(
            rule="stale_read",
            job_id=op.asked_id,
            what=f"{op.client} read {op.status} of event {op.seq}, which says {one.event.status}",
        )


def one_key_one_job(told: Told) -> Iterator[Violation]:
    """All answers to one idempotency key name one job, but for those that were attached to somebody
    else's.
    """
    answers: dict[tuple[str, Slot], set[str]] = defaultdict(set)
    for op in told.history.ops:
        if op.kind in (SUBMIT, SUITE) and op.fate == OK and op.key:
            for wanted in op.wanted:
                if not wanted.attached:
                    answers[op.key, wanted.slot].add(wanted.job_id)
    for (key, _), ids in answers.items():
        if len(ids) > 1:
            yield Violation(
                rule="two_jobs_of_one_key", job_id=min(ids), what=f"key {key} made {sorted(ids)}"
            )


def suites_are_whole(told: Told) -> Iterator[Violation]:
    """All jobs of a submission or none: what its event names is in the log, and what the log has of
    it is named.
    """
    named: dict[str, set[str]] = defaultdict(set)
    for one in told.history.log:
        if one.opened is not None:
            named[one.opened.suite_id] |= {member.job_id for member in one.opened.jobs}
    for suite_id, members in named.items():
        for job_id in sorted(members - told.stories.keys() - told.forgotten):
            yield Violation(
                rule="torn_suite",
                job_id=job_id,
                what=f"suite {suite_id} names it, and it was never submitted",
            )
    for story in told.stories.values():
        for suite_id in story.spec.suite_ids:
            if story.job_id not in named[suite_id] and suite_id not in told.forgotten:
                yield Violation(
                    rule="torn_suite",
                    job_id=story.job_id,
                    what=f"submitted for suite {suite_id}, which does not name it",
                )
    for op in told.history.ops:
        if (
            op.kind == SUITE
            and op.fate == OK
            and not {wanted.job_id for wanted in op.wanted} <= named[op.suite_id]
        ):
            yield Violation(
                rule="torn_suite",
                what=f"{op.client} was told that suite {op.suite_id} is accepted; the log names {len(named[op.suite_id])} jobs",
            )
        if op.kind == SUITE and op.fate == REFUSED and named.get(op.suite_id):
            yield Violation(
                rule="torn_suite",
                what=f"{op.client} was told that suite {op.suite_id} is refused, and it is in the log",
            )


def submissions_are_closed(told: Told) -> Iterator[Violation]:
    """A submission whose client died half-way is ended by the janitor: it does not wait for ever
    for what never comes.
    """
    last = {
        (one.opened.suite_id, one.opened.submission): one.opened
        for one in told.history.log
        if one.opened is not None
    }
    for (suite_id, _), opened in last.items():
        if opened.to_come:
            yield Violation(
                rule="open_submission",
                what=f"suite {suite_id} still waits for {opened.to_come} jobs",
            )


def read_models_are_rebuilds(told: Told) -> Iterator[Violation]:
    for replica in told.history.replicas:
        if replica.differs:
            yield Violation(
                rule="read_model",
                what=f"{replica.name} differs from a rebuild in {', '.join(replica.differs)}",
            )


def no_surprises(told: Told) -> Iterator[Violation]:
    """Processes end when they are told to, and the API answers with what is documented."""
    for what in told.history.surprises:
        yield Violation(rule="surprise", what=what)
    for op in told.history.ops:
        if op.why[:3].isdigit() and op.why[:3] not in _ANSWERS:
            yield Violation(
                rule="surprise",
                job_id=op.asked_id,
                what=f"{op.client}: {op.kind} was answered with {op.why}",
            )


def records_are_whole(told: Told) -> Iterator[Violation]:
    if told.history.unread:
        yield Violation(
            rule="unread_records",
            what=f"{told.history.unread} lines of the agents' records cannot be read: nothing can be said of those runs",
        )


RULES: tuple[Callable[[Told], Iterator[Violation]], ...] = (
    no_hole,
    no_lost_submission,
    one_end,
    attempts_without_gaps,
    within_budget,
    no_overlap,
    claimed_before_run,
    nothing_outlived,
    no_early_loss,
    no_start_after_cancel,
    cancels_are_kept,
    refused_is_not_run,
    verdicts_are_true,
    reads_are_fresh,
    one_key_one_job,
    suites_are_whole,
    submissions_are_closed,
    read_models_are_rebuilds,
    no_surprises,
    records_are_whole,
)
