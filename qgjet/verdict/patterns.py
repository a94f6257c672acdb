"""The catalogue of error messages that say nothing about the app: `error_patterns.toml`, and what a
user adds to it. Pure.

A pattern is matched at the beginning of an error's heads and nowhere else, so words inside a
sentence, a screen text or a source excerpt never count. The file names the source of each pattern.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from msgspec import Struct

from qgjet.domain.events import Verdict
from qgjet.errors import InvalidSettings
from qgjet.verdict.reasons import Reason

_FILE = "error_patterns.toml"
_MAX_SWALLOWED_CHARS = 2000


class Sign(Struct, frozen=True):
    """What an error means when it is not about the app."""

    verdict: Verdict
    reason: Reason


class Swallowed(Struct, frozen=True):
    """A WebDriver error that AppWright printed instead of throwing it."""

    path: str
    """Selector of the element that was looked for; empty where the line does not name it."""
    error: str


class Patterns:
    """The compiled catalogue. Build it once: `default_patterns()`, or `patterns_with(...)` for a
    user's own additions.
    """

    def __init__(
        self, data: dict[str, Any], *, infra: Sequence[str] = (), config: Sequence[str] = ()
    ) -> None:
        own = [(head, Sign(Verdict.INFRA_ERROR, Reason.KNOWN_INFRA)) for head in infra]
        own += [(head, Sign(Verdict.CONFIG_ERROR, Reason.BAD_CONFIG)) for head in config]
        known = [
            (one["head"], Sign(Verdict(one["verdict"]), Reason(one["reason"])))
            for one in data["pattern"]
        ]
        self._signs: list[Sign] = [sign for _, sign in own + known]
        self._sign = _any_of(head for head, _ in own + known)
        self._tool = _any_of(one["head"] for one in data["tool"])
        self._final = _any_of(one["head"] for one in data["final"])
        self._benign = _any_of(one["error"] for one in data["benign"])
        self._swallowed = [re.compile(one["line"], re.MULTILINE) for one in data["swallowed"]]

    def sign(self, heads: Iterable[str]) -> Sign | None:
        """Return what the first head that the catalogue knows stands for, or None."""
        for head in heads:
            if (found := self._sign.match(head)) and found.lastgroup:
                return self._signs[int(found.lastgroup[1:])]
        return None

    def is_tool(self, heads: Iterable[str]) -> bool:
        """Whether the test tool itself raised the error."""
        return any(self._tool.match(head) for head in heads)

    def is_final(self, heads: Iterable[str]) -> bool:
        """Whether the runner calls the error not retriable."""
        return any(self._final.match(head) for head in heads)

    def is_benign(self, error: str) -> bool:
        """Whether a swallowed error is an answer about the screen, such as `no such element`."""
        return bool(self._benign.match(error))

    def swallowed(self, line: str) -> Swallowed | None:
        """Return the error that AppWright printed on `line` instead of throwing it, or None."""
        for pattern in self._swallowed:
            if found := pattern.match(line[:_MAX_SWALLOWED_CHARS]):
                groups = found.groupdict()
                return Swallowed(groups.get("path") or "", groups.get("error") or "")
        return None


def _any_of(heads: Iterable[str]) -> re.Pattern[str]:
    """One pattern for all: the first that matches gives its name, `p<index>`. Nothing matches where
    there is none.
    """
    return re.compile(
        "|".join(f"(?P<p{index}>{head})" for index, head in enumerate(heads)) or r"(?!)",
        re.MULTILINE,
    )


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Any]:
    """The parsed `error_patterns.toml`."""
    return tomllib.loads(resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def default_patterns() -> Patterns:
    return Patterns(catalogue())


@lru_cache(maxsize=32)
def patterns_with(infra: tuple[str, ...], config: tuple[str, ...] = ()) -> Patterns:
    """The catalogue with a user's own patterns in front of it.

    Raises:
        InvalidSettings: One of them is no regular expression, or matches every text.
    """
    check_heads("verdicts.infra", infra)
    check_heads("verdicts.config", config)
    return (
        Patterns(catalogue(), infra=infra, config=config) if infra or config else default_patterns()
    )


def check_heads(key: str, heads: Iterable[str]) -> None:
    """Raises InvalidSettings for a pattern of a user that cannot be used."""
    for head in heads:
        _check(key, head)


def _check(key: str, head: str) -> None:
    try:
        pattern = re.compile(head)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidSettings(key, f"{head!r} is not a regular expression: {error}") from error
    if pattern.match(""):
        raise InvalidSettings(key, f"{head!r} matches every text. Write how the message begins")
    if pattern.groupindex:
        raise InvalidSettings(key, f"{head!r} has a named group. Write (?:...) instead")
