"""Reports of any size: written here, and read in a process of its own whose memory is measured.

python -m e2e.reports KIND PATH     prints the verdict and the peak memory in MiB
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from qgjet.verdict.evidence import CommandEvidence, Evidence
from qgjet.verdict.rules import appwright_outcome, command_outcome

MIB = 2**20
HEAD = b'{"config":{"rootDir":"/p","configFile":"/p/c.js"},"suites":[{"title":"a.js","file":"a.js","specs":['
FAILURE = json.dumps({"message": "Error: expect(received).toBe(expected)\n" + "z" * 6000}).encode()


def _spec(
    number: int, more: bytes = b"", status: bytes = b"passed", judged: bytes = b"expected"
) -> bytes:
    result = b'{"status":"%s","duration":1,"errors":[]%s}' % (status, more)
    test = b'{"status":"%s","expectedStatus":"passed","results":[%s]}' % (judged, result)
    return b'{"title":"t%d","id":"id%d","file":"a.js","line":1,"tests":[%s]}' % (
        number,
        number,
        test,
    )


def _attachment(file: BinaryIO, size: int) -> None:
    before, after = _spec(0, b',"attachments":[{"name":"d","body":"@"}]').split(b"@")
    file.write(HEAD + before)
    while file.tell() < size:
        file.write(b"QUJD" * 2**18)
    file.write(after + b"]}]}")


def _output(file: BinaryIO, size: int) -> None:
    before, after = _spec(0, b',"stdout":[@{"text":""}]').split(b"@")
    file.write(HEAD + before)
    while file.tell() < size:
        file.write(b'{"text":"%s\\n"},' % (b"x" * 4000))
    file.write(after + b"]}]}")


def _tests(file: BinaryIO, size: int) -> None:
    file.write(HEAD)
    number = 0
    while file.tell() < size:
        file.write(_spec(number, b',"stderr":[{"text":"%s"}]' % (b"y" * 1500)) + b",")
        number += 1
    file.write(_spec(number) + b"]}]}")


def _failures(file: BinaryIO, size: int) -> None:
    file.write(HEAD)
    number = 0
    while file.tell() < size:
        file.write(_spec(number, b',"error":' + FAILURE, b"failed", b"unexpected") + b",")
        number += 1
    file.write(_spec(number) + b"]}]}")


def _junit_output(file: BinaryIO, size: int) -> None:
    file.write(b'<testsuite><testcase name="a"><system-out><![CDATA[')
    while file.tell() < size:
        file.write((b"y" * 1023 + b"\n") * 256)
    file.write(b"]]></system-out></testcase></testsuite>")


def _junit_failures(file: BinaryIO, size: int) -> None:
    file.write(b"<testsuite>")
    number = 0
    while file.tell() < size:
        file.write(
            b'<testcase classname="c" name="t%d" time="0.1"><failure message="wrong">%s</failure></testcase>'
            % (number, b"q" * 8000)
        )
        number += 1
    file.write(b"</testsuite>")


WRITERS: dict[str, Callable[[BinaryIO, int], None]] = {
    "attachment": _attachment,
    "output": _output,
    "tests": _tests,
    "failures": _failures,
    "junit-output": _junit_output,
    "junit-failures": _junit_failures,
}
KINDS = {kind: "failed" if "failures" in kind else "passed" for kind in WRITERS}


def write(kind: str, size_mib: int, path: Path) -> None:
    with path.open("wb") as file:
        WRITERS[kind](file, size_mib * MIB)


def main(kind: str, path: str) -> None:
    with Path(path).open("rb") as report:
        if kind.startswith("junit"):
            outcome = command_outcome(
                CommandEvidence(
                    exit_code=0, junit=report, junit_due=True, duration_s=1.0, project_dir="/p"
                )
            )
        else:
            outcome = appwright_outcome(
                Evidence(exit_code=0, report=report, duration_s=1.0, project_dir="/p", test="a.js")
            )
    print(outcome.verdict, _peak_mib())


def _peak_mib() -> int:
    """Of this process alone: where it has /proc, because ru_maxrss keeps the size of the process
    that forked it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[1]) // 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
