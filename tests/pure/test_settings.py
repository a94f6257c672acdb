"""Settings: file, environment and flags, and what is said about those that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from qgjet.config.loader import load_settings
from qgjet.config.settings import (
    AgentSettings,
    ApiSettings,
    ArtifactSettings,
    JobSettings,
    Login,
    NatsSettings,
    QueueSettings,
    Settings,
    TargetSettings,
    VerdictSettings,
)
from qgjet.domain.deployment import Deployment
from qgjet.domain.retry import Backoff
from qgjet.errors import InvalidSettings
from qgjet.support.units import duration, size

TABLES: dict[str, type[msgspec.Struct]] = {
    "nats": NatsSettings,
    "nats.janitor": Login,
    "queue": QueueSettings,
    "job": JobSettings,
    "agent": AgentSettings,
    "artifacts": ArtifactSettings,
    "verdicts": VerdictSettings,
    "api": ApiSettings,
    "targets.pixel-7": TargetSettings,
}
WITH_TARGET = "[targets.pixel-7]\n"
Field = msgspec.structs.FieldInfo


def keys() -> Iterator[tuple[str, Field]]:
    """Every key that can be set: (dotted key, its field). A target's own name is not a key."""
    for one in msgspec.structs.fields(Settings):
        if one.name not in (*TABLES, "targets"):
            yield one.encode_name, one
    for table, kind in TABLES.items():
        for one in msgspec.structs.fields(kind):
            if (
                kind is not TargetSettings or one.name != "name"
            ) and f"{table}.{one.name}" not in TABLES:
                yield f"{table}.{one.encode_name}", one


KEYS = dict(keys())
NAMED = {
    "queue.priority_order": "high-first",
    "targets.pixel-7.runner": "scripted",
    "artifacts.collect": "always",
}
"""Keys with few values to choose from."""


def variable(key: str) -> str:
    return "QGJET_" + key.upper().replace(".", "_").replace("-", "_")


def plain(kind: Any) -> Any:
    """The type without its range and its inner types."""
    return plain(get_args(kind)[0]) if get_origin(kind) is Annotated else get_origin(kind) or kind


def accepted(key: str) -> tuple[str, str, Any]:
    """A value other than the default: as TOML, as the text of a variable, and as it is then read."""
    one = KEYS[key]
    kind = plain(one.type)
    if kind is str:
        text = NAMED.get(key, "other")
        return json.dumps(text), text, text
    if kind is bool:
        return ("true", "true", True) if one.default is False else ("false", "false", False)
    if kind is int:
        number = 3 if one.default != 3 else 4
        return str(number), str(number), number
    if kind is tuple:
        values = ("https://a", "https://b:8443") if key == "api.cors_origins" else ("a", "b")
        return json.dumps(values), json.dumps(values), values
    if kind is dict:
        inner = ("passed",) if key.endswith("outcomes") else "x"
        text = f"{{ a = {json.dumps(inner)} }}"
        return text, text, {"a": inner}
    assert one.name.endswith("_s"), f"{key} is of a kind that this test does not know: {one.type}"
    return ('"2d"', "2d", 172_800.0) if key == "queue.retention" else ('"2m"', "2m", 120.0)


def with_value(key: str, value: Any) -> Settings:
    """The defaults and a target without keys, but for `key`."""
    name = KEYS[key].name
    table, _, _ = key.rpartition(".")
    pixel = TargetSettings(name="pixel-7")
    base = Settings(targets={"pixel-7": pixel})
    if not table:
        return replace(base, **{name: value})
    if table.startswith("targets"):
        return replace(base, targets={"pixel-7": replace(pixel, **{name: value})})
    if table == "nats.janitor":
        return replace(base, nats=NatsSettings(janitor=Login(**{name: value})))
    return replace(base, **{table: replace(getattr(base, table), **{name: value})})


def in_file(key: str, toml: str) -> str:
    table, _, name = key.rpartition(".")
    line = f"{name} = {toml}\n"
    if not table:
        return line + WITH_TARGET
    return f"[{table}]\n{line}" + ("" if table.startswith("targets") else WITH_TARGET)


def refusal(
    text: str = "", environ: dict[str, str] | None = None, flags: dict[str, Any] | None = None
) -> InvalidSettings:
    with pytest.raises(InvalidSettings) as refused:
        load_settings(text, environ, flags)
    return refused.value


def test_every_number_and_duration_states_its_range() -> None:
    """Where 0 is a meaning of its own or any number is good, the type is plain and the key stands
    here.
    """
    plain_keys = {
        key
        for key, one in KEYS.items()
        if plain(one.type) in (int, float) and get_origin(one.type) is not Annotated
    }
    assert plain_keys == {
        "queue.replicas",
        "queue.retry_base",
        "queue.retry_cap",
        "queue.retention",
        "targets.pixel-7.stop_grace",
    }


@pytest.mark.parametrize(
    "key",
    [
        "job.execution_timeout",
        "job.queue_timeout",
        "agent.execution_timeout",
        "artifacts.upload_timeout",
        "targets.pixel-7.prepare_timeout",
        "targets.pixel-7.healthy_timeout",
        "targets.pixel-7.release_timeout",
    ],
)
def test_a_limit_of_zero_is_refused_for_it_means_no_limit_elsewhere(key: str) -> None:
    refused = refusal(in_file(key, "0"))
    assert (refused.field, refused.reason) == (
        key,
        "must be more than 0. For no practical limit, write a long time such as 7d",
    )


# Where a setting comes from


def test_without_anything_there_are_defaults() -> None:
    assert load_settings() == Settings()


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_set_in_the_file(key: str) -> None:
    toml, _, value = accepted(key)
    assert load_settings(in_file(key, toml)) == with_value(key, value)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_its_variable(key: str) -> None:
    _, text, value = accepted(key)
    assert load_settings(WITH_TARGET, {variable(key): text}) == with_value(key, value)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_can_be_set_by_a_flag(key: str) -> None:
    _, _, value = accepted(key)
    assert load_settings(WITH_TARGET, {}, {key: value}) == with_value(key, value)


def test_no_two_keys_share_a_variable() -> None:
    assert len({variable(key) for key in KEYS}) == len(KEYS)


def test_a_login_is_shown_without_its_secrets() -> None:
    loaded = load_settings(
        '[nats]\nuser = "agent"\npassword = "hush"\n[nats.janitor]\npassword = "hush"'
    )
    assert loaded.nats.password == loaded.nats.janitor.password == "hush"
    assert "hush" not in repr(loaded)
    assert "agent" in repr(loaded)


@pytest.mark.parametrize(
    ("key", "file", "environ", "flag"),
    [
        ("org_id", ('"file"', "file"), ("environment", "environment"), ("flag", "flag")),
        ("agent.batch", ("4", 4), ("5", 5), (6, 6)),
        ("api.janitor", ("false", False), ("true", True), (False, False)),
        ("agent.poll", ('"1m"', 60.0), ("2m", 120.0), ("3m", 180.0)),
        ("job.queue_timeout", ("1", 1.0), ("2", 2.0), (3, 3.0)),
        ("agent.targets", ('["a"]', ("a",)), ('["b"]', ("b",)), (["c"], ("c",))),
        (
            "targets.pixel-7.env",
            ('{ A = "1" }', {"A": "1"}),
            ('{ B = "2" }', {"B": "2"}),
            ({"C": "3"}, {"C": "3"}),
        ),
        ("targets.pixel-7.slots", ("2", 2), ("3", 3), (4, 4)),
    ],
)
def test_a_flag_beats_the_environment_and_that_beats_the_file(
    key: str, file: tuple[str, Any], environ: tuple[str, Any], flag: tuple[Any, Any]
) -> None:
    text = in_file(key, file[0])
    assert load_settings(text) == with_value(key, file[1])
    assert load_settings(text, {variable(key): environ[0]}) == with_value(key, environ[1])
    assert load_settings(text, {variable(key): environ[0]}, {key: flag[0]}) == with_value(
        key, flag[1]
    )
    assert load_settings(text, {variable(key): environ[0]}, {key: None}) == with_value(
        key, environ[1]
    )


def test_a_variable_changes_its_own_key_and_leaves_the_rest_of_the_table() -> None:
    loaded = load_settings(
        "[queue]\nreplicas = 3\nmax_deliver = 7\n", {"QGJET_QUEUE_REPLICAS": "5"}
    )
    assert loaded.queue == QueueSettings(replicas=5, max_deliver=7)


@given(
    st.dictionaries(
        st.text(max_size=6).map("QGJET_X".__add__)
        | st.sampled_from(["QGJET_TARGETS", "QGJET_TARGETS_PIXEL_7_NAME", "PATH"]),
        st.text(max_size=9),
    )
)
def test_variables_that_no_key_has_are_left_alone(environ: dict[str, str]) -> None:
    assert load_settings(WITH_TARGET, environ) == load_settings(WITH_TARGET)


def test_a_list_in_a_variable_may_be_separated_by_commas() -> None:
    assert load_settings("", {"QGJET_AGENT_TARGETS": " emulator, pixel-7 ,"}).agent.targets == (
        "emulator",
        "pixel-7",
    )


def test_an_empty_variable_is_an_empty_list() -> None:
    assert (
        load_settings('[agent]\ntargets = ["a"]', {"QGJET_AGENT_TARGETS": ""}).agent.targets == ()
    )


def test_targets_have_the_names_of_their_tables_in_the_order_of_the_file() -> None:
    loaded = load_settings('[targets.zulu]\nrunner = "scripted"\n[targets."a b.c"]\nslots = 2\n')
    assert list(loaded.targets.items()) == [
        ("zulu", TargetSettings(name="zulu", runner="scripted")),
        ("a b.c", TargetSettings(name="a b.c", slots=2)),
    ]


def test_settings_give_the_deployment_and_the_backoff() -> None:
    queue = QueueSettings(
        priority_order="high-first", replicas=3, retry_base_s=2.0, retry_cap_s=8.0
    )
    assert queue.deployment == Deployment(priority_order="high-first", replicas=3)
    assert queue.backoff == Backoff(base_s=2.0, cap_s=8.0)


@pytest.mark.parametrize(
    ("order", "ranks"), [("low-first", list(range(10))), ("high-first", list(range(9, -1, -1)))]
)
def test_the_most_urgent_priority_has_rank_zero(order: str, ranks: list[int]) -> None:
    assert [Deployment(priority_order=order).rank(priority) for priority in range(10)] == ranks


def test_settings_give_the_retention_to_whoever_makes_the_streams() -> None:
    settings = load_settings(
        "[artifacts]\nretention = '3d'\nlog_retention = '12h'\n[queue]\nreplicas = 3"
    )
    assert settings.deployment == Deployment(
        replicas=3, artifact_retention_s=3 * 86_400.0, log_retention_s=43_200.0
    )


# Sizes


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("90", 90),
        ("100MB", 100_000_000),
        ("1.5 gb", 1_500_000_000),
        ("64MiB", 67_108_864),
        ("2KiB", 2048),
        ("7b", 7),
    ],
)
def test_sizes_count_bytes(text: str, count: int) -> None:
    assert size(text) == count
    assert load_settings(f"[artifacts]\nmax_file = '{text}'").artifacts.max_file_bytes == count


@pytest.mark.parametrize("text", ["", "MB", "1 ib", "-1", "1e3", "1TB", "٣MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    assert refusal(f"[artifacts]\nmax_file = '{text}'").field == "artifacts.max_file"


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("30s", 30.0),
        ("10m", 600.0),
        ("2h", 7200.0),
        ("1d", 86_400.0),
        (" 10 m ", 600.0),
        ("0", 0.0),
        ("1.5h", 5400.0),
    ],
)
def test_a_duration_is_seconds_or_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "s",
        "-1",
        "-1s",
        "1 week",
        "1h30m",
        "1,5s",
        ".5s",
        "1e3",
        "nan",
        "inf",
        "10M",
        "1.s",
        "9" * 400,
        "9" * 308 + "d",
    ],
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidSettings, match=r"write 90, 30s, 10m or 1h") as refused:
        duration(text, "agent.poll")
    assert refused.value.field == "agent.poll"


@given(st.floats(0, 1e9), st.sampled_from(["", "ms", "s", "m", "h", "d"]))
def test_a_duration_is_read_in_its_unit(number: float, unit: str) -> None:
    text = f"{number:.3f}"
    seconds = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}[unit]
    assert duration(text + unit) == pytest.approx(float(text) * seconds)


@given(st.text(max_size=12))
@example("9" * 5000)
@example("\u0663s")
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        seconds = duration(text)
    except InvalidSettings:
        return
    assert 0 <= seconds < float("inf")


@pytest.mark.parametrize("key", [key for key, one in KEYS.items() if one.name.endswith("_s")])
def test_a_time_is_a_finite_number_from_zero_on(key: str) -> None:
    for value in ("-5", "nan", "inf", "-inf"):
        assert refusal(in_file(key, value)).field == key


# What is refused


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("nats_url = ", "qgjet.toml", "is not valid TOML"),
        (
            "colour = 1",
            "qgjet.toml",
            "unknown key `colour`. Keys: nats_url, api_url, api_token, api_token_file, org_id, target",
        ),
        ("org = 1", "qgjet.toml", "unknown key `org`. Did you mean `org_id`?"),
        (
            "[target.web]\nslots = 1",
            "qgjet.toml",
            "unknown table [target.web]. Did you mean [targets.web]?",
        ),
        (
            "[target]\nslots = 1",
            "qgjet.toml",
            "unknown table [target]. Did you mean [targets.<name>]?",
        ),
        ("[agents]\nslots = 1", "qgjet.toml", "unknown table [agents]. Did you mean [agent]?"),
        ("[colour]\nslots = 1", "qgjet.toml", "unknown table [colour]. Tables: [nats], [queue], "),
        ("[queue]\nreplica = 1", "queue", "unknown key `replica`. Did you mean `replicas`?"),
        ("[queue]\ncolour = 1", "queue", "unknown key `colour`. Keys: priority_order, replicas, "),
        ("[nats.janitors]\nuser = 'a'", "nats", "unknown key `janitors`. Did you mean `janitor`?"),
        (
            "[nats.janitor]\npasword = 'a'",
            "nats.janitor",
            "unknown key `pasword`. Did you mean `password`?",
        ),
        ("[targets.web]\nslot = 1", "targets.web", "unknown key `slot`. Did you mean `slots`?"),
        ("org_id = 5", "org_id", "must be text, not a whole number"),
        ("[queue]\nreplicas = 2", "queue.replicas", "must be 1, 3 or 5"),
        (
            '[queue]\npriority_order = "high"',
            "queue.priority_order",
            "must be low-first or high-first",
        ),
        (
            '[queue]\nvisibility_timeout = "499ms"',
            "queue.visibility_timeout",
            "must be at least 500ms",
        ),
        ("[queue]\nmax_deliver = 1", "queue.max_deliver", "must be at least 2"),
        (
            '[queue]\nretention = "23h"',
            "queue.retention",
            "must be at least 1d, or 0 to keep events for ever",
        ),
        ("[job]\npriority = 10", "job.priority", "must be from 0 to 9"),
        ("[job]\npriority = -1", "job.priority", "must be from 0 to 9"),
        ("[job]\nmax_retries = 11", "job.max_retries", "must be from 0 to 10"),
        ("[job]\ninfra_retries = -1", "job.infra_retries", "must be from 0 to 10"),
        ("[agent]\nbatch = 0", "agent.batch", "must be at least 1"),
        ("[agent]\nslots = -1", "agent.slots", "must be at least 0"),
        ("[agent]\nslots = 'many'", "agent.slots", "must be a whole number, not text"),
        (
            "[agent]\npoll = 'often'",
            "agent.poll",
            "'often' is not a duration; write 90, 30s, 10m or 1h",
        ),
        (
            "[agent]\npoll = true",
            "agent.poll",
            "must be a duration such as 30s or 10m, not true or false",
        ),
        ("[agent]\npoll = 0", "agent.poll", "must be at least 100ms"),
        ("[agent]\npoll = '99ms'", "agent.poll", "must be at least 100ms"),
        ("[agent]\nkeep_warm = 0", "agent.keep_warm", "must be at least 100ms"),
        (
            "[agent]\nexecution_timeout = 0",
            "agent.execution_timeout",
            "must be more than 0. For no practical limit, write a long time such as 7d",
        ),
        (
            "[job]\nqueue_timeout = true",
            "job.queue_timeout",
            "must be a duration such as 30s or 10m, not true or false",
        ),
        (
            "[artifacts]\nmax_file = []",
            "artifacts.max_file",
            "must be a size such as 100MB, not a list",
        ),
        ("[targets.pixel]\ncommand = 'true'", "targets.pixel.command", "must be a list, not text"),
        (
            "[targets.pixel]\nrunner = 'magic'",
            "targets.pixel.runner",
            "'magic' is none of appwright, command, scripted",
        ),
        (
            "[targets.pixel]\nrunner = 'comand'",
            "targets.pixel.runner",
            "'comand' is none of appwright, command, scripted. Did you mean `command`?",
        ),
        (
            "[artifacts]\ncollect = 'on-fail'",
            "artifacts.collect",
            "must be always, on-failure or never. Did you mean `on-failure`?",
        ),
        ("[targets.pixel]\nslots = 0", "targets.pixel.slots", "must be at least 1"),
        (
            "[targets.pixel]\nrunner = 'command'",
            "targets.pixel.command",
            "is needed by the command runner",
        ),
        (
            "[targets.pixel]\nprepare_timeout = '5 min'",
            "targets.pixel.prepare_timeout",
            "'5 min' is not a duration; write 90, 30s, 10m or 1h",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_key_and_reason(
    text: str, field: str, reason: str
) -> None:
    refused = refusal(text)
    assert refused.field == field
    assert reason in refused.reason


def test_the_limits_themselves_are_accepted() -> None:
    text = """
    [queue]
    visibility_timeout = "500ms"
    max_deliver = 2
    [job]
    priority = 9
    max_retries = 10
    infra_retries = 0
    [agent]
    batch = 1
    poll = "100ms"
    keep_warm = 0.1
    execution_timeout = "7d"
    [targets.pixel]
    slots = 1
    """
    assert load_settings(text) == Settings(
        queue=QueueSettings(visibility_timeout_s=0.5, max_deliver=2),
        job=JobSettings(priority=9, max_retries=10, infra_retries=0),
        agent=AgentSettings(batch=1, poll_s=0.1, keep_warm_s=0.1, execution_timeout_s=604_800.0),
        targets={"pixel": TargetSettings(name="pixel")},
    )


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[targets.pixel]\nslots = 'x'", "targets.pixel.slots"),
        ("[targets.pixel]\ncolour = 1", "targets.pixel"),
        ("[targets.pixel.env]\nA = 5", "targets.pixel.env"),
        ("targets = 5", "targets"),
        ("targets = 'pixel'", "targets"),
        ("[[targets]]\nrunner = 'scripted'", "targets"),
        ("[targets]\npixel = 5", "targets.pixel"),
        ("queue = 5", "queue"),
        ("[[queue]]\nreplicas = 1", "queue"),
    ],
)
def test_a_wrong_shape_is_refused_by_the_name_of_its_key(text: str, field: str) -> None:
    assert refusal(text).field.startswith(field)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("agent.slots", "many"),
        ("api.janitor", "perhaps"),
        ("agent.poll", "often"),
        ("agent.targets", "5"),
        ("queue.replicas", "2"),
        ("targets.pixel-7.env", "A=1"),
        ("targets.pixel-7.slots", "x"),
    ],
)
def test_a_variable_that_cannot_be_used_is_refused_by_its_name_or_its_key(
    key: str, text: str
) -> None:
    assert refusal(WITH_TARGET, {variable(key): text}).field in (variable(key), key)


@pytest.mark.parametrize(
    ("environ", "flags"),
    [({"QGJET_QUEUE_REPLICAS": "3"}, {}), ({}, {"queue.replicas": 3})],
    ids=["variable", "flag"],
)
def test_a_value_for_a_table_that_is_no_table_is_refused(
    environ: dict[str, str], flags: dict[str, Any]
) -> None:
    assert refusal("queue = 5", environ, flags).field.startswith("queue")


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "\ud800",
        "a = " + "[" * 5000,
        "a = " + "{a = " * 5000,
        "a." * 3000 + "a = 1",
        "a = " + "9" * 5000,
        "[job]\npriority = " + "9" * 5000,
        "[agent]\npoll = " + "9" * 400,
    ],
    ids=["nul", "surrogate", "lists", "tables", "dots", "digits", "long-priority", "long-duration"],
)
def test_no_file_is_too_strange_to_be_refused(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize("text", ["[" * 5000, "{ a = " * 5000], ids=["lists", "tables"])
def test_no_variable_is_too_strange_to_be_refused(text: str) -> None:
    refusal("", {"QGJET_AGENT_TARGETS": text})


# Anything at all


def _toml(value: Any) -> str:
    """Values as TOML; JSON's strings are TOML's, but for half surrogate pairs, which are left out."""
    match value:
        case dict():
            return (
                "{"
                + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items())
                + "}"
            )
        case list():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case bool():
            return str(value).lower()
        case float() | int():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


_names = st.sampled_from(
    sorted({part for key in KEYS for part in key.split(".")} | {"name", "", "x"})
)
_scalars = (
    st.sampled_from(
        [
            0,
            1,
            -1,
            3,
            10**20,
            "",
            "3",
            "10m",
            "command",
            "scripted",
            "low-first",
            True,
            False,
            float("nan"),
            float("inf"),
        ]
    )
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4)
    | st.floats()
)
_shapes = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=4,
)


def _table(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    own = st.sampled_from([one.encode_name for one in msgspec.structs.fields(kind)])
    return st.dictionaries(own | _names, _shapes, max_size=3) | _shapes


_files = st.fixed_dictionaries(
    {},
    optional={
        **{name: _table(kind) for name, kind in TABLES.items() if not name.startswith("targets")},
        "targets": st.dictionaries(
            st.sampled_from(["pixel-7", "a b", ""]), _table(TargetSettings), max_size=2
        )
        | _shapes,
        "org_id": _shapes,
        "x": _shapes,
    },
)
_variables = st.dictionaries(
    st.sampled_from([variable(key) for key in KEYS]),
    st.text(max_size=5) | _scalars.map(str) | _shapes.map(_toml),
    max_size=2,
)
_flags = st.dictionaries(st.sampled_from(list(KEYS)) | _names, _shapes, max_size=2)


@settings(max_examples=200)
@given(_files, _variables, _flags)
@example({"targets": 5}, {}, {})
@example({"targets": [{}]}, {}, {})
@example({"queue": 5}, {"QGJET_QUEUE_REPLICAS": "3"}, {})
def test_any_file_environment_and_flags_are_settings_or_refused(
    file: dict[str, Any], environ: dict[str, str], flags: dict[str, Any]
) -> None:
    _loads_or_refuses(
        "\n".join(f"{key} = {_toml(value)}" for key, value in file.items()), environ, flags
    )


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                "[targets",
                ".a",
                "]",
                "[[",
                "=",
                "\n",
                '"',
                "1",
                "queue",
                "{",
                "2020-01-01",
                "#",
                "'''",
            ]
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_settings_or_refused(text: str) -> None:
    _loads_or_refuses(text, {}, {})


@given(st.data())
def test_any_single_value_is_read_alike_from_a_file_and_from_a_flag(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(list(KEYS)))
    value = data.draw(_scalars)
    assume(value == value)  # NaN is not itself
    assert _outcome(in_file(key, _toml(value)), {}, {}) == _outcome(WITH_TARGET, {}, {key: value})


def _outcome(text: str, environ: dict[str, str], flags: dict[str, Any]) -> Settings | str:
    """The settings, or what is said about them."""
    try:
        return load_settings(text, environ, flags)
    except InvalidSettings as error:
        return str(error)


def _loads_or_refuses(text: str, environ: dict[str, str], flags: dict[str, Any]) -> None:
    outcome = _outcome(text, environ, flags)
    assert isinstance(outcome, Settings) or re.match(r"\S.*: \S", outcome)
