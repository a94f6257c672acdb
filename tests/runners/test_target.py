"""From settings to runners."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgjet.agents.preparation import CommandLineRunner
from qgjet.agents.scripted import ScriptedRunner
from qgjet.agents.target import Target, make_runner
from qgjet.errors import InvalidSettings


def test_each_kind_of_target_has_its_runner() -> None:
    assert isinstance(make_runner(Target(name="a")), CommandLineRunner)
    assert isinstance(make_runner(Target(name="b", runner="command", command=("true",))), CommandLineRunner)
    assert isinstance(make_runner(Target(name="c", runner="scripted")), ScriptedRunner)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (Target(name="x", runner="magic"), "targets.x.runner"),
        (Target(name="x", runner="command"), "targets.x.command"),
        (Target(name="x", runner="command", command=("run", "{nope}")), "targets.x.command"),
        (Target(name="x", build="builds/{test}.apk"), "targets.x.build"),
        (Target(name="x", runner="command", command=("true",), junit="{nope}.xml"), "targets.x.junit"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_key(target: Target, field: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        make_runner(target)
    assert refused.value.field == field


def test_a_relative_project_is_fixed_when_the_runner_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = make_runner(Target(name="x", dir="project"))
    monkeypatch.chdir("/")
    assert isinstance(runner, CommandLineRunner)
    assert runner._project == tmp_path / "project"
