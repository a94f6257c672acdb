"""Clients that submit, cancel, resubmit and read, over HTTP and straight to NATS, and write down
what they asked and what they were told.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx

from chaos.fleet import GUARDED, SCRIPTED
from chaos.history import CANCEL, OK, READ, REFUSED, SUBMIT, SUITE, UNKNOWN, Op, Wanted
from patience import patience
from qgjet.domain.decide import OnDuplicate
from qgjet.domain.events import JobSpec, Slot
from qgjet.errors import Conflict, NatsUnavailable
from qgjet.store.event_log import Accepted, EventLog
from qgjet.store.suite_log import Submission, submit_suite
from qgjet.support.clock import utc_now

ORGS = ("acme", "globex")
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
JOBS_PER_BUILD = 100
"""A tenth of the jobs is of builds that come and go, so many submissions after each other."""
RANKS = (0, 5, 9)
WORDS = (
    ("pass",) * 80 + ("flaky",) * 6 + ("fail",) * 4 + ("slow",) * 6 + ("hang",) * 2 + ("crash",) * 2
)
GUARDED_WORDS = ("pass",) * 7 + ("fail", "hang-then-pass", "hang-then-pass")
CLOCK_ERRORS_S = (0.0, 0.0, 0.0, -180.0, 180.0, -8_640_000.0)
"""By how much clients' clocks are wrong."""
RECENT = 60
"""Jobs that a client can come back to."""
HTTP_TIMEOUT_S = 20.0


class Clients:
    """Any number of clients over some connections to NATS and some API replicas. All randomness is
    from `rng`.
    """

    def __init__(
        self,
        logs: list[EventLog],
        urls: list[str],
        rng: random.Random,
        visibility_s: float,
        *,
        guarded_share: float = 0.03,
    ) -> None:
        self.ops: list[Op] = []
        self.created: set[str] = set()
        """Ids of the jobs that were accepted as new ones."""
        self._logs, self._urls, self._random, self._visibility_s, self._guarded_share = (
            logs,
            urls,
            rng,
            visibility_s,
            guarded_share,
        )
        self._http = httpx.AsyncClient(
            timeout=patience(HTTP_TIMEOUT_S), limits=httpx.Limits(max_connections=200)
        )
        self._recent: deque[tuple[str, Slot, int]] = deque(maxlen=RECENT)
        """(job id, slot, a sequence at which it was known)"""
        self._number = 0

    async def close(self) -> None:
        await self._http.aclose()

    async def act(self, client: str) -> None:
        """One thing that somebody wants, and perhaps a look at what came of it."""
        pick = self._random.random()
        if pick < 0.12 and self._recent:
            await self._duplicate(client)
        elif pick < 0.17:
            await self._suite(client)
        elif pick < 0.25:
            await self._change_of_mind(client)
        elif pick < 0.35 and self._recent:
            await self._read(client, *self._random.choice(self._recent))
        else:
            await self._fresh(client)

    # -- what is asked for -------------------------------------------------------------------------------------------

    def _spec(self, slot: Slot | None = None, **fields: Any) -> JobSpec:
        slot = slot or self._slot()
        given = {
            "job_id": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "org_id": slot.org_id,
            "app_version_id": slot.app_version_id,
            "target": slot.target,
            "test": slot.test,
            "rank": self._random.choice(RANKS) if slot.target == SCRIPTED else 5,
            "max_retries": 1,
            "infra_retries": 10,
            "execution_timeout_s": max(2 * self._visibility_s, 4.0)
            if "/hang" not in slot.test
            else max(self._visibility_s * 0.8, 2.0),
            "submitted_at": utc_now() + timedelta(seconds=self._random.choice(CLOCK_ERRORS_S)),
        } | fields
        return JobSpec(**given | {"priority": given["rank"]})

    def _slot(self) -> Slot:
        self._number += 1
        if self._random.random() < self._guarded_share:
            return Slot(
                "acme",
                "1.0.0",
                GUARDED,
                f"{self._number}/{self._random.choice(GUARDED_WORDS)}.spec.js",
            )
        version = (
            self._random.choice(VERSIONS)
            if self._random.random() < 0.9
            else f"build-{self._number // JOBS_PER_BUILD}"
        )
        return Slot(
            self._random.choice(ORGS),
            version,
            SCRIPTED,
            f"tests/{self._number}/{self._random.choice(WORDS)}.spec.js",
        )

    async def _fresh(self, client: str) -> None:
        """A new test; one time in four twice, because the client has not heard the answer, or so it
        says.
        """
        spec, again = self._spec(), self._random.random() < 0.25
        over_http = self._random.random() < 0.5 and spec.target == SCRIPTED
        key = f"key-{spec.job_id}" if again and over_http else ""
        for _ in range(1 + again):
            op = await (
                self._post(client, spec, key=key) if over_http else self._append(client, spec)
            )
            if op.fate == OK and self._random.random() < 0.3:
                await self._read(client, op.wanted[0].job_id, spec.slot, op.seq)

    async def _duplicate(self, client: str) -> None:
        """A test that somebody has submitted a moment ago."""
        _, slot, _ = self._random.choice(list(self._recent)[-8:])
        if slot.target != SCRIPTED:  # the record of a real process knows its test only
            return
        spec, mode = self._spec(slot), self._random.choice(list(OnDuplicate))
        op = await (
            self._post(client, spec, mode)
            if self._random.random() < 0.5
            else self._append(client, spec, mode)
        )
        if op.fate == OK:
            await self._read(client, op.wanted[0].job_id, slot, op.seq)

    async def _change_of_mind(self, client: str) -> None:
        """A test that is submitted and cancelled: queued, running or over by then."""
        spec = self._spec()
        op = await self._append(client, spec)
        if op.fate == OK:
            await asyncio.sleep(self._random.choice((0.0, 0.05, 0.3)))
            await self._cancel(client, spec.job_id, spec.slot, op.seq)
            await self._read(client, spec.job_id, spec.slot, op.seq)

    async def _suite(self, client: str) -> None:
        suite_id = f"suite-{self._random.getrandbits(64):x}"
        slots = [self._slot() for _ in range(self._random.randint(2, 10))]
        slots += [slot for _, slot, _ in list(self._recent)[-3:]]
        slots = list(
            {
                slot: None
                for slot in slots
                if slot.target == SCRIPTED and slot.org_id == slots[0].org_id
            }
        )
        mode = self._random.choice([OnDuplicate.ATTACH, OnDuplicate.ATTACH, OnDuplicate.REJECT])
        if not slots:
            return
        if self._random.random() < 0.5:
            await self._append_suite(
                client, suite_id, [self._spec(slot, suite_ids=(suite_id,)) for slot in slots], mode
            )
        else:
            await self._post_suite(client, suite_id, [self._spec(slot) for slot in slots], mode)

    # -- straight to NATS --------------------------------------------------------------------------------------------

    async def _append(
        self, client: str, spec: JobSpec, mode: OnDuplicate = OnDuplicate.ATTACH
    ) -> Op:
        op = self._op(client, SUBMIT, asked_id=spec.job_id, wanted=[Wanted(slot=spec.slot)])
        try:
            answer = await self._log.submit(spec, mode)
        except (Conflict, NatsUnavailable) as error:
            return _failed(op, error)
        op.wanted = [Wanted(slot=spec.slot, job_id=answer.job_id, attached=answer.attached)]
        return self._accepted(op, answer.seq)

    async def _append_suite(
        self, client: str, suite_id: str, specs: list[JobSpec], mode: OnDuplicate
    ) -> Op:
        op = self._op(
            client, SUITE, suite_id=suite_id, wanted=[Wanted(slot=spec.slot) for spec in specs]
        )
        try:
            answers = await submit_suite(
                self._log,
                Submission(suite_id=suite_id, id=suite_id, specs=specs, modes=[mode] * len(specs)),
            )
        except (Conflict, NatsUnavailable) as error:
            return _failed(op, error)
        op.wanted = [_told(spec.slot, answer) for spec, answer in zip(specs, answers, strict=True)]
        return self._accepted(op, max(answer.seq for answer in answers))

    async def _cancel(self, client: str, job_id: str, slot: Slot, seq: int) -> None:
        if self._random.random() < 0.5:
            await self._post_cancel(client, job_id, seq)
            return
        op = self._op(client, CANCEL, asked_id=job_id)
        try:
            job = await self._log.cancel(slot, job_id, by=client)
        except NatsUnavailable as error:
            _failed(op, error)
            return
        _answered(op, OK if job is not None else REFUSED)

    @property
    def _log(self) -> EventLog:
        return self._random.choice(self._logs)

    # -- over HTTP ---------------------------------------------------------------------------------------------------

    async def _post(
        self, client: str, spec: JobSpec, mode: OnDuplicate = OnDuplicate.ATTACH, *, key: str = ""
    ) -> Op:
        op = self._op(client, SUBMIT, key=key, wanted=[Wanted(slot=spec.slot)])
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self._ask(
            op, "POST", "/submit", json={**_body(spec), "on_duplicate": mode}, headers=headers
        )
        if answer is None:
            return op
        op.wanted = [Wanted(slot=spec.slot, job_id=answer["job_id"], attached=answer["attached"])]
        return self._accepted(op, answer["seq"])

    async def _post_suite(
        self, client: str, suite_id: str, specs: list[JobSpec], mode: OnDuplicate
    ) -> None:
        op = self._op(
            client, SUITE, suite_id=suite_id, wanted=[Wanted(slot=spec.slot) for spec in specs]
        )
        answer = await self._ask(
            op,
            "POST",
            "/suites",
            json={
                "suite_id": suite_id,
                "on_duplicate": mode,
                "jobs": [_body(spec) for spec in specs],
            },
        )
        if answer is not None:
            jobs = zip(specs, answer["jobs"], strict=True)
            op.wanted = [
                Wanted(slot=spec.slot, job_id=job["job_id"], attached=job["attached"])
                for spec, job in jobs
            ]
            self._accepted(op, answer["seq"])

    async def _post_cancel(self, client: str, job_id: str, seq: int) -> None:
        op = self._op(client, CANCEL, asked_id=job_id, min_seq=seq)
        answer = await self._ask(op, "POST", f"/jobs/{job_id}/cancel", params={"min_seq": seq})
        if answer is not None:
            op.status = answer["status"]
            _answered(op, OK)
        elif op.why.startswith("404"):
            op.kind = READ  # it was told of a job that it knew: that is a stale read

    async def _read(self, client: str, job_id: str, slot: Slot, seq: int) -> None:
        op = self._op(client, READ, asked_id=job_id, min_seq=seq)
        answer = await self._ask(op, "GET", f"/status/{job_id}", params={"min_seq": seq})
        if answer is not None:
            op.status, op.seq = answer["status"], answer["seq"]
            _answered(op, OK)

    async def _ask(self, op: Op, method: str, path: str, **request: Any) -> Any:
        """The body of the answer; None when there was none, or a refusal, which is noted then."""
        try:
            answer = await self._http.request(
                method, self._random.choice(self._urls) + path, **request
            )
        except httpx.HTTPError as error:
            return _answered(op, UNKNOWN, type(error).__name__)
        if answer.is_success:
            return answer.json()
        fate = REFUSED if answer.status_code in (404, 409) else UNKNOWN
        return _answered(op, fate, f"{answer.status_code} {answer.text[:300]}")

    # -- records -----------------------------------------------------------------------------------------------------

    def _op(self, client: str, kind: str, **fields: Any) -> Op:
        op = Op(client=client, kind=kind, began=time.monotonic(), **fields)
        self.ops.append(op)
        return op

    def _accepted(self, op: Op, seq: int) -> Op:
        op.seq = seq
        _answered(op, OK)
        for wanted in op.wanted:
            self._recent.append((wanted.job_id, wanted.slot, seq))
            if not wanted.attached:
                self.created.add(wanted.job_id)
        return op


def _answered(op: Op, fate: str, why: str = "") -> None:
    op.ended, op.fate, op.why = time.monotonic(), fate, why


def _failed(op: Op, error: Exception) -> Op:
    _answered(
        op,
        REFUSED if isinstance(error, Conflict) else UNKNOWN,
        f"{type(error).__name__}: {error}"[:300],
    )
    return op


def _told(slot: Slot, answer: Accepted) -> Wanted:
    return Wanted(slot=slot, job_id=answer.job_id, attached=answer.attached)


def _body(spec: JobSpec) -> dict[str, Any]:
    return {
        "org_id": spec.org_id,
        "app_version_id": spec.app_version_id,
        "target": spec.target,
        "test": spec.test,
        "priority": spec.priority,
        "max_retries": spec.max_retries,
        "infra_retries": spec.infra_retries,
        "execution_timeout": spec.execution_timeout_s,
    }


async def at_a_pace(
    clients: Clients, names: list[str], pause_s: Callable[[], float], enough: asyncio.Event
) -> None:
    """Clients that act one after the other, each when it is its turn; slow answers hold up nobody
    else.
    """
    async with asyncio.TaskGroup() as group:
        number = 0
        while not enough.is_set():
            group.create_task(clients.act(names[number % len(names)]))
            number += 1
            await asyncio.sleep(pause_s())
