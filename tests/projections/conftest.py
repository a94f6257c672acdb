"""Read models in temporary files, and what of them has to be equal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).parent)
)  # for histories.py: in importlib mode pytest does not

from qgjet_projections.readmodel import ReadModel


@pytest.fixture
def read_model(tmp_path: Path) -> Iterator[ReadModel]:
    opened = ReadModel.open(tmp_path / "read-model.sqlite")
    yield opened
    opened.close()
