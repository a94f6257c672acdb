"""From settings to runners."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgjet.config.settings import TargetSettings, VerdictSettings
from qgjet.errors import InvalidSettings
from qgjet.runners.commandline import CommandLineRunner
from qgjet.runners.registry import make_runner
from qgjet.runners.scripted import ScriptedRunner


def test_each_kind_of_target_has_its_runner() -> None:
    assert isinstance(make_runner(TargetSettings(name="a")), CommandLineRunner)
    assert isinstance(
        make_runner(TargetSettings(name="b", runner="command", command=("true",))),
        CommandLineRunner,
    )
    assert isinstance(make_runner(TargetSettings(name="c", runner="scripted")), ScriptedRunner)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (TargetSettings(name="x", runner="magic"), "targets.x.runner"),
        (TargetSettings(name="x", runner="command"), "targets.x.command"),
        (
            TargetSettings(name="x", runner="command", command=("run", "{nope}")),
            "targets.x.command",
        ),
        (TargetSettings(name="x", build="builds/{test}.apk"), "targets.x.build"),
        (
            TargetSettings(name="x", runner="command", command=("true",), junit="{nope}.xml"),
            "targets.x.junit",
        ),
        (
            TargetSettings(
                name="x", runner="command", command=("true",), junit="out/junit.xml", slots=2
            ),
            "targets.x.junit",
        ),
        (
            TargetSettings(
                name="x", runner="command", command=("true",), junit="{test}.xml", slots=2
            ),
            "targets.x.junit",
        ),
        (
            TargetSettings(
                name="x",
                runner="command",
                command=("true",),
                junit="{target}/{attempt}.xml",
                slots=2,
            ),
            "targets.x.junit",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_by_their_key(
    target: TargetSettings, field: str
) -> None:
    with pytest.raises(InvalidSettings) as refused:
        make_runner(target)
    assert refused.value.field == field


def test_a_report_that_slots_would_share_is_refused_with_the_line_to_write_instead() -> None:
    with pytest.raises(InvalidSettings, match=r'junit = "out/junit-\{job_id\}\.xml"'):
        make_runner(
            TargetSettings(
                name="x", runner="command", command=("true",), junit="out/junit.xml", slots=2
            )
        )


@pytest.mark.parametrize(
    ("junit", "slots"),
    [
        ("out/junit.xml", 1),
        ("out/{job_id}.xml", 2),
        ("{report}", 2),
        ("{org_id}/{app_version_id}/{test}.xml", 2),
        ("", 3),
    ],
)
def test_a_report_of_its_own_for_each_job_is_accepted(junit: str, slots: int) -> None:
    make_runner(
        TargetSettings(name="x", runner="command", command=("true",), junit=junit, slots=slots)
    )


def test_patterns_of_a_user_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="is not a regular expression"):
        make_runner(TargetSettings(name="x"), VerdictSettings(infra=("(",)))


def test_a_relative_project_is_fixed_when_the_runner_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = make_runner(TargetSettings(name="x", dir="project"))
    monkeypatch.chdir("/")
    assert isinstance(runner, CommandLineRunner)
    assert runner._project == tmp_path / "project"
