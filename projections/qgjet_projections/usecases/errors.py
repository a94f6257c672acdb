"""What the use cases refuse, besides the errors of `qgjet.errors`. `api/problems.py` has the HTTP
status of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from qgjet.errors import NatsUnavailable, QgjetError


class FieldError(Struct, frozen=True, omit_defaults=True):
    """What is wrong in one place of a request."""

    detail: str
    pointer: str = ""
    """JSON pointer into the body, as a URI fragment: `#/jobs/3/test`."""
    parameter: str = ""
    """Name of the query, path or header parameter, when it is not the body."""


class InvalidBody(QgjetError):
    """The body cannot be read as what the route expects."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{one.pointer or 'body'}: {one.detail}" for one in errors[:3]))
        self.errors = tuple(errors)


class Unauthenticated(QgjetError):
    """The request has no token, or one that is not accepted."""


class InsufficientScope(QgjetError):
    """The token does not have the scope that the route needs."""

    def __init__(self, message: str, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class OrgForbidden(QgjetError):
    """The token is bound to other orgs than the one that the request names."""


class CrossOriginRequest(QgjetError):
    """Nobody is asked for a token here, and the request may come from a page in somebody's browser."""


class TooManyRequests(QgjetError):
    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SuiteNotFound(QgjetError):
    """No suite of that id."""


class AgentNotFound(QgjetError):
    """No agent of that name is alive."""


class ArtifactNotFound(QgjetError):
    """The attempt left no file of that name."""


class IdempotencyMismatch(QgjetError):
    """The key was used for another request before."""


class ReadModelBehind(NatsUnavailable):
    """The read model has not got as far as the reader asks."""


class SuiteRejected(QgjetError):
    """Not one job of a suite was accepted."""

    def __init__(
        self, message: str, jobs: Sequence[Any], *, first: QgjetError, refused: bool
    ) -> None:
        super().__init__(message)
        self.jobs = tuple(jobs)
        self.first = first
        self.refused = refused


def pointer_of(field: str) -> str:
    """JSON pointer of a dotted field, as a URI fragment. Raw keys with dots are given as tuples to
    `pointer`.
    """
    return pointer(field.split("."))


def pointer(path: Sequence[str]) -> str:
    return "#" + "".join(
        "/"
        + quote(key.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@", errors="replace")
        for key in path
    )
