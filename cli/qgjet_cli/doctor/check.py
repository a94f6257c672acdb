"""What `qgjet doctor` found out about one thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from msgspec import Struct

from qgjet_cli.exits import Exit


class Health(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    about: str
    health: Health
    found: str
    fix: str = ""
    server: bool = False
    """It is about a server that has to be there."""


def ok(about: str, found: str) -> Check:
    return Check(about=about, health=Health.OK, found=found)


def warn(about: str, found: str, fix: str) -> Check:
    return Check(about=about, health=Health.WARN, found=found, fix=fix)


def fail(about: str, found: str, fix: str, *, server: bool = False) -> Check:
    return Check(about=about, health=Health.FAIL, found=found, fix=fix, server=server)


def worst(checks: Iterable[Check]) -> Health:
    found = {check.health for check in checks}
    return next((health for health in (Health.FAIL, Health.WARN) if health in found), Health.OK)


def exit_code(checks: Sequence[Check]) -> Exit:
    failed = [check for check in checks if check.health is Health.FAIL]
    if any(check.server for check in failed):
        return Exit.UNREACHABLE
    return Exit.INCONCLUSIVE if failed else Exit.PASSED


def dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))
