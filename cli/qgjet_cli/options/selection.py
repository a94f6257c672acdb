"""Which tests: `--test` takes paths and patterns, expanded here, because a CI's shell may not do
it.

A pattern may hold `*`, `?`, `[…]`, `**` (directories at any depth) and `{a,b}`; one with `!` in
front of it excludes tests. Names that begin with a dot and directories named node_modules match
only a pattern that names them; `**` does not follow symbolic links.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from qgjet.domain.submission import check_test
from qgjet.errors import InvalidInput
from qgjet.runners.template import lacks_file
from qgjet_cli.exits import NoTests

MAX_ALTERNATIVES = 1000
"""Patterns that the braces of one may stand for."""
_MAGIC = re.compile(r"[*?\[{]")
_MODULES = "node_modules"


def expand(asked: Sequence[str], root: Path, *, must_exist: bool = False) -> list[str]:
    """The test paths that `asked` stands for, relative to `root`, with `/`: each once, in the order
    asked, sorted within a pattern.

    A plain path is taken as it is written, whether it is here or not, unless it `must_exist`. What
    a `!pattern` matches is left out, wherever it stands.

    Raises:
        NoTests: A pattern matches no file, a path that must exist does not, or everything was excluded.
        InvalidInput: A path is a directory, or there are exclusions only.
    """
    wanted = [text for text in asked if not _is_exclusion(text, root)]
    excluded = [text[1:] for text in asked if _is_exclusion(text, root)]
    if excluded and not wanted:
        raise InvalidInput(
            "test",
            f"!{excluded[0]} leaves tests out; name those to run, too, such as 'tests/**/*.spec.[jt]s'",
        )
    found: dict[str, None] = {}
    for text in wanted:
        found |= dict.fromkeys(
            _matches(text, root) if is_pattern(text, root) else [_plain(text, root)]
        )
    left = [test for test in found if not any(_is_match(test, pattern) for pattern in excluded)]
    if not left and found:
        raise NoTests(
            f"every test that was asked for is excluded by {', '.join(f'!{pattern}' for pattern in excluded)}"
        )
    missing = [test for test in left if must_exist and lacks_file(test, root)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise NoTests(f"there is no test file {missing[0]}{more} in {root}")
    return left


def is_pattern(text: str, root: Path) -> bool:
    """False for a plain path, and for a file that really has such a name: `tests/[id].spec.ts`."""
    return bool(_MAGIC.search(text)) and not os.path.lexists(root / text)


def _is_exclusion(text: str, root: Path) -> bool:
    return text.startswith("!") and len(text) > 1 and not os.path.lexists(root / text)


def _plain(text: str, root: Path) -> str:
    if text and os.path.isdir(root / text):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise InvalidInput(
            "test",
            f"{text!r} is a directory; write a pattern such as {text.rstrip('/') + '/**/*.spec.[jt]s'!r}",
        )
    return text


def _matches(pattern: str, root: Path) -> list[str]:
    with _limited(pattern):
        found = _glob().glob(
            _checked(pattern), root_dir=root, flags=_flags() | _glob().NODIR, limit=MAX_ALTERNATIVES
        )
    files = [path for path in found if _MODULES in pattern or _MODULES not in path.split("/")]
    if not files:
        raise NoTests(f"no file matches {pattern!r} in {root}")
    return sorted(set(files))


def _is_match(test: str, pattern: str) -> bool:
    with _limited(pattern):
        return bool(
            _glob().globmatch(
                test.removeprefix("./"),
                _checked(pattern),
                flags=_flags() | _glob().DOTGLOB,
                limit=MAX_ALTERNATIVES,
            )
        )


def _checked(pattern: str) -> str:
    """The pattern as one below the project. Raises InvalidInput for one that leads out of it."""
    check_test(pattern)
    return pattern.removeprefix("./")


def _glob() -> ModuleType:
    """Two hundredths of a second that a plain path need not wait for."""
    return import_module("wcmatch.glob")


def _flags() -> int:
    glob = _glob()
    return int(glob.GLOBSTAR | glob.BRACE | glob.CASE)


@contextlib.contextmanager
def _limited(pattern: str) -> Iterator[None]:
    from wcmatch._wcparse import (
        PatternLimitException,  # raised by `glob`, and exported nowhere else
    )

    try:
        yield
    except PatternLimitException:
        raise InvalidInput(
            "test",
            f"the braces of {pattern[:60]!r} stand for more than {MAX_ALTERNATIVES} patterns",
        ) from None
