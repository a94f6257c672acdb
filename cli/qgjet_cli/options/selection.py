"""Which tests: `--test` takes paths and patterns, expanded here, because a CI's shell may not do it.

A pattern may hold `*`, `?`, `[…]`, `**` (directories at any depth) and `{a,b}`. Names that begin with a dot and directories named node_modules match only a
pattern that names them; `**` does not follow symbolic links.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from qgjet.domain.submission import check_test
from qgjet.errors import InvalidInput
from qgjet.runners.template import lacks_file
from qgjet_cli.exits import NoTests

MAX_ALTERNATIVES = 1000
_MAGIC = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


def expand(asked: Sequence[str], root: Path, *, must_exist: bool = False) -> list[str]:
    """The test paths that `asked` stands for, relative to `root`, with `/`: each once, in the order asked, sorted within a pattern.

    A plain path is taken as it is written, whether it is here or not, unless it `must_exist`.

    Raises:
        NoTests: A pattern matches no file, or a path that must exist does not.
        InvalidInput: A path is a directory.
    """
    found: dict[str, None] = {}
    for text in asked:
        found |= dict.fromkeys(_matches(text, root) if is_pattern(text, root) else [_plain(text, root)])
    missing = [test for test in found if must_exist and lacks_file(test, root)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise NoTests(f"there is no test file {missing[0]}{more} in {root}")
    return list(found)


def is_pattern(text: str, root: Path) -> bool:
    """False for a plain path, and for a file that really has such a name: `tests/[id].spec.ts`."""
    return bool(_MAGIC.search(text)) and not os.path.lexists(root / text)


def _plain(text: str, root: Path) -> str:
    if text and os.path.isdir(root / text):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise InvalidInput("test", f"{text!r} is a directory; write a pattern such as {text.rstrip('/') + '/**/*.spec.[jt]s'!r}")
    return text


def _matches(pattern: str, root: Path) -> list[str]:
    wanted = [check_test(one) for one in alternatives(pattern)]
    files = {path for one in wanted for path in _below(root, "", one.removeprefix("./").split("/"))}
    if not files:
        raise NoTests(f"no file matches {pattern!r} in {root}")
    return sorted(files)


def alternatives(pattern: str) -> list[str]:
    """`a.{js,ts}` -> `a.js`, `a.ts`; nested braces too. Raises InvalidInput when there are more than 1000."""
    done: dict[str, None] = {}
    todo = [pattern]
    while todo:
        one = todo.pop()
        match = _BRACES.search(one)
        if match is None:
            done[one] = None
        else:
            todo += [one[: match.start()] + choice + one[match.end() :] for choice in match[1].split(",")]
        if len(done) + len(todo) > MAX_ALTERNATIVES:
            raise InvalidInput("test", f"the braces of {pattern[:60]!r} stand for more than {MAX_ALTERNATIVES} patterns")
    return list(done)


def _below(root: Path, prefix: str, parts: Sequence[str]) -> Iterator[str]:
    """Files under `root/prefix` that the pattern's `parts` match."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _below(root, prefix, rest or ["*"])
        for entry in _entries(root, prefix):
            if entry.is_dir(follow_symlinks=False) and _visible(entry.name, "*"):
                yield from _below(root, f"{prefix}{entry.name}/", parts)
    elif rest:
        for name in _directories(root, prefix, head):
            yield from _below(root, f"{prefix}{name}/", rest)
    else:
        yield from (prefix + entry.name for entry in _entries(root, prefix) if _visible(entry.name, head) and entry.is_file())


def _directories(root: Path, prefix: str, part: str) -> Iterator[str]:
    if not _MAGIC.search(part):
        yield part
        return
    yield from (entry.name for entry in _entries(root, prefix) if _visible(entry.name, part) and entry.is_dir())


def _entries(root: Path, prefix: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root / prefix) as entries:
            return list(entries)
    except OSError:  # not there, not a directory, or not ours to read
        return []


def _visible(name: str, part: str) -> bool:
    hidden = name.startswith(".") and not part.startswith(".")
    return not hidden and name != "node_modules" and fnmatchcase(name, part)
