"""README and docs say what is so: commands can be typed, settings exist, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nkeys
import pytest
import trustme
import yaml

from ops.commands import ROOT, environment
from ops.parsing import parse
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
from qgjet.jetstream.server import random_passwords, server_binary
from qgjet.runners.registry import make_runner
from qgjet.support.units import duration, size
from qgjet_cli.exits import Exit

PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def path_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *kinds: str) -> Iterator[str]:
    return (text for kind, text in BLOCK.findall(page.read_text()) if kind in kinds)


def commands() -> Iterator[str]:
    """Every `qgjet …` and `qgjob …` that a page tells people to type."""
    for page in PAGES:
        for text in blocks(page, "sh", "console", "yaml"):
            for line in text.splitlines():
                found = re.search(r"(?:^|[$>] |exec |run: )(qgjet|qgjob) (.+)", line)
                if found:
                    yield found[2]


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_can_be_typed(line: str) -> None:
    argv = shlex.split(line, comments=True)
    assert parse(argv) == next(word for word in argv if not word.startswith("-"))


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_make_targets_that_are_named_exist() -> None:
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for page in PAGES:
        for target in re.findall(r"(?:^\$ |`)make ([a-z-]+)", page.read_text(), re.M):
            assert target in made, f"{page.name}: make {target}"


def test_the_settings_of_the_readme_are_settings() -> None:
    (text,) = blocks(ROOT / "README.md", "toml")
    targets = load_settings(text).targets
    assert targets.keys() == {"emulator", "browserstack", "ios"}
    for target in targets.values():
        make_runner(target)


def test_the_pipeline_of_the_readme_is_one() -> None:
    (text,) = blocks(ROOT / "README.md", "yaml")
    assert yaml.safe_load(text)["e2e"]["steps"]


def test_every_exit_code_is_in_the_readme() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \|", (ROOT / "README.md").read_text(), re.M)
    named = {int(code) for row in rows for code in row.split(",")}
    assert named == {int(code) for code in Exit} - {Exit.HUNG_UP}


SECTIONS = {
    "Top level": Settings,
    "`[nats]`": NatsSettings,
    "`[nats.janitor]`": Login,
    "`[targets.<name>]`": TargetSettings,
    "`[queue]`": QueueSettings,
    "`[job]`": JobSettings,
    "`[agent]`": AgentSettings,
    "`[artifacts]`": ArtifactSettings,
    "`[verdicts]`": VerdictSettings,
    "`[api]`": ApiSettings,
}


_NOT_KEYS: dict[type[msgspec.Struct], set[str]] = {
    TargetSettings: {"name"},
    NatsSettings: {"janitor"},
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    (text,) = (
        part
        for part in re.split(r"^## ", (ROOT / "docs/settings.md").read_text(), flags=re.M)
        if part.startswith(section)
    )
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\|", text, re.M))
    tables = (
        {"nats", "queue", "job", "agent", "artifacts", "verdicts", "api", "targets"}
        if section == "Top level"
        else _NOT_KEYS.get(SECTIONS[section], set())
    )
    fields = {
        one.encode_name: one
        for one in msgspec.structs.fields(SECTIONS[section])
        if one.encode_name not in tables
    }
    assert rows.keys() == fields.keys()
    for key, one in fields.items():
        if isinstance(one.default, str | int | float) and one.default != "" and rows[key]:
            assert _same(rows[key].strip("`"), one.default), key


def _same(written: str, default: str | float) -> bool:
    if isinstance(default, bool):
        return written == str(default).lower()
    if isinstance(default, str):
        return written == default
    if written.endswith("B"):
        return size(written) == default
    return duration(written) == default


def test_the_cluster_of_the_docs_is_accepted_by_the_server(tmp_path: Path) -> None:
    (line,) = (
        line
        for text in blocks(ROOT / "docs/operations.md", "sh")
        for line in text.splitlines()
        if line.startswith("nats-server ")
    )
    (sed,) = (
        line
        for text in blocks(ROOT / "docs/operations.md", "sh")
        for line in text.splitlines()
        if line.startswith("sed ")
    )
    _, old, new, _ = shlex.split(sed)[1].split("/")
    conf = (ROOT / "nats.conf").read_text()
    assert conf.count(old) == 1
    (tmp_path / "cluster.conf").write_text(conf.replace(old, new))
    variables = {
        "QGJET_NATS_NAME": "n1",
        "QGJET_NATS_LISTEN": "0.0.0.0:4222",
        "QGJET_NATS_STORE": str(tmp_path),
        "QGJET_NATS_NO_AUTH_USER": "",
        **random_passwords(),
    }
    checked = subprocess.run(
        [server_binary(), "-t", *shlex.split(line)[1:]],
        cwd=tmp_path,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_recipes_for_passwords_and_tls_are_accepted_by_the_server(tmp_path: Path) -> None:
    """Each `nats-server` of the page, with the variables and the nkey that the page makes before
    it.
    """
    text = "".join(blocks(ROOT / "docs/security.md", "sh"))
    (exports,) = re.findall(r"^export QGJET_NATS_NAME.*\n^for role .*$", text, re.M)
    servers = re.findall(r"^nats-server .*$", text, re.M)
    assert len(servers) == 3
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.crt")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    (tmp_path / "nats.conf").write_text((ROOT / "nats.conf").read_text())
    script = "\n".join(
        [
            "set -e",
            exports,
            *(
                server.replace("nats-server", f"{shlex.quote(str(server_binary()))} -t", 1)
                for server in servers
            ),
        ]
    )
    checked = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr.count("is valid") == 3


def test_the_recipe_for_keys_makes_a_pair(tmp_path: Path) -> None:
    (line,) = re.findall(r"^python -c .*$", "".join(blocks(ROOT / "docs/security.md", "sh")), re.M)
    ours = environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    made = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=ours, capture_output=True, text=True, check=True
    )
    assert (
        nkeys.from_seed(bytearray((tmp_path / "agent.nk").read_bytes())).public_key.decode()
        == made.stdout.strip()
    )


HOSTS = re.compile(r"py[p]i\.org|python[h]osted|registry\.npm[j]s|proxy\.go[l]ang")


def test_no_registry_is_named() -> None:
    own = [
        ROOT / name
        for name in (
            "Makefile",
            "Dockerfile",
            "docker-compose.yml",
            "requirements.lock",
            "requirements-dev.lock",
            "pyproject.toml",
        )
    ]
    for file in [*own, *PAGES, *(ROOT / "tools").iterdir(), *(ROOT / ".github").rglob("*.yml")]:
        assert not HOSTS.search(file.read_text()), file
