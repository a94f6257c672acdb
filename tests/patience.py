"""How long tests wait: one factor for all of them, so that a slow or busy machine needs one setting
and no test changes.

Every deadline stands in the tests as what a fast, idle machine needs with room to spare. A deadline
only ends a test that hangs, so a large factor costs nothing while tests pass.
"""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("TEST_PATIENCE", "4"))


def patience(seconds: float) -> float:
    """The deadline for something that takes less than `seconds` on a fast, idle machine. Also for
    milliseconds.
    """
    return seconds * FACTOR
