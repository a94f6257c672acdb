"""Who asks, as far as the use cases have to know."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Caller(Protocol):
    @property
    def orgs(self) -> frozenset[str] | None:
        """The orgs it is bound to; None for every one."""

    @property
    def by(self) -> str:
        """For the log: who asked for it."""

    def check_orgs(self, wanted: Collection[str]) -> None:
        """Raises OrgForbidden when it is not for all of the orgs that it names itself."""
