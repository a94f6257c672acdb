"""What of other tests these use: properties about any input need few things of their own."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for mutations.py: in importlib mode pytest does not
