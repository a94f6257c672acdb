"""The checker finds what is wrong, and nothing else: a valid history passes, and each fault that is
planted into one is named.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from chaos.checker import RULES, check, tell
from chaos.history import (
    CANCEL,
    OK,
    READ,
    REFUSED,
    SUBMIT,
    SUITE,
    Cut,
    Execution,
    History,
    Logged,
    Op,
    Replica,
    Wanted,
    load,
    save,
)
from factories import NOW, spec
from projections.histories import Author
from qgjet.domain.decide import Cancel, Lose, OnDuplicate, Requeue
from qgjet.domain.events import (
    AttemptEnded,
    AttemptLost,
    CancelRequested,
    Event,
    Finished,
    JobSpec,
    Outcome,
    Started,
    Submitted,
    Verdict,
)
from qgjet.domain.subjects import Lane, lane_consumer
from qgjet.domain.suite import Member, SuiteOpened
from strategies import Story, events_of, stories

V = 3.0


class Tale:
    """A valid history of a few jobs: one of each kind of end, one that waits, and what everybody
    wrote down meanwhile. An event each ten seconds.
    """

    def __init__(self) -> None:
        self._author = Author()
        self.history = History(visibility_s=V)
        self.passed = self._job("passed", Verdict.PASSED)
        self.flaky = self._job("flaky", Verdict.FAILED, Verdict.PASSED)
        self.failed = self._job("failed", Verdict.FAILED, max_retries=0)
        self.lost = self._lost()
        self.cancelled = self._cancelled()
        self.replaced, self.replacing = self._replaced()
        self.member = self._suite()
        self.waiting = self._submit("waiting")
        self._tell()
        self.history.deliverable = [lane_consumer(Lane(self.waiting.partition, 5))]
        self._read(self.flaky)
        self.history.replicas = [Replica(name="api-0")]

    def _submit(
        self, name: str, on_duplicate: OnDuplicate = OnDuplicate.ATTACH, **fields: object
    ) -> JobSpec:
        wanted = self._author.submit(on_duplicate, job_id=name, **{"test": f"{name}.js", **fields})
        seq = self._author.seq
        answer = Wanted(slot=wanted.slot, job_id=name)
        self.history.ops.append(
            Op(
                client="c",
                kind=SUBMIT,
                began=seq * 10.0,
                ended=seq * 10.0,
                fate=OK,
                wanted=[answer],
                asked_id=name,
                key=f"key {name}",
                seq=seq,
            )
        )
        return wanted

    def _job(self, name: str, *verdicts: Verdict, **fields: object) -> JobSpec:
        wanted = self._submit(name, **fields)
        for verdict in verdicts:
            self._run(wanted, verdict)
        return wanted

    def _run(self, wanted: JobSpec, verdict: Verdict | None, agent: str = "agent-1") -> None:
        """An attempt that comes to `verdict`; None: to nothing, its agent dies."""
        self._author.start(wanted, agent)
        job = self._author.jobs[wanted.slot]
        assert job is not None
        began = self._author.seq * 10.0 + 1
        self.history.executions.append(
            Execution(
                job_id=wanted.job_id,
                attempt=job.attempt,
                agent=agent,
                began=began,
                ended=began + 5,
                verdict=verdict.value if verdict else "",
            )
        )
        if verdict is not None:
            self._author.end(wanted, verdict)

    def _lost(self) -> JobSpec:
        wanted = self._submit("lost")
        self._run(wanted, None)
        self._author.tell(wanted.slot, Lose("agent-1", 1, "agent-2"))
        self._author.tell(wanted.slot, Requeue(wanted, "undeliverable", "janitor"))
        self._run(wanted, Verdict.PASSED, "agent-2")
        return wanted

    def _cancelled(self) -> JobSpec:
        wanted = self._submit("cancelled")
        self._run(wanted, None)
        self._author.tell(wanted.slot, Cancel("c"))
        self.history.ops.append(
            Op(
                client="c",
                kind=CANCEL,
                began=0.0,
                fate=OK,
                asked_id="cancelled",
                seq=self._author.seq,
            )
        )
        self._author.end(wanted, Verdict.CANCELLED)
        return wanted

    def _replaced(self) -> tuple[JobSpec, JobSpec]:
        old = self._submit("replaced", test="contested.js")
        refused = Op(
            client="c",
            kind=SUBMIT,
            began=0.0,
            fate=REFUSED,
            asked_id="refused",
            wanted=[Wanted(slot=old.slot)],
        )
        self.history.ops.append(refused)
        self._run(old, None)
        new = self._submit("replacing", OnDuplicate.REPLACE, test="contested.js")
        self._run(new, Verdict.PASSED)
        return old, new

    def _suite(self) -> JobSpec:
        wanted = self._submit("member", suite_ids=("suite",))
        member = Member(
            job_id="member",
            app_version_id=wanted.app_version_id,
            target=wanted.target,
            test=wanted.test,
        )
        self._author.open_suite("suite", (member,))
        answer = Wanted(slot=wanted.slot, job_id="member")
        self.history.ops.append(
            Op(
                client="c",
                kind=SUITE,
                began=0.0,
                fate=OK,
                suite_id="suite",
                wanted=[answer],
                seq=self._author.seq,
            )
        )
        self._run(wanted, Verdict.PASSED)
        return wanted

    def _tell(self) -> None:
        for message in self._author.messages:
            opened = (
                SuiteOpened(
                    suite_id="suite",
                    org_id="acme",
                    at=NOW,
                    submission="one",
                    jobs=(member("member"),),
                )
                if message.event is None
                else None
            )
            slot = (
                None
                if message.event is None
                else next(job.slot for job in self._specs() if job.job_id == message.event.job_id)
            )
            self.history.log.append(
                Logged(
                    seq=message.seq,
                    at=message.seq * 10.0,
                    slot=slot,
                    event=message.event,
                    opened=opened,
                )
            )

    def _specs(self) -> list[JobSpec]:
        return [one.event.spec for one in self._author.messages if isinstance(one.event, Submitted)]

    def _read(self, job: JobSpec) -> None:
        last = max(
            one.seq
            for one in self.history.log
            if one.event is not None and one.event.job_id == job.job_id
        )
        self.history.ops.append(
            Op(
                client="c",
                kind=READ,
                began=0.0,
                fate=OK,
                asked_id=job.job_id,
                min_seq=last - 1,
                seq=last,
                status="done",
            )
        )

    # -- to plant faults with ----------------------------------------------------------------------------------------

    def at(self, job: JobSpec, kind: type[Event], number: int = 1) -> int:
        """Where the job's `number`th event of a kind stands."""
        found = [
            place
            for place, one in enumerate(self.history.log)
            if isinstance(one.event, kind) and one.event.job_id == job.job_id
        ]
        return found[number - 1]

    def change(self, place: int, **fields: object) -> None:
        one = self.history.log[place]
        self.history.log[place] = replace(one, event=replace(one.event, **fields))  # type: ignore[type-var]

    def drop(self, place: int) -> None:
        """Forget an event, and close the gap."""
        del self.history.log[place]
        self.history.log = [
            replace(one, seq=number) for number, one in enumerate(self.history.log, 1)
        ]

    def append(self, job: JobSpec, event: Event | None) -> None:
        seq = self.history.log[-1].seq + 1
        self.history.log.append(Logged(seq=seq, at=seq * 10.0, slot=job.slot, event=event))

    def run(self, job: JobSpec, attempt: int = 1) -> int:
        return next(
            n
            for n, run in enumerate(self.history.executions)
            if (run.job_id, run.attempt) == (job.job_id, attempt)
        )

    def rerun(self, number: int, **fields: object) -> None:
        self.history.executions[number] = replace(self.history.executions[number], **fields)

    def op(self, kind: str, asked: str = "") -> Op:
        return next(op for op in self.history.ops if op.kind == kind and asked in ("", op.asked_id))


def member(job_id: str) -> Member:
    return Member(job_id=job_id, app_version_id="1.0.0", target="emulator", test=f"{job_id}.js")


def test_a_valid_history_passes() -> None:
    assert check(Tale().history) == []


# -- one planted fault per rule ------------------------------------------------------------------------------------------------


def hole(tale: Tale) -> None:
    del tale.history.log[3]


def lost_submission(tale: Tale) -> None:
    tale.op(SUBMIT).wanted.append(Wanted(slot=spec(test="never.js").slot, job_id="never"))


def lost_submission_in_another_slot(tale: Tale) -> None:
    tale.op(SUBMIT, "passed").wanted[:] = [Wanted(slot=tale.failed.slot, job_id="passed")]


def stranded(tale: Tale) -> None:
    tale.history.deliverable = []


def stranded_in_another_lane(tale: Tale) -> None:
    tale.history.deliverable = [lane_consumer(Lane(tale.waiting.partition, 4))]


def two_ends(tale: Tale) -> None:
    tale.append(tale.passed, tale.history.log[tale.at(tale.passed, Finished)].event)


def two_ends_by_a_start_after_the_end(tale: Tale) -> None:
    tale.append(tale.passed, tale.history.log[tale.at(tale.passed, Started)].event)


def two_live_jobs(tale: Tale) -> None:
    other = tale.history.log[tale.at(tale.waiting, Submitted)].event
    assert isinstance(other, Submitted)
    tale.append(
        tale.waiting, replace(other, job_id="second", spec=replace(other.spec, job_id="second"))
    )


def two_live_jobs_as_the_replaced_one_is_not_named(tale: Tale) -> None:
    tale.change(tale.at(tale.replacing, Submitted), replaces="")


def two_live_jobs_of_one_id(tale: Tale) -> None:
    tale.append(tale.passed, tale.history.log[tale.at(tale.passed, Submitted)].event)


def illegal_event(tale: Tale) -> None:
    tale.change(tale.at(tale.flaky, AttemptEnded), retries_left=7)


def illegal_event_of_nobody(tale: Tale) -> None:
    tale.drop(tale.at(tale.passed, Submitted))


def attempt_gap(tale: Tale) -> None:
    tale.change(tale.at(tale.flaky, Started, 2), attempt=3)


def over_budget(tale: Tale) -> None:
    place = tale.at(tale.flaky, Submitted)
    event = tale.history.log[place].event
    assert isinstance(event, Submitted)
    tale.change(place, spec=replace(event.spec, max_retries=0, infra_retries=0))


def overlap(tale: Tale) -> None:
    tale.rerun(
        tale.run(tale.lost), ended=tale.history.executions[tale.run(tale.lost, 2)].began + 0.001
    )


def overlap_of_real_processes(tale: Tale) -> None:
    tale.history.clashes.append("1/pass.spec.js: attempt 2 found attempt 1 alive")


def unclaimed(tale: Tale) -> None:
    tale.rerun(tale.run(tale.passed), agent="agent-2")


def unclaimed_as_it_began_before_its_claim_was_stored(tale: Tale) -> None:
    number = tale.run(tale.passed)
    tale.rerun(number, began=tale.history.executions[number].began - 1.5)


def unclaimed_attempt(tale: Tale) -> None:
    tale.history.executions.append(
        Execution(job_id="passed", attempt=2, agent="agent-1", began=9_000.0, ended=9_001.0)
    )


def executed_twice(tale: Tale) -> None:
    run = tale.history.executions[tale.run(tale.passed)]
    tale.history.executions.append(replace(run, began=run.ended, ended=run.ended + 0.1))


def outlived(tale: Tale) -> None:
    taken = tale.history.log[tale.at(tale.cancelled, CancelRequested) + 1]
    tale.rerun(tale.run(tale.cancelled), ended=taken.at + V + 2)


def outlived_its_replacement(tale: Tale) -> None:
    tale.rerun(
        tale.run(tale.replaced),
        ended=tale.history.log[tale.at(tale.replacing, Submitted)].at + V + 2,
    )


def early_loss(tale: Tale) -> None:
    place = tale.at(tale.lost, AttemptLost)
    tale.history.log[place] = replace(
        tale.history.log[place], at=tale.history.log[place - 1].at + V - 0.1
    )


def start_after_cancel(tale: Tale) -> None:
    place = tale.at(tale.flaky, Started, 2)
    asked = CancelRequested(job_id="flaky", at=NOW, status="queued")  # type: ignore[arg-type]
    tale.history.log.insert(
        place, Logged(seq=tale.history.log[place].seq, at=0.0, slot=tale.flaky.slot, event=asked)
    )
    tale.history.log[place + 1 :] = [
        replace(one, seq=one.seq + 1) for one in tale.history.log[place + 1 :]
    ]


def lost_cancel(tale: Tale) -> None:
    tale.op(CANCEL).asked_id = "passed"


def refused_but_there(tale: Tale) -> None:
    tale.op(SUBMIT, "refused").asked_id = "passed"


def refused_but_run(tale: Tale) -> None:
    tale.rerun(tale.run(tale.passed), job_id="refused")


def untrue_verdict(tale: Tale) -> None:
    tale.rerun(tale.run(tale.failed), verdict="passed")


def untrue_verdict_of_a_run_that_was_cut_short(tale: Tale) -> None:
    tale.rerun(tale.run(tale.passed), verdict="")


def untrue_verdict_without_a_run(tale: Tale) -> None:
    del tale.history.executions[tale.run(tale.passed)]


def untrue_verdict_as_a_failure_is_forgotten(tale: Tale) -> None:
    tale.change(tale.at(tale.flaky, Finished), verdict=Verdict.PASSED)


def stale_read(tale: Tale) -> None:
    tale.op(READ).min_seq = tale.op(READ).seq
    tale.op(READ).seq = tale.history.log[tale.at(tale.flaky, Started, 2)].seq
    tale.op(READ).status = "running"


def stale_read_of_nothing(tale: Tale) -> None:
    tale.op(READ).fate = REFUSED


def stale_read_of_a_status_that_never_was(tale: Tale) -> None:
    tale.op(READ).status = "failed"


def two_jobs_of_one_key(tale: Tale) -> None:
    op = tale.op(SUBMIT, "passed")
    tale.history.ops.append(
        Op(
            client="c",
            kind=SUBMIT,
            began=0.0,
            fate=OK,
            key=op.key,
            wanted=[Wanted(slot=tale.passed.slot, job_id="failed")],
        )
    )


def torn_suite(tale: Tale) -> None:
    place = next(n for n, one in enumerate(tale.history.log) if one.opened is not None)
    opened = tale.history.log[place].opened
    assert opened is not None
    tale.history.log[place] = replace(
        tale.history.log[place], opened=replace(opened, jobs=(*opened.jobs, member("nobody")))
    )


def torn_suite_that_does_not_know_its_job(tale: Tale) -> None:
    place = next(n for n, one in enumerate(tale.history.log) if one.opened is not None)
    tale.history.log[place] = replace(tale.history.log[place], opened=None)


def torn_suite_that_was_refused(tale: Tale) -> None:
    tale.op(SUITE).fate = REFUSED


def read_model(tale: Tale) -> None:
    tale.history.replicas.append(Replica(name="api-1", differs=["jobs"]))


def surprise(tale: Tale) -> None:
    tale.history.surprises.append("an agent has ended by itself")


def surprise_of_a_client(tale: Tale) -> None:
    tale.op(SUBMIT).why = "500 Internal Server Error"


def open_submission(tale: Tale) -> None:
    place = next(n for n, one in enumerate(tale.history.log) if one.opened is not None)
    opened = tale.history.log[place].opened
    assert opened is not None
    tale.history.log[place] = replace(tale.history.log[place], opened=replace(opened, to_come=9))


def unread_records(tale: Tale) -> None:
    tale.history.unread = 1


PLANTED: tuple[Callable[[Tale], None], ...] = (
    hole,
    lost_submission,
    lost_submission_in_another_slot,
    stranded,
    stranded_in_another_lane,
    two_ends,
    two_ends_by_a_start_after_the_end,
    two_live_jobs,
    two_live_jobs_as_the_replaced_one_is_not_named,
    two_live_jobs_of_one_id,
    illegal_event,
    illegal_event_of_nobody,
    attempt_gap,
    over_budget,
    overlap,
    overlap_of_real_processes,
    unclaimed,
    unclaimed_as_it_began_before_its_claim_was_stored,
    unclaimed_attempt,
    executed_twice,
    outlived,
    outlived_its_replacement,
    early_loss,
    start_after_cancel,
    lost_cancel,
    refused_but_there,
    refused_but_run,
    untrue_verdict,
    untrue_verdict_of_a_run_that_was_cut_short,
    untrue_verdict_without_a_run,
    untrue_verdict_as_a_failure_is_forgotten,
    stale_read,
    stale_read_of_nothing,
    stale_read_of_a_status_that_never_was,
    two_jobs_of_one_key,
    torn_suite,
    torn_suite_that_does_not_know_its_job,
    torn_suite_that_was_refused,
    read_model,
    surprise,
    surprise_of_a_client,
    open_submission,
    unread_records,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found(plant: Callable[[Tale], None]) -> None:
    """By the rule that the fault is named after."""
    tale = Tale()
    plant(tale)
    found = {violation.rule for violation in check(tale.history)}
    assert any(plant.__name__.startswith(rule) for rule in found), found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_is_needed(rule: Callable[..., object]) -> None:
    """Some planted fault is found by it, or the rule looks at nothing."""
    for plant in PLANTED:
        tale = Tale()
        plant(tale)
        if list(rule(tell(tale.history))):  # type: ignore[call-overload]
            return
    pytest.fail(f"no planted fault is found by {rule.__name__}")


def test_what_a_power_cut_has_taken_is_not_held_against_the_queue() -> None:
    tale = Tale()
    end = next(place for place, one in enumerate(tale.history.log) if one.opened is not None)
    lost = tale.history.log[end:]
    del tale.history.log[end:]
    assert {violation.rule for violation in check(tale.history)} >= {
        "lost_submission",
        "unclaimed",
        "torn_suite",
    }
    tale.history.cuts = [Cut(began=0.0, ended=1.0, lost=lost)]
    assert check(tale.history) == []


def test_a_job_that_a_power_cut_has_touched_still_has_to_end() -> None:
    tale = Tale()
    tale.history.cuts = [
        Cut(began=0.0, ended=1.0, lost=[one for one in tale.history.log if one.event is not None])
    ]
    stranded(tale)
    assert {violation.rule for violation in check(tale.history)} == {"stranded"}


# -- any history ---------------------------------------------------------------------------------------------------------------


def of(story: Story) -> History:
    """The history of a slot as production would have left it, with the executions that its events
    tell of. Between the events stand other slots' ones.
    """
    history, events = (
        History(visibility_s=0.0, deliverable=[lane_consumer(Lane(spec().partition, 5))]),
        dict(events_of(story)),
    )
    running: Execution | None = None
    for seq in range(1, max(events) + 1):
        event, at = events.get(seq), float(seq)
        history.log.append(Logged(seq=seq, at=at, slot=spec().slot if event else None, event=event))
        if isinstance(event, Started):
            running = Execution(
                job_id=event.job_id, attempt=event.attempt, agent=event.agent, began=at, ended=at
            )
        elif event is not None and running is not None and not isinstance(event, CancelRequested):
            outcome = getattr(event, "outcome", None)
            history.executions.append(
                replace(
                    running,
                    ended=at,
                    verdict=outcome.verdict if isinstance(outcome, Outcome) else "",
                )
            )
            running = None
    if running is not None:
        history.executions.append(running)
    history.ops = [
        Op(
            client="c",
            kind=SUBMIT,
            began=0.0,
            fate=OK,
            wanted=[Wanted(slot=spec().slot, job_id=event.job_id)],
        )
        for event in events.values()
        if isinstance(event, Submitted)
    ]
    return history


def without_suites(story: Story) -> bool:
    return not any(
        isinstance(event, Submitted) and event.suite_ids for _, event in events_of(story)
    )


@given(stories().filter(without_suites))
def test_whatever_production_writes_passes(story: Story) -> None:
    assert check(of(story)) == []


@given(stories().filter(without_suites), st.data())
def test_no_event_can_be_taken_out_unnoticed(story: Story, data: st.DataObject) -> None:
    history = of(story)
    assume(len(history.log) > 1)
    del history.log[data.draw(st.integers(0, len(history.log) - 2))]
    assert "hole" in {violation.rule for violation in check(history)}


@given(stories().filter(without_suites), st.data())
def test_no_two_executions_can_be_pushed_into_each_other_unnoticed(
    story: Story, data: st.DataObject
) -> None:
    history = of(story)
    runs = [(a, b) for a, b in pairwise(history.executions) if a.job_id == b.job_id]
    for before, after in data.draw(
        st.lists(st.sampled_from(runs), min_size=1, max_size=1) if runs else st.just([])
    ):
        history.executions[history.executions.index(before)] = replace(
            before, ended=after.began + 0.25
        )
        assert "overlap" in {violation.rule for violation in check(history)}


def test_a_history_is_the_same_after_it_was_on_disk(tmp_path: Path) -> None:
    tale = Tale()
    save(tale.history, tmp_path / "history.json")
    assert load(tmp_path / "history.json") == tale.history
