"""What goes for all tests of this directory."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """nats-py 2.16 forgets its end of a connection that breaks during the handshake, and servers
    refuse a lot here.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(
                pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
            )
