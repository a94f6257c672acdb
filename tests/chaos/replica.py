"""`qgjet` with a wall clock that is as wrong as a file says, in seconds: `python -m chaos.replica
<file> serve …`.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import FunctionType

from qgjet.support import clock


def shift_clock(path: Path) -> None:
    """Make this process's clock wrong. In place, because other modules hold the function already."""

    def offset() -> timedelta:
        try:
            return timedelta(seconds=float(path.read_text() or 0))
        except OSError:
            return timedelta(0)

    true_now = FunctionType(clock.utc_now.__code__, vars(clock))
    vars(clock)["_now"] = lambda: true_now() + offset()
    clock.utc_now.__code__ = (lambda: _now()).__code__  # type: ignore[name-defined]  # noqa: F821 - a name of the clock's module


if __name__ == "__main__":
    shift_clock(Path(sys.argv.pop(1)))
    from qgjet_cli.main import main

    main()
