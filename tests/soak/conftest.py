"""The long variants of the fault tests. Only run when asked for: `python -m pytest tests/soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.conftest import yard

__all__ = ["yard"]

HERE = Path(__file__).resolve().parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [
        (config.invocation_params.dir / arg.split("::")[0]).resolve()
        for arg in map(str, config.invocation_params.args)
        if not arg.startswith("-")
    ]
    if collection_path.name.startswith("test_") and not any(
        path == HERE or HERE in path.parents for path in asked
    ):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.resolve().parents:
            item.add_marker(pytest.mark.timeout(900))
            item.add_marker(
                pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
            )
