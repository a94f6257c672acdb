"""Everything qgjet raises on purpose, in one tree.

    QgjetError
    ├── InvalidInput             what was given cannot be accepted; says which field and why
    │   └── InvalidSettings      qgjet.toml, a QGJET_ variable or a flag
    ├── Conflict                 the job's state does not allow the command
    │   ├── DuplicateJob         a live job already holds the slot
    │   └── StaleDelivery        the delivery does not stand for the job any more
    ├── VersionConflict          somebody else appended first: reload and decide again
    ├── JobNotFound              no job of that id
    ├── UndecodableEvent         bytes in the log that this version cannot read
    ├── NatsUnavailable          no answer from the NATS server in time
    │   ├── PermissionDenied     the NATS server refuses this user, or what it asks for; or it is not to be trusted
    │   ├── StoreFull            the server has no room for another event
    │   └── Overloaded           the server takes no more messages at the moment
    ├── IncompatibleServer       the NATS server, or what is set up on it, does not fit this version
    ├── ArtifactGone             an attempt's file that is not stored any more, or not whole
    ├── CannotReach              no server answers, or what answers is none that this version can use
    ├── NotAccepted              the API understood and refused
    │   └── NotAllowed           it wants a token, or one that allows more
    │       └── NeedsToken       it wants one, or does not accept the one it got
    ├── PrepareFailed            a target could not be made ready; no attempt is spent
    ├── StartError               a command that cannot be started, now or later (qgjet.process.supervised_process)
    ├── ReportUnusable           a report that a job left and nobody should read (qgjet.runners.commandline)
    ├── NotInstalled             an extra of the package that is needed for this
    └── SchemaMismatch           the read model was written by another version

Messages say what happened, to which id, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class QgjetError(Exception):
    """Root of all errors of qgjet."""


class InvalidInput(QgjetError):
    """A value cannot be accepted. `field` names it the way the caller wrote it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidSettings(InvalidInput):
    """A setting cannot be used; `field` is its key, variable or flag, `key` the dotted key where it
    stands in a file.
    """

    def __init__(self, field: str, reason: str, *, key: str = "") -> None:
        super().__init__(field, reason)
        self.key = key or field


class Conflict(QgjetError):
    """The job's state does not allow the command. Nothing was written."""


class DuplicateJob(Conflict):
    """The slot is held by a live job and the submission asked to be rejected then."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} is already live for this org, app version, target and test")
        self.job_id = job_id


class StaleDelivery(Conflict):
    """The delivered message no longer stands for its job: acknowledge and forget it."""


class VersionConflict(QgjetError):
    """The slot has changed since it was read. Nothing was written."""


class JobNotFound(QgjetError):
    """No job of that id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id}")
        self.job_id = job_id


class UndecodableEvent(QgjetError):
    """An event of a newer version, or no event at all. The fold steps over it."""


class NatsUnavailable(QgjetError):
    """The NATS server gave no answer in time. Whether a write was stored is not known."""


class PermissionDenied(NatsUnavailable):
    """The NATS server does not let this user in, or not do that; or it cannot show that it is the
    right server. Nothing was written; asking again is no use.
    """


class StoreFull(NatsUnavailable):
    """The server has no room: nothing was written. It will not pass by itself."""


class Overloaded(NatsUnavailable):
    """The server has too many messages to store already: nothing was written. It passes."""


class NoConsumerLeft(NatsUnavailable):
    """The stream has as many consumers as its `max_consumers` allows. The janitor removes idle ones
    and creates the missing ones then.
    """


class IncompatibleServer(QgjetError):
    """The NATS server, or a stream on it, does not fit this version of qgjet."""


class ArtifactGone(QgjetError):
    """An object that is not in the store any more, or not whole."""


class PrepareFailed(QgjetError):
    """A target could not be made ready for its partition."""


class HostFailed(PrepareFailed):
    """The agent's host cannot run anything: its disk is full, its work directory is gone, it has no
    processes or files left. No job is to blame.
    """


class NotInstalled(QgjetError):
    """A part of qgjet that is an extra of the package, and not here."""


class SchemaMismatch(QgjetError):
    """The read model's file belongs to another version; it is rebuilt from the log."""


class CannotReach(QgjetError):
    """The server does not answer, or what answers is no server of qgjet that this version can use."""


class NotAccepted(QgjetError):
    """The server understood and refused; the message is the server's. `problem` is its document of
    RFC 9457.
    """

    def __init__(self, message: str, *, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem


class NotAllowed(NotAccepted):
    """The server wants a token (401), or a token that allows more (403)."""


class NeedsToken(NotAllowed):
    """It wants one, or does not accept the one it got: nothing can be done there at all."""
