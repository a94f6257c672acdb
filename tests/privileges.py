"""Tests that need more than an ordinary user may do, such as a cgroup or a time namespace of their
own.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """End a test that cannot run here. In CI it fails, so that nothing goes untested unnoticed;
    elsewhere the summary names it and the way to run it.
    """
    reason = f"{what}: run the tests as root, for example `sudo -E make test`"
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)
