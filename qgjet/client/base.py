"""Two ways to reach a queue, one set of verbs: straight to NATS, or through the HTTP API.

Straight to NATS a client can submit, wait for what it submitted and cancel it. To find jobs by
their id, or by anything else, needs the API's read model.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from qgjet.client.tracker import TrackedJob
from qgjet.config import files
from qgjet.config.settings import Settings
from qgjet.domain.events import Event, Status
from qgjet.domain.submission import SubmitRequest
from qgjet.errors import InvalidSettings, QgjetError

if TYPE_CHECKING:
    from qgjet.client.http import ApiClient
    from qgjet.client.tracker import JobTracker

PATIENCE_S = 10.0
"""How long a short command tries to get an answer."""
LONG_PATIENCE_S = 120.0
"""How long a wait without --timeout outlasts a server that is gone: longer than any restart."""

ALL = "all"
"""App version of an agent that serves every one."""
Events = Sequence[tuple[int, Event]]
Notice = Callable[[str], None]


class Batch(Struct, frozen=True, kw_only=True):
    """What one command submits."""

    requests: tuple[SubmitRequest, ...]
    suite_id: str
    """Empty: a job on its own."""
    key: str = ""
    """The user's idempotency key."""
    partial: bool = False
    """Accept what can be accepted; otherwise a suite is all or nothing."""


class SubmitResult(Struct, frozen=True, kw_only=True):
    """What became of one request."""

    request: SubmitRequest
    job_id: str = ""
    """Empty when it was not accepted."""
    status: Status | None = None
    priority: int | None = None
    """None: the server's default, which the API does not tell."""
    attached: bool = False
    replaced: str | None = None
    seq: int = 0
    error: QgjetError | None = None
    """Why it was not accepted."""


class Client(Protocol):
    where: str
    """The server, for messages; never with a password."""

    async def submit(self, batch: Batch) -> list[SubmitResult]:
        """One answer per request, in order. Safe against lost answers: nothing is submitted twice.
        Raises CannotReach or NatsUnavailable.
        """

    def follow(self, tracker: JobTracker) -> AsyncIterator[Events]:
        """Events from `tracker.next_seq` on that may concern the tracker's jobs, as they come;
        survives restarts of the server.
        """

    def check(self) -> None:
        """Raises CannotReach when the server has been silent for too long. To be called now and
        then while following.
        """

    async def cancel(self, tracks: Sequence[TrackedJob], reason: str, suite_id: str) -> set[str]:
        """Ask for the end of jobs, as far as no other suite waits for them; those that have ended
        already are left alone.

        Returns:
            IDs of the jobs that go on because others wait for them.
        """

    def artifact(self, job_id: str, attempt: int, name: str) -> AsyncGenerator[bytes, None]:
        """The content of a file that an attempt left, in pieces. Raises ArtifactGone or NotAccepted
        when there is none.
        """

    async def served(self) -> set[tuple[str, str]] | None:
        """(target, app version or ALL) that some agent serves now; None when nobody can tell."""


@contextlib.asynccontextmanager
async def open_client(
    settings: Settings, *, patience_s: float = PATIENCE_S, notice: Notice
) -> AsyncIterator[Client]:
    """Straight to NATS when there is a NATS address, else through the API. Raises CannotReach,
    NatsUnavailable or IncompatibleServer.
    """
    if settings.nats_url:
        from qgjet.client.nats import nats_client

        async with nats_client(settings, patience_s=patience_s, notice=notice) as straight:
            yield straight
    else:
        async with open_api(settings, patience_s=patience_s, notice=notice) as api:
            yield api


@contextlib.asynccontextmanager
async def open_api(
    settings: Settings, *, what: str = "", patience_s: float = PATIENCE_S, notice: Notice
) -> AsyncIterator[ApiClient]:
    """The API; `what` says what it is needed for. Raises InvalidSettings when there is only a NATS
    address.
    """
    if settings.nats_url and not settings.api_url:
        raise InvalidSettings(
            "api", f"{what} needs the API, NATS alone cannot do it: set QGJET_API_URL or pass --api"
        )
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # its own command line brings click and rich: half of the start-up time
    from qgjet.client.http import api_client

    url, token = settings.api_url or default_api(settings), files.api_token(settings)
    async with api_client(url, token=token, patience_s=patience_s, notice=notice) as client:
        yield client


def patience(timeout_s: float | None, given_s: float | None) -> float:
    """How long a wait outlasts a server that is gone: as asked, else as long as the wait may take,
    else two minutes.
    """
    return next(seconds for seconds in (given_s, timeout_s, LONG_PATIENCE_S) if seconds is not None)


def default_api(settings: Settings) -> str:
    """Where `qgjet serve` and `qgjet up` of these settings listen on this machine."""
    host = settings.api.host if settings.api.host not in ("0.0.0.0", "::", "") else "127.0.0.1"
    return (
        f"http://[{host}]:{settings.api.port}"
        if ":" in host
        else f"http://{host}:{settings.api.port}"
    )
