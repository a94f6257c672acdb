"""Where settings come from: a qgjet.toml, then QGJET_ variables, then flags. The later one wins."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from qgjet.auth import token_file
from qgjet.config.loader import PREFIX, load_settings
from qgjet.config.settings import RUNNER_PLUGINS, ApiSettings, Settings
from qgjet.config.toml_lines import line_of
from qgjet.errors import InvalidSettings
from qgjet.support import plugins

FILE = "qgjet.toml"


def load(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from `path`, else QGJET_CONFIG, else the nearest qgjet.toml; then the environment,
    then flags (dotted key -> value; None: not given).

    Paths in the file, and default paths, count from the file's directory; paths in variables and
    flags from the current one. Raises InvalidSettings.
    """
    return _load(path, flags, environ)[0]


def load_for_api(path: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings for a process that serves the API. Raises InvalidSettings when tokens are configured
    and there are none: it would ask for no token.
    """
    settings, named = _load(path, flags, None)
    api = settings.api
    file, earlier = Path(api.tokens_file), Path.cwd() / ApiSettings().tokens_file
    if api.auth and not api.tokens:
        if named and not token_file.read(file):
            what = "has no tokens" if file.exists() else "does not exist"
            raise InvalidSettings(
                "api.tokens_file",
                f"{file} {what}, so the API could ask for none. {_CREATE} --file {file}`, or correct the path",
            )
        if not named and earlier != file and earlier.exists() and not file.exists():
            raise InvalidSettings(
                "api.tokens_file",
                f"{earlier} is not beside the settings: {file} does not exist. Move it there, or name it in `tokens_file`",
            )
    return settings


_CREATE = "Create one with `qgjet token create --name NAME --org '*' --scope operate"


def _load(
    path: Path | None, flags: Mapping[str, Any] | None, environ: Mapping[str, str] | None
) -> tuple[Settings, bool]:
    """Load the settings, and whether they name the tokens file."""
    environ = os.environ if environ is None else environ
    found = _named(path, environ) or find(Path.cwd())
    text = _read(found) if found else ""
    base = found.absolute().parent if found else Path.cwd()
    try:
        settings = load_settings(
            text, environ, flags, file_dir=base, current_dir=Path.cwd(), plugins=_runners
        )
    except InvalidSettings as error:
        raise _with_origin(error, found, text, environ) from None
    # only default paths are relative here
    api = replace(
        settings.api,
        database=str(base / settings.api.database),
        tokens_file=str(base / settings.api.tokens_file),
    )
    targets = {
        name: replace(target, dir=str(base / target.dir))
        for name, target in settings.targets.items()
    }
    return replace(settings, api=api, targets=targets), Path(settings.api.tokens_file).is_absolute()


def _with_origin(
    error: InvalidSettings, found: Path | None, text: str, environ: Mapping[str, str]
) -> InvalidSettings:
    """The same error, under the name of the file with its line, or of the variable that holds the
    value.
    """
    if found is not None and _fails_alike(error, text, {}):
        line = line_of(
            text, error.key.partition("[")[0]
        )  # the TOML parser's own errors name their line
        return InvalidSettings(
            f"{found.absolute()}:{line}" if line else str(found.absolute()),
            error.reason if error.field == FILE else str(error),
        )
    variable = PREFIX + re.sub(r"[^A-Z0-9]", "_", error.field.partition("[")[0].upper())
    if variable in environ and _fails_alike(error, text, environ):
        return InvalidSettings(variable, error.reason)
    return error


def _fails_alike(error: InvalidSettings, text: str, environ: Mapping[str, str]) -> bool:
    try:
        load_settings(text, environ, plugins=_runners)
    except InvalidSettings as other:
        return str(other) == str(error)
    return False


def _runners() -> list[str]:
    return plugins.names(RUNNER_PLUGINS)


def api_token(settings: Settings) -> str:
    """The token for the API: `api_token`, else what is in the file `api_token_file`; empty: none.
    Raises InvalidSettings.
    """
    if settings.api_token or not settings.api_token_file:
        return settings.api_token
    path = Path(settings.api_token_file).expanduser()
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(
            "QGJET_API_TOKEN_FILE (api_token_file)",
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
        ) from error
    return load_settings(flags={"api_token": text}).api_token


def _named(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is None and environ.get("QGJET_CONFIG"):
        path = Path(environ["QGJET_CONFIG"])
    if path is not None and not path.is_file():
        raise InvalidSettings("config", f"there is no file {path}")
    return path


def find(start: Path) -> Path | None:
    """The qgjet.toml of `start`, or of the nearest directory above it up to the root of its git
    repository.

    A file above that belongs to somebody else is refused: it names commands to run, and
    /tmp/qgjet.toml can be anybody's. Raises InvalidSettings.
    """
    for directory in (start, *start.parents):
        candidate = directory / FILE
        if candidate.is_file():
            if directory != start and not _own(candidate):
                raise InvalidSettings(
                    "config",
                    f"{candidate} belongs to another user; if you trust it, name it with --config",
                )
            return candidate
        if (directory / ".git").exists():
            break
    return None


def _own(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid in (os.getuid(), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidSettings(
            "config", f"{path} cannot be read: {error.strerror or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidSettings("config", f"{path} is not UTF-8 text") from error
