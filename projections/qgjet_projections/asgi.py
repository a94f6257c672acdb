"""`uvicorn qgjet_projections.asgi:app`: settings from `qgjet.toml` in the current directory and
from QGJET_ variables.

Without a token it does not start, unless QGJET_API_AUTH=false says that only this machine can reach
it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qgjet.config.loader import load_settings
from qgjet.config.settings import Settings
from qgjet.errors import InvalidSettings
from qgjet_projections.serving.app import create_app


def _settings() -> Settings:
    file = Path("qgjet.toml")
    return load_settings(file.read_text(encoding="utf-8") if file.exists() else "", os.environ)


try:
    app = create_app(_settings())
except InvalidSettings as error:
    sys.exit(f"Error: {error}")  # a traceback would hide it
