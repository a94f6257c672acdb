"""What a submitter's words may and may not become."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgjet.errors import InvalidInput, InvalidSettings
from qgjet.runners.template import (
    JOB_WORDS,
    check_command,
    check_file_name,
    check_test_path,
    check_words,
    fill,
    fill_argv,
    fill_path,
)

WORDS = st.fixed_dictionaries({word: st.text(max_size=20) for word in sorted(JOB_WORDS)})


@given(
    WORDS,
    st.lists(
        st.sampled_from(["-x", "--test={test}", "run", "{test}", "a{org_id}b{test}", "{target}"]),
        min_size=1,
        max_size=6,
    ),
)
def test_values_never_add_arguments_nor_options(words: dict[str, str], template: list[str]) -> None:
    try:
        argv = fill_argv(template, words)
    except InvalidInput:
        return
    assert len(argv) == len(template)
    assert [argument.startswith("-") for argument in argv] == [
        argument.startswith("-") for argument in template
    ]


def test_a_value_that_looks_like_a_placeholder_stays_as_it_is() -> None:
    assert fill("{test}/{org_id}", {"test": "{org_id}", "org_id": "acme"}) == "{org_id}/acme"


def test_other_braces_are_left_alone() -> None:
    assert fill('{"a": {test}, "b": {}}', {"test": "x"}) == '{"a": x, "b": {}}'


@pytest.mark.parametrize("value", ["-x", "--reporter=evil", "-"])
def test_a_value_that_would_be_an_option_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="option"):
        fill_argv(["run", "{test}"], {"test": value})


@pytest.mark.parametrize("value", ["..", "../x", "a/b", "a\\b", "1..2", "", ".", "a\0b"])
def test_an_id_that_could_lead_elsewhere_is_no_part_of_a_path(value: str) -> None:
    with pytest.raises(InvalidInput, match="app_version_id"):
        check_file_name("app_version_id", value)
    with pytest.raises(InvalidInput, match="app_version_id"):
        fill_path("builds/{app_version_id}.apk", {"app_version_id": value})


def test_ids_that_are_plain_names_fill_paths() -> None:
    assert (
        fill_path("builds/{app_version_id}.apk", {"app_version_id": "1.0.0-rc.1+5 ü"})
        == "builds/1.0.0-rc.1+5 ü.apk"
    )


HOSTILE = [
    "",
    "-x",
    "--config=evil",
    "/etc/passwd",
    "../x.spec.js",
    "tests/../../x",
    "tests/..",
    "..\\x",
]
HOSTILE += ["a\0b", "a\nb", "a\x1b[2J", "a\x7f", "a\x9b", "\ud800"]


@pytest.mark.parametrize("test", HOSTILE)
def test_a_hostile_test_path_is_refused(test: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="test"):
        check_test_path(test, tmp_path)


def test_links_may_stay_inside_the_project_but_not_leave_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tests").mkdir(parents=True)
    (project / "tests" / "real.js").touch()
    (project / "inside").symlink_to(project / "tests")
    (project / "outside").symlink_to(tmp_path)
    (project / "tests" / "passwd.js").symlink_to("/etc/passwd")
    (project / "circle").symlink_to(project / "circle")
    assert check_test_path("inside/real.js", project) == project / "inside" / "real.js"
    for test in ("outside/x.js", "tests/passwd.js", "outside"):
        with pytest.raises(InvalidInput, match="symbolic link"):
            check_test_path(test, project)


@given(st.text(max_size=40))
def test_whatever_is_accepted_stays_inside(test: str) -> None:
    project = Path("/srv/no-such-project")
    try:
        path = check_test_path(test, project)
    except InvalidInput:
        return
    assert path.is_relative_to(project)
    assert ".." not in path.parts
    assert os.path.normpath(path) == str(path)


@pytest.mark.parametrize(
    "test",
    [
        "tests/a.spec.js",
        "./tests//a.spec.js",
        "tests/mit leer zeichen/ü (1).spec.ts",
        "..a/b",
        "a-b",
        "tests/x.py::test_a[1-2]",
    ],
)
def test_ordinary_paths_are_accepted(test: str, tmp_path: Path) -> None:
    assert check_test_path(test, tmp_path) == tmp_path / os.path.normpath(test)


def test_unknown_placeholders_are_named() -> None:
    with pytest.raises(InvalidSettings, match=r"\{tset\} is not filled in here"):
        check_words("targets.x.command", "run {tset}", JOB_WORDS)


@pytest.mark.parametrize(
    "command",
    [
        ("{test}",),
        ("./{target}", "x"),
        ("run", "{version}"),
        ("sh", "-c", "run {test}"),
        ("/bin/bash", "-e", "-c", "run {app_version_id}"),
        ("bash", "-ec", "run {test}"),
        ("timeout", "5", "sh", "-c", "run {test}"),
    ],
)
def test_a_command_in_which_a_job_could_choose_what_runs_is_refused(
    command: tuple[str, ...],
) -> None:
    with pytest.raises(InvalidSettings, match="command"):
        check_command("command", command)


@pytest.mark.parametrize(
    "command",
    [
        ("pytest", "{test}", "--junitxml={report}"),
        ("sh", "-c", 'run "$1"', "sh", "{test}"),
        ("sh", "run.sh", "{test}"),
        (),
    ],
)
def test_a_command_with_words_as_arguments_is_accepted(command: tuple[str, ...]) -> None:
    check_command("command", command)
