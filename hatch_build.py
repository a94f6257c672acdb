"""Says no to a wheel whose dashboard would have no scripts: they are not in the repository, `make assets` gets them.

QGJET_WITHOUT_ASSETS=1 builds one all the same. An editable installation is built without: a checkout works, its pages do not follow what happens, and the
log says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCRIPTS = ("htmx.js", "htmx-sse.js", "idiomorph.js")


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        vendor = Path(self.root) / "projections/qgjet_projections/web/static/vendor"
        missing = [name for name in SCRIPTS if not (vendor / name).is_file()]
        if not missing or version == "editable":
            return
        said = f"no {', '.join(missing)} in {vendor}: `make assets` gets them (it needs Node.js)"
        if os.environ.get("QGJET_WITHOUT_ASSETS") != "1":
            raise FileNotFoundError(f"{said}; QGJET_WITHOUT_ASSETS=1 builds a wheel whose pages do not follow what happens")
        self.app.display_warning(said)
