"""`--test`: paths and patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgjet.errors import InvalidInput
from qgjet_cli.exits import NoTests
from qgjet_cli.options.selection import expand, is_pattern

FILES = (
    "top.spec.js",
    "tests/a.spec.js",
    "tests/b.spec.ts",
    "tests/B.spec.tsx",
    "tests/[id].spec.ts",
    "tests/deep/c.spec.ts",
    "tests/deep/er/d.spec.js",
    "tests/.hidden/e.spec.js",
    "tests/.f.spec.js",
    "node_modules/x/g.spec.js",
    "tests/node_modules/h.spec.js",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "tests" / "loop").symlink_to(tmp_path / "tests")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("tests/*.spec.js", ["tests/a.spec.js"]),
        (
            "tests/**/*.spec.[jt]s",
            [
                "tests/[id].spec.ts",
                "tests/a.spec.js",
                "tests/b.spec.ts",
                "tests/deep/c.spec.ts",
                "tests/deep/er/d.spec.js",
            ],
        ),
        ("**/*.spec.js", ["tests/a.spec.js", "tests/deep/er/d.spec.js", "top.spec.js"]),
        (
            "tests/**",
            [
                "tests/B.spec.tsx",
                "tests/[id].spec.ts",
                "tests/a.spec.js",
                "tests/b.spec.ts",
                "tests/deep/c.spec.ts",
                "tests/deep/er/d.spec.js",
            ],
        ),
        ("./tests/{a,b}.spec.{js,ts}", ["tests/a.spec.js", "tests/b.spec.ts"]),
        ("tests/?.spec.ts", ["tests/b.spec.ts"]),
        ("tests/[!a].spec.ts", ["tests/b.spec.ts"]),
        ("t*/d*p/*/*", ["tests/deep/er/d.spec.js"]),
        ("tests/**/er/*", ["tests/deep/er/d.spec.js"]),
        ("tests/loop/a*", ["tests/loop/a.spec.js"]),
        ("tests/.hidden/*", ["tests/.hidden/e.spec.js"]),
        ("node_modules/*/*.js", ["node_modules/x/g.spec.js"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_it_matches(
    root: Path, pattern: str, found: list[str]
) -> None:
    assert expand([pattern], root) == found


def test_a_path_is_taken_as_it_is_written_whether_it_is_there_or_not(root: Path) -> None:
    for path in (
        "tests/a.spec.js",
        "./tests/a.spec.js",
        "not/here.spec.js",
        "",
        "tests/[id].spec.ts",
        " x ",
    ):
        assert expand([path], root) == [path]


def test_a_file_that_must_exist_is_missed(root: Path) -> None:
    assert expand(
        ["tests/a.spec.js", "tests/a.spec.js::a", "LoginTest"], root, must_exist=True
    ) == ["tests/a.spec.js", "tests/a.spec.js::a", "LoginTest"]
    with pytest.raises(
        NoTests, match=rf"there is no test file not/here\.spec\.js \(and 1 more\) in {root}"
    ):
        expand(["tests/a.spec.js", "not/here.spec.js", "nor/there.py"], root, must_exist=True)


def test_a_name_that_looks_like_a_pattern_is_one_unless_there_is_such_a_file(root: Path) -> None:
    assert not is_pattern("tests/[id].spec.ts", root)
    assert is_pattern("tests/[ab].spec.ts", root)


def test_each_test_comes_once_in_the_order_asked(root: Path) -> None:
    assert expand(["top.spec.js", "tests/[ab].spec.*", "**/*.spec.js"], root) == [
        "top.spec.js",
        "tests/a.spec.js",
        "tests/b.spec.ts",
        "tests/deep/er/d.spec.js",
    ]


@pytest.mark.parametrize(
    "pattern", ["*.py", "tests/*/", "nowhere/**", "tests/a.spec.js/*", "tests/*.spec", "[z-a]*"]
)
def test_a_pattern_without_a_match_is_an_error_that_names_it_and_the_place(
    root: Path, pattern: str
) -> None:
    with pytest.raises(NoTests) as raised:
        expand(["top.spec.js", pattern], root)
    assert pattern in str(raised.value)
    assert str(root) in str(raised.value)


@pytest.mark.parametrize(
    "path",
    [
        "tests",
        "tests/",
        ".",
        "/*.js",
        "../*.js",
        "tests/../../*.js",
        "a\0*",
        "a\n*",
        "tests\\*.js",
        "{a,b}{a,b}{a,b}{a,b}{a,b}" * 3,
    ],
)
def test_directories_and_patterns_that_lead_out_are_refused(root: Path, path: str) -> None:
    with pytest.raises(InvalidInput):
        expand([path], root)


def test_braces_may_be_nested(root: Path) -> None:
    assert expand(["tests/{a.spec.js,deep/{c.spec.ts,er/d.spec.js}}"], root) == [
        "tests/a.spec.js",
        "tests/deep/c.spec.ts",
        "tests/deep/er/d.spec.js",
    ]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["tests/*.spec.*", "!tests/[aB].*"], ["tests/[id].spec.ts", "tests/b.spec.ts"]),
        (["!**/deep/**", "**/*.spec.js"], ["tests/a.spec.js", "top.spec.js"]),
        (["tests/a.spec.js", "./tests/b.spec.ts", "!tests/a.spec.js"], ["./tests/b.spec.ts"]),
        (["not/here.js", "!not/*.{ts,js}", "top.spec.js"], ["top.spec.js"]),
        (["tests/.hidden/*", "tests/a.spec.js", "!tests/**/e.*"], ["tests/a.spec.js"]),
        (["tests/a.spec.js", "!nothing/**"], ["tests/a.spec.js"]),
    ],
)
def test_what_an_exclusion_matches_is_left_out(
    root: Path, asked: list[str], found: list[str]
) -> None:
    assert expand(asked, root) == found


def test_a_file_whose_name_begins_like_an_exclusion_is_a_test(root: Path) -> None:
    (root / "!odd.spec.js").touch()
    assert expand(["!odd.spec.js"], root) == ["!odd.spec.js"]


def test_exclusions_alone_and_exclusions_of_everything_are_errors(root: Path) -> None:
    with pytest.raises(InvalidInput, match="name those to run"):
        expand(["!tests/a.spec.js"], root)
    with pytest.raises(NoTests, match="is excluded by !tests"):
        expand(["tests/a.spec.js", "!tests/**"], root)
    with pytest.raises(InvalidInput):
        expand(["tests/a.spec.js", "!../*"], root)
    with pytest.raises(InvalidInput, match="more than 1000"):
        expand(["tests/a.spec.js", "!" + "{a,b}" * 15], root)
