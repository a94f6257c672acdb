"""Reads settings: `qgjet.toml`, overridden by QGJET_ variables, overridden by flags. Pure: the text
and the environment are passed in.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from qgjet.config.settings import (
    COLLECT,
    RUNNERS,
    AgentSettings,
    ApiSettings,
    Login,
    NatsSettings,
    Settings,
    TargetSettings,
)
from qgjet.domain.deployment import MIN_EVENT_RETENTION_S
from qgjet.errors import InvalidSettings
from qgjet.support.units import duration, size
from qgjet.verdict.patterns import check_heads

PREFIX = "QGJET_"
_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
    "date": "a date",
    "time": "a time",
    "datetime": "a date",
}
"""Types as msgspec calls them, in words."""

_PATHS: dict[type[Struct], tuple[str, ...]] = {
    Settings: ("api_token_file",),
    NatsSettings: ("password_file", "nkey", "ca", "cert", "key"),
    Login: ("password_file", "nkey"),
    AgentSettings: ("work_dir",),
    ApiSettings: ("database", "tokens_file"),
    TargetSettings: ("dir",),
}
"""Keys that hold a path. `build`, `config` and `junit` of a target count from its `dir`."""


def load_settings(
    text: str = "",
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    file_dir: Path = Path(),
    current_dir: Path = Path(),
    plugins: Callable[[], Collection[str]] = tuple,
) -> Settings:
    """Settings from a file's text, the environment and flags (dotted key -> value; None: not
    given).

    Relative paths in the text count from `file_dir`, those in variables and flags from the current
    directory. `plugins` gives the runners that were installed besides qgjet's own; it is called for
    a target that names another one only. Raises InvalidSettings that names the key, variable or
    flag at fault. Variables that no key has are left alone: other programs may use the prefix.
    """
    data = _parse(text)
    _check_tables(data)
    _resolve_paths(data, file_dir, _PATHS)
    _apply_environment(data, Settings, PREFIX, environ or {}, ())
    for key, value in (flags or {}).items():
        if value is not None:
            _set(data, tuple(key.split(".")), value)
    _check_tables(data)
    _resolve_paths(
        data, current_dir, (ApiSettings, TargetSettings)
    )  # so that only their default paths stay relative
    _check_keys({key: value for key, value in data.items() if key != "targets"}, Settings, "")
    targets = {name: _target(name, table) for name, table in data.pop("targets", {}).items()}
    settings = msgspec.structs.replace(_convert(data, Settings, ""), targets=targets)
    _check_values(settings, plugins)
    return settings


def _resolve_paths(data: dict[str, Any], base: Path, kinds: Collection[type[Struct]]) -> None:
    """Make relative paths in the tables of some kinds count from `base`; absolute ones stay."""
    tables: list[tuple[type[Struct], Any]] = [(Settings, data)]
    tables += [
        (one.type, data.get(one.encode_name, {}))
        for one in msgspec.structs.fields(Settings)
        if _is_struct(one.type)
    ]
    tables += [(Login, data.get("nats", {}).get("janitor"))]
    tables += [(TargetSettings, table) for table in data.get("targets", {}).values()]
    for kind, table in tables:
        for key in _PATHS[kind] if kind in kinds and isinstance(table, dict) else ():
            if isinstance(table.get(key), str) and table[key]:
                table[key] = str(base / Path(table[key]).expanduser())


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSettings("qgjet.toml", f"is not valid TOML: {error}") from error


def _check_tables(data: dict[str, Any]) -> None:
    tables = {
        one.encode_name: data.get(one.encode_name, {})
        for one in msgspec.structs.fields(Settings)
        if _is_struct(one.type)
    }
    tables |= {"targets": data.get("targets", {})}
    if isinstance(tables["targets"], dict):
        tables |= {f"targets.{name}": table for name, table in tables["targets"].items()}
    for key, table in tables.items():
        if not isinstance(table, dict):
            raise InvalidSettings(key, f"must be a table, [{key}]")


def _check_keys(data: dict[str, Any], kind: type[Struct], path: str) -> None:
    """Raises InvalidSettings for a key or table that does not exist, with the nearest name or all
    names.
    """
    fields = {one.encode_name: one for one in msgspec.structs.fields(kind)}
    tables = [name for name, one in fields.items() if _is_struct(one.type)] + (
        ["targets"] if kind is Settings else []
    )
    keys = (
        [name for name in fields if name not in tables]
        if kind is Settings
        else [name for name in fields if (kind, name) != (TargetSettings, "name")]
    )
    for key, value in data.items():
        if kind is Settings and key not in tables and isinstance(value, dict):
            name, hint = _unknown_table(key, value, tables)
            raise InvalidSettings("qgjet.toml", f"unknown table [{name}]. {hint}", key=name)
        if key not in fields:
            near = _nearest(key, keys)
            hint = f"Did you mean `{near}`?" if near else f"Keys: {', '.join(keys)}"
            raise InvalidSettings(
                path.rstrip(".") or "qgjet.toml", f"unknown key `{key}`. {hint}", key=f"{path}{key}"
            )
        if isinstance(value, dict) and _is_struct(fields[key].type):
            _check_keys(value, fields[key].type, f"{path}{key}.")


def _unknown_table(key: str, table: dict[str, Any], tables: list[str]) -> tuple[str, str]:
    """The table's name as it was meant, and what is allowed instead."""
    inner = next((name for name, value in table.items() if isinstance(value, dict)), "")
    near = _nearest(key, tables)
    if near == "targets":
        key, near = (f"{key}.{inner}", f"targets.{inner}") if inner else (key, "targets.<name>")
    listed = ", ".join(f"[{name}]" if name != "targets" else "[targets.<name>]" for name in tables)
    return key, f"Did you mean [{near}]?" if near else f"Tables: {listed}"


def _hint(value: str, values: Sequence[str]) -> str:
    near = _nearest(value, values)
    return f". Did you mean `{near}`?" if near else ""


def _nearest(name: str, names: Sequence[str]) -> str:
    return next(iter(difflib.get_close_matches(name[:50].lower(), names, n=1)), "")


def _is_struct(kind: Any) -> TypeGuard[type[Struct]]:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _apply_environment(
    data: dict[str, Any],
    kind: type[Struct],
    prefix: str,
    environ: Mapping[str, str],
    path: tuple[str, ...],
) -> None:
    for one in msgspec.structs.fields(kind):
        name = prefix + one.encode_name.upper()
        if _is_struct(one.type):
            _apply_environment(data, one.type, name + "_", environ, (*path, one.encode_name))
        elif one.encode_name == "targets" and kind is Settings:
            for target in list(data.get("targets", {})):
                _apply_environment(
                    data,
                    TargetSettings,
                    f"{name}_{_shouted(target)}_",
                    environ,
                    ("targets", target),
                )
        elif name in environ and not (kind is TargetSettings and one.name == "name"):
            _set(data, (*path, one.encode_name), _from_text(name, environ[name], one.type))


def _shouted(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _from_text(name: str, text: str, kind: Any) -> Any:
    if (get_origin(kind) or kind) not in (tuple, dict):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        if (
            get_origin(kind) is tuple
            and get_args(kind)[0] is str
            and not text.lstrip().startswith(("[", "{"))
        ):
            return [item.strip() for item in text.split(",") if item.strip()]
        raise InvalidSettings(
            name, f'must hold TOML, such as ["a", "b"]; it holds {text!r}'
        ) from None


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for depth, key in enumerate(path[:-1]):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise InvalidSettings(".".join(path[: depth + 1]), "is no table")
    data[path[-1]] = value


def _target(name: str, table: dict[str, Any]) -> TargetSettings:
    path = f"targets.{name}."
    if "name" in table:
        raise InvalidSettings(f"{path}name", "is no key: the table's own name is the target's")
    _check_keys(table, TargetSettings, path)
    return msgspec.structs.replace(_convert(table, TargetSettings, path), name=name)


S = TypeVar("S", bound=Struct)


def _convert(data: dict[str, Any], kind: type[S], path: str) -> S:
    try:
        return msgspec.convert(_seconds(data, kind, path), kind, strict=False)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`").lstrip(".")
        raise InvalidSettings(
            (path + where).rstrip(".") or "qgjet.toml", _in_words(what, _field(kind, where))
        ) from None


def _field(kind: type[Struct], where: str) -> msgspec.structs.FieldInfo | None:
    """Find the field that the path of a key leads to; None for a value inside a list or table."""
    found = None
    for part in where.split("."):
        found = next((one for one in msgspec.structs.fields(kind) if one.encode_name == part), None)
        if found is None:
            return None
        kind = found.type if _is_struct(found.type) else Struct
    return found


def _in_words(what: str, one: msgspec.structs.FieldInfo | None) -> str:
    """Write msgspec's message about a type the way the rest of the errors is written."""
    name = one.name if one is not None else ""
    found = re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `(\w+)`", what)
    if found is None:
        return (
            f"must be {_range(one.type, name)}"
            if one is not None and _meta(one.type) is not None
            else what
        )
    expected = _KINDS.get(found[1], found[1])
    if name.endswith("_s"):
        expected = "a duration such as 30s or 10m"
    elif name.endswith("_bytes"):
        expected = "a size such as 100MB"
    return f"must be {expected}, not {_KINDS.get(found[2], found[2])}"


def _meta(kind: Any) -> Meta | None:
    """The range that a type states; None when it states none."""
    candidates = (kind, *get_args(kind))  # an optional value states it inside
    return next((one.__metadata__[0] for one in candidates if get_origin(one) is Annotated), None)


def _range(kind: Any, name: str) -> str:
    """Write the whole range, not only the end that a value misses."""
    meta = _meta(kind)
    assert meta is not None
    if meta.gt is not None:
        return f"more than {meta.gt:g}. For no practical limit, write a long time such as 7d"
    if meta.le is not None:
        return f"from {meta.ge} to {meta.le}"
    low = meta.ge or 0
    if not name.endswith("_s"):
        return f"at least {low}"
    return f"at least {low:g}s" if low >= 1 else f"at least {low * 1000:g}ms"


def _seconds(data: dict[str, Any], kind: type[Struct], path: str) -> dict[str, Any]:
    """Turn durations and sizes in text into numbers, wherever a field of `kind` counts seconds or
    bytes.
    """
    result = dict(data)
    for one in msgspec.structs.fields(kind):
        key, value = one.encode_name, data.get(one.encode_name)
        if one.name.endswith("_s") and isinstance(value, str):
            result[key] = duration(value, f"{path}{key}")
        elif one.name.endswith("_bytes") and isinstance(value, str):
            result[key] = size(value, f"{path}{key}")
        elif isinstance(value, dict) and _is_struct(one.type):
            result[key] = _seconds(value, one.type, f"{path}{key}.")
    return result


def _check_values(settings: Settings, plugins: Callable[[], Collection[str]]) -> None:
    rules = [
        (
            "queue.priority_order",
            settings.queue.priority_order in ("low-first", "high-first"),
            "must be low-first or high-first",
        ),
        ("queue.replicas", settings.queue.replicas in (1, 3, 5), "must be 1, 3 or 5"),
        (
            "queue.retention",
            _is_event_retention(settings.queue.retention_s),
            "must be at least 1d, or 0 to keep events for ever",
        ),
        (
            "artifacts.collect",
            (collect := settings.artifacts.collect) in COLLECT,
            f"must be {', '.join(COLLECT[:-1])} or {COLLECT[-1]}{_hint(collect, COLLECT)}",
        ),
        *(
            (
                "api.cors_origins",
                _is_origin(one),
                f"{one!r} is not an origin such as https://ci.example",
            )
            for one in settings.api.cors_origins
        ),
        (
            "QGJET_API_TOKEN (api_token)",
            re.fullmatch(r"[!-~]*", settings.api_token) is not None,
            "must be printable ASCII without spaces: what `qgjet token create` printed",
        ),
        *_time_rules(settings, ""),
    ]
    for name, target in settings.targets.items():
        known = RUNNERS if target.runner in RUNNERS else (*RUNNERS, *plugins())
        rules.append(
            (
                f"targets.{name}.runner",
                target.runner in known,
                f"{target.runner!r} is none of {', '.join(known)}{_hint(target.runner, known)}",
            )
        )
        rules.append(
            (
                f"targets.{name}.command",
                target.runner != "command" or bool(target.command),
                "is needed by the command runner",
            )
        )
        rules += _time_rules(target, f"targets.{name}.")
    check_heads("verdicts.infra", settings.verdicts.infra)
    check_heads("verdicts.config", settings.verdicts.config)
    for where, holds, reason in rules:
        if not holds:
            raise InvalidSettings(where, reason)


def _is_origin(text: str) -> bool:
    return re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+", text, re.ASCII) is not None


def _is_event_retention(seconds: float) -> bool:
    return seconds == 0 or seconds >= MIN_EVENT_RETENTION_S


def _time_rules(settings: Struct, path: str) -> Iterator[tuple[str, bool, str]]:
    for one in msgspec.structs.fields(settings):
        value = getattr(settings, one.name)
        if isinstance(value, Struct):
            yield from _time_rules(value, f"{path}{one.encode_name}.")
        elif one.name.endswith("_s") and value is not None:
            yield (
                f"{path}{one.encode_name}",
                math.isfinite(value) and value >= 0,
                "must be a time from 0 on",
            )
