"""Ask pip-audit about locks, and tell apart what it mixes up: holes that are known, and data that
could not be had. See audit.sh.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CLEAN, HOLES, UNKNOWN = 0, 1, 3


def audit(auditor: str, lock: str) -> int:
    """What is known of one lock, told on the way."""
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "answer.json"
        options = (
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--format",
            "json",
            "--output",
            str(answer),
        )
        done = subprocess.run(
            [auditor, "--requirement", lock, *options], capture_output=True, text=True, check=False
        )
        try:
            found = json.loads(answer.read_text())["dependencies"]
        except (OSError, ValueError, KeyError, TypeError):
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return _unknown(
                lock, f"pip-audit had no answer (exit code {done.returncode}): {last[:300]}"
            )
    skipped = [str(one["skip_reason"]) for one in found if "skip_reason" in one]
    holes = [(one["name"], one["version"], hole) for one in found for hole in one.get("vulns", ())]
    for name, version, hole in holes:
        print(
            f"{lock}: {name} {version}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version yet'}"
        )
    if holes:
        return HOLES
    if skipped or not found or done.returncode != 0:
        # pip-audit itself passes when it was told nothing about any package
        return _unknown(
            lock,
            f"{len(skipped)} of {len(found)} packages were not looked at, such as {(skipped or ['none'])[0]}",
        )
    print(f"{lock}: {len(found)} packages, no known holes")
    return CLEAN


def _unknown(lock: str, why: str) -> int:
    print(f"NOT AUDITED: nothing is known about {lock}: {why}", file=sys.stderr)
    return UNKNOWN


def main() -> int:
    auditor, *locks = sys.argv[1:]
    results = [audit(auditor, lock) for lock in locks]
    return HOLES if HOLES in results else max(results)


if __name__ == "__main__":
    sys.exit(main())
