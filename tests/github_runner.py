"""GitHub's runner, as far as it reads what a step prints and writes: after ActionCommand.cs and
ActionCommandManager.cs of actions/runner.
"""

from __future__ import annotations

import re
from typing import NamedTuple

REGISTERED = {
    *(
        "error",
        "warning",
        "notice",
        "debug",
        "group",
        "endgroup",
        "add-mask",
        "stop-commands",
        "echo",
        "add-matcher",
        "remove-matcher",
    ),
    *("set-output", "save-state", "set-env", "add-path", "internal-set-repo-path"),
}


class Command(NamedTuple):
    name: str
    properties: dict[str, str]
    data: str


class Runner:
    """Obeys lines as the runner does: `::name props::data` at the start of a line, `##[name
    props]data` anywhere, none of them while it is stopped.
    """

    def __init__(self, text: str) -> None:
        self.commands: list[Command] = []
        self.log: list[str] = []
        self._resume = ""
        for line in re.split(r"\r\n|\r|\n", text):
            self._read(line)
        assert not self._resume, "commands were never resumed"

    def of(self, name: str) -> list[Command]:
        return [command for command in self.commands if command.name == name]

    def _read(self, line: str) -> None:
        found = re.match(r"::([^ :]+?)(?: (.*?))?::(.*)", line.lstrip(), re.S) or re.search(
            r"##\[([^ \]]+)(?: ([^\]]*))?\](.*)", line, re.S
        )
        if found is None or found[1] not in REGISTERED | ({self._resume} - {""}):
            self.log.append(line)
        elif self._resume:
            self._resume = "" if found[1] == self._resume else self._resume
        elif found[1] == "stop-commands":
            self._resume = found[3]
            assert re.fullmatch(r"\w{16,}", found[3])
        else:
            pairs = (one.split("=", 1) for one in (found[2] or "").split(",") if "=" in one)
            self.commands.append(
                Command(
                    found[1], {key: unescaped(value) for key, value in pairs}, unescaped(found[3])
                )
            )


def unescaped(text: str) -> str:
    for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, character)
    return text


def outputs_of(text: str) -> dict[str, str]:
    """The file of a step's outputs, as the runner reads it."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, delimiter = line.split("<<")
        value = []
        while (part := next(lines)) != delimiter:
            value.append(part)
        found[name] = "\n".join(value)
    return found
