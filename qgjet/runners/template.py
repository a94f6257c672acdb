"""Puts the words of a submitter into command lines and paths of the operator, and lets them become
nothing else there.

A value fills one argument or a part of one. It never becomes an option, never an argument more,
never another directory, and never shell text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from qgjet.errors import InvalidInput, InvalidSettings

PARTITION_WORDS = frozenset({"org_id", "app_version_id", "target"})
JOB_WORDS = PARTITION_WORDS | {"test", "job_id", "attempt", "report"}

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "zsh", "fish"})


def words_in(template: str) -> set[str]:
    """Names of the placeholders in a template."""
    return set(_PLACEHOLDER.findall(template))


def fill(template: str, values: Mapping[str, str]) -> str:
    """One pass: a value that looks like a placeholder stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def fill_argv(template: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Raises InvalidInput where a value would turn an argument into an option."""
    return [_fill_argument(argument, values) for argument in template]


def _fill_argument(argument: str, values: Mapping[str, str]) -> str:
    filled = fill(argument, values)
    if filled.startswith("-") and not argument.startswith("-"):
        raise InvalidInput(
            " ".join(sorted(words_in(argument))),
            f"{filled!r} would be taken for an option of the command",
        )
    return filled


def fill_path(template: str, values: Mapping[str, str]) -> str:
    """Raises InvalidInput for ids that could lead elsewhere. A test path may have slashes, so
    `check_test_path` comes first.
    """
    for word in words_in(template) & {"org_id", "app_version_id", "target", "job_id"}:
        check_file_name(word, values[word])
    return fill(template, values)


def check_file_name(field: str, value: str) -> None:
    """Raises InvalidInput for an id that cannot be a part of a file's name."""
    if value in ("", ".") or ".." in value or any(character in value for character in "/\\\0"):
        raise InvalidInput(
            field,
            f"{value!r} cannot stand in the path of a file: it must not hold '/', '\\', '..' or NUL",
        )


def check_text(field: str, value: str) -> None:
    """Raises InvalidInput for text that the operating system cannot carry in an argument or a
    variable.
    """
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInput(field, f"{value!r} holds NUL or is not valid Unicode")


def check_test_path(test: str, project: Path) -> Path:
    """The absolute path of a test inside the project, symbolic links not followed. It need not
    exist.

    Raises InvalidInput for anything but a relative path that stays inside, links included.
    `project` has no links in it.
    """
    check_text("test", test)
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in test):
        raise InvalidInput("test", f"{test!r} holds control characters")
    if not test or test.startswith("-"):
        raise InvalidInput("test", f"{test!r} is no path: it is empty or begins with '-'")
    if PurePath(test).is_absolute() or ".." in re.split(r"[/\\]", test):
        raise InvalidInput("test", f"{test!r} must be relative to the project, without '..'")
    path = project / os.path.normpath(test)
    if not _resolved(path).is_relative_to(project):
        raise InvalidInput("test", f"{test!r} leads out of the project through a symbolic link")
    return path


_CASE = re.compile(r"(?:::|#).*$|(?::\d+){1,2}$", re.DOTALL)
"""What follows the file in `tests/test_a.py::test_b`, `tests/a.spec.ts:12` and the like."""


_TEST_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *(
            "py",
            "js",
            "ts",
            "mjs",
            "cjs",
            "mts",
            "cts",
            "jsx",
            "tsx",
            "yaml",
            "yml",
            "robot",
            "feature",
            "sh",
            "rb",
            "go",
            "dart",
            "php",
        ),
        *(
            "java",
            "kt",
            "kts",
            "groovy",
            "scala",
            "swift",
            "m",
            "mm",
            "cs",
            "fs",
            "rs",
            "json",
            "xml",
            "toml",
            "txt",
        ),
    )
)


def lacks_file(test: str, project: Path) -> bool:
    """Whether a test is the path of a file that the project does not have.

    A test of the `command` runner may be any name that the command understands, such as
    `com.example.LoginTest` or `AppTests/LoginTests/testSignIn`, so only what has the suffix of a
    test file counts as a path.
    """
    file = _CASE.sub("", test)
    return (
        PurePath(file).suffix.lower() in _TEST_SUFFIXES
        and not _exists(project / test)
        and not _exists(project / file)
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.12
        raise InvalidInput("test", f"{path} cannot be resolved: {error}") from error


def check_command(field: str, command: Sequence[str]) -> None:
    """Raises InvalidSettings for a template in which a submitter's words could choose the program
    or write shell text.
    """
    for argument in command:
        check_words(field, argument, JOB_WORDS)
    if command and words_in(command[0]):
        raise InvalidSettings(field, "the program itself cannot hold a placeholder")
    for position, argument in enumerate(command):
        if PurePath(argument).name in _SHELLS and words_in(_shell_text(command[position + 1 :])):
            raise InvalidSettings(
                field,
                'a placeholder in shell text would let a job write commands; write "$QGJET_TEST" there, or "$1" and {test} after it',
            )


def _shell_text(arguments: Sequence[str]) -> str:
    """What `sh -c` would run; empty without -c."""
    options = [argument for argument in arguments if argument[:1] in "-+"]
    words = [argument for argument in arguments if argument[:1] not in "-+"]
    return (
        words[0]
        if words and any("c" in option for option in options if not option.startswith("--"))
        else ""
    )


def check_words(field: str, template: str, allowed: frozenset[str]) -> None:
    """Raises InvalidSettings for a placeholder that is not filled in here."""
    for word in sorted(words_in(template) - allowed):
        raise InvalidSettings(
            field,
            f"{{{word}}} is not filled in here, only {', '.join(f'{{{name}}}' for name in sorted(allowed))}",
        )
