"""`uvicorn qgjet_projections.asgi:app`: settings from `qgjet.toml` in the current directory and from QGJET_ variables."""

from __future__ import annotations

import os
from pathlib import Path

from qgjet.settings import Settings, load_settings
from qgjet_projections.api.app import create_app


def _settings() -> Settings:
    file = Path("qgjet.toml")
    return load_settings(file.read_text(encoding="utf-8") if file.exists() else "", os.environ)


app = create_app(_settings())
