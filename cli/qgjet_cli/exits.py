"""What the process ends with. The one table of exit codes; `--help` shows it too.

| code | means |
|---|---|
| 0 | every test passed (flaky counts as passed unless --fail-on-flaky; skipped does too) |
| 1 | a test failed or timed out |
| 2 | usage: what was asked cannot be done as it was asked; or a file or stdout cannot be written |
| 3 | no verdict: infrastructure or configuration, so nothing is said about the app |
| 4 | the server cannot be reached, or cannot be used |
| 5 | no tests matched |
| 6 | a job was cancelled |
| 124 | --timeout was reached |
| 129, 130, 143 | ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM |

Of a mixed run the first of 1, 3, 6 that applies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import IntEnum

from qgjet.domain.events import INCONCLUSIVE, Verdict
from qgjet.errors import (
    CannotReach,
    Conflict,
    IncompatibleServer,
    InvalidInput,
    JobNotFound,
    NatsUnavailable,
    NeedsToken,
    NotAccepted,
    NotInstalled,
    QgjetError,
)


class Exit(IntEnum):
    PASSED = 0
    FAILED = 1
    USAGE = 2
    INCONCLUSIVE = 3
    UNREACHABLE = 4
    NO_TESTS = 5
    CANCELLED = 6
    TIMEOUT = 124
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


HELP = """\b
Exit codes of `run` and `wait`:
  0    every test passed (flaky too, unless --fail-on-flaky)
  1    a test failed or timed out
  2    usage: bad flag or value, unknown job, duplicate refused
  3    no verdict: infrastructure or configuration
  4    the server cannot be reached or used
  5    no tests matched
  6    a job was cancelled
  124  --timeout was reached
  130  interrupted (143: terminated)
Mixed results: 1 before 3 before 6."""


class NoTests(QgjetError):
    """Nothing matched what `--test` asked for."""


class CannotWrite(QgjetError):
    """stdout does not take the output, for example because the disk is full."""


_ERRORS: tuple[tuple[type[QgjetError], Exit], ...] = (
    (InvalidInput, Exit.USAGE),
    (Conflict, Exit.USAGE),
    (JobNotFound, Exit.USAGE),
    (NeedsToken, Exit.UNREACHABLE),
    (NotAccepted, Exit.USAGE),
    (CannotWrite, Exit.USAGE),
    (NotInstalled, Exit.USAGE),
    (NoTests, Exit.NO_TESTS),
    (CannotReach, Exit.UNREACHABLE),
    (NatsUnavailable, Exit.UNREACHABLE),
    (IncompatibleServer, Exit.UNREACHABLE),
)


def of_error(error: BaseException) -> Exit:
    """An error that ended the command. What nobody expected says nothing about the app either."""
    return next((code for kind, code in _ERRORS if isinstance(error, kind)), Exit.INCONCLUSIVE)


def of_errors(errors: Iterable[BaseException | None]) -> Exit:
    """Of several answers to one command, some of which may be errors: the highest code."""
    return max((of_error(error) for error in errors if error is not None), default=Exit.PASSED)


def of_verdicts(verdicts: Collection[Verdict | None], *, fail_on_flaky: bool = False) -> Exit:
    """`verdicts` has one entry per job; None is a job without one. Never PASSED for nothing at all."""
    bad = {Verdict.FAILED, Verdict.TIMED_OUT} | ({Verdict.FLAKY} if fail_on_flaky else set())
    if any(verdict in bad for verdict in verdicts):
        return Exit.FAILED
    if not verdicts or any(verdict is None or verdict in INCONCLUSIVE for verdict in verdicts):
        return Exit.INCONCLUSIVE
    return Exit.CANCELLED if Verdict.CANCELLED in verdicts else Exit.PASSED
