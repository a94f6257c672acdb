"""What people decide about the queue: pauses, drained agents, dead letters that are dealt with.
Pure.

`qg.control.<kind>.<name>.<event>`, beside the jobs in the event log, so that who did what and when
is told in one place. Nothing here is fenced: of two decisions about one thing the later one stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import Struct

from qgjet.domain import subjects
from qgjet.domain.events import Instant, Partition, event_type
from qgjet.errors import InvalidInput, UndecodableEvent


class Kind(StrEnum):
    """What a decision is about."""

    TARGET = "target"
    ORG = "org"
    AGENT = "agent"
    JOB = "job"


class ControlEvent(
    Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag_field="type"
):
    kind: Kind
    name: str
    """The target, the org, the agent's instance or the job's id."""
    at: Instant
    by: str = ""
    reason: str = ""


class Paused(ControlEvent, frozen=True, kw_only=True, omit_defaults=True, tag="paused"):
    """Agents start nothing of the target, or of the org; what runs goes on."""

    until: Instant | None = None
    """When it ends by itself; None: not before somebody resumes it."""


class Resumed(ControlEvent, frozen=True, kw_only=True, omit_defaults=True, tag="resumed"):
    pass


class DrainRequested(
    ControlEvent, frozen=True, kw_only=True, omit_defaults=True, tag="drain_requested"
):
    """The agent finishes what it runs, takes nothing new and ends."""


class Discarded(ControlEvent, frozen=True, kw_only=True, omit_defaults=True, tag="discarded"):
    """Nobody has to look at the dead letter any more."""

    org_id: str


Control = Paused | Resumed | DrainRequested | Discarded
ALL_CONTROLS = "qg.control.>"
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)


def encode(event: Control) -> bytes:
    return _encoder.encode(event)


def decode(data: bytes) -> Control:
    """Raises UndecodableEvent for what this version cannot read."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableEvent(f"control event cannot be read: {error}") from error


def subject_of(event: Control) -> str:
    """Raises InvalidInput for a target or an org that no job can have."""
    in_clear = event.kind in (Kind.TARGET, Kind.ORG)
    token = (
        subjects.encode_part(event.name, event.kind)
        if in_clear
        else subjects.encode_token(event.name)
    )
    return f"{subjects.CONTROL_PREFIX}.{event.kind}.{token}.{event_type(event)}"


def is_about(event: Control, subject: str) -> bool:
    """Whether the event stands where one of ours would."""
    try:
        return subject_of(event) == subject
    except InvalidInput:
        return False


class Pauses:
    """The pauses in force, as the control events read so far say."""

    def __init__(self, events: Iterable[Paused] = ()) -> None:
        self._paused = {(event.kind, event.name): event for event in events}

    def __bool__(self) -> bool:
        return bool(self._paused)

    def apply(self, event: Control) -> None:
        match event:
            case Paused():
                self._paused[event.kind, event.name] = event
            case Resumed():
                self._paused.pop((event.kind, event.name), None)

    def of(self, partition: Partition, now: datetime) -> Paused | None:
        """The pause that keeps the partition's jobs waiting; None when nothing does."""
        found = (
            self._paused.get((Kind.TARGET, partition.target)),
            self._paused.get((Kind.ORG, partition.org_id)),
        )
        return next((pause for pause in found if pause is not None and _in_force(pause, now)), None)

    def in_force(self, now: datetime) -> list[Paused]:
        return sorted(
            (pause for pause in self._paused.values() if _in_force(pause, now)),
            key=lambda pause: (pause.kind, pause.name),
        )

    def next_end(self, now: datetime) -> datetime | None:
        """When the first of them ends by itself."""
        return min(
            (pause.until for pause in self.in_force(now) if pause.until is not None), default=None
        )


def _in_force(pause: Paused, now: datetime) -> bool:
    return pause.until is None or pause.until > now
