"""What settings hold that nobody else may read: it is in no error, no log line and no answer,
whatever goes wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.commands import qgjet
from patience import patience
from qgjet.support.addresses import without_password
from surroundings import is_ours

QGJET = Path(sys.executable).with_name("qgjet")
SECRET = "s3cr3t"
passwords = st.text("/,@:#?%[]. ab\\\n", max_size=6).map(lambda text: f"{text}{SECRET}{text}")


@given(
    passwords,
    st.sampled_from(["nats://", "tls://", "http://", ""]),
    st.sampled_from(["h:4222", "[::1]:1", "h/path"]),
    st.booleans(),
)
def test_no_password_is_left_in_an_address(
    password: str, scheme: str, host: str, several: bool
) -> None:
    url = f"{scheme}user:{password}@{host}"
    shown = without_password(f"nats://a:{SECRET}@first,{url}" if several and scheme else url)
    assert SECRET not in shown
    assert shown.endswith(host)


@pytest.mark.parametrize(
    "url", ["nats://127.0.0.1:4222", "nats://a:1,nats://b:2", "http://api/x@y", "127.0.0.1", ""]
)
def test_an_address_without_a_password_stays_as_it_is(url: str) -> None:
    assert without_password(url) == url


@pytest.mark.parametrize(
    ("argv", "variables"),
    [
        (["agent"], {"QGJET_NATS_URL": f"nats://u:a,{SECRET}@127.0.0.1:1"}),
        (
            ["doctor"],
            {
                "QGJET_NATS_URL": f"nats://u:{SECRET}@127.0.0.1:1",
                "QGJET_API_URL": f"http://u:{SECRET}@127.0.0.1:1",
                "API_TOKEN": f"token-{SECRET}",
            },
        ),
        (["status", "j"], {"QGJET_API_URL": f"http://u:x/{SECRET}@127.0.0.1:1"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_server_that_cannot_be_reached_gives_no_password_away(
    argv: list[str], variables: dict[str, str], tmp_path: Path
) -> None:
    """Tracebacks too: QGJET_DEBUG shows them."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "qgjet.toml").write_text(
        '[targets.e]\nrunner = "command"\ncommand = ["true"]\npass_env = ["API_TOKEN"]\nredact = ["API_TOKEN"]\n'
    )
    environ = (
        {name: value for name, value in os.environ.items() if not is_ours(name)}
        | variables
        | {"QGJET_DEBUG": "1"}
    )
    done = subprocess.run(
        [QGJET, *argv],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=patience(30),
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


async def test_an_api_that_waits_for_its_server_gives_no_password_away(tmp_path: Path) -> None:
    """Anybody may ask it how it is."""
    async with qgjet(
        "serve", "--port", "0", cwd=tmp_path, QGJET_NATS_URL=f"nats://u:{SECRET}@127.0.0.1:1"
    ) as serving:
        url = (await serving.says("API on")).split("API on ")[1].split(",")[0]
        async with httpx.AsyncClient(base_url=url) as client:
            answers = [await client.get("/readyz"), await client.get("/healthz")]
        assert [answer.status_code for answer in answers if "127.0.0.1:1" in answer.text] != []
        assert SECRET not in "".join(answer.text for answer in answers)


# -- what jobs print and leave -----------------------------------------------------------------------------------------

KEY = "-----BEGIN TEST KEY-----\nMIIBVAIBADANBgkqhkiG9w0BAQEFAASC\nqN3x7vJp0Zs8/T2mKf4uXo1Lr6Bd9wQe\nWm8RjUi2+hC6xEb4DgFl1NvAqTyZs9Kp\n-----END TEST KEY-----"
TOKEN = "sk4live9abcdef123456"
FORMS = ("block", "lines", "indent", "yaml", "joined", "oneline", "xml", "json")
SAYS = """
import json, os, sys
key, form = os.environ["KEY"], sys.argv[1]
lines = key.splitlines()
said = {
    "block": key,
    "lines": "".join(f"12:00:01 [key] {line}\\n" for line in lines),
    "indent": "".join(f"    {line}\\n" for line in lines),
    "yaml": "key: |\\n" + "".join(f"  {line}\\n" for line in lines),
    "joined": "".join(lines[1:-1]),
    "oneline": " ".join(lines),
    "xml": key.replace("\\n", "&#xA;"),
    "json": json.dumps(key),
}[form]
print("it is", said)
os.mkdir(os.environ["QGJET_ATTEMPT_DIR"] + "/test-results")
with open(os.environ["QGJET_ATTEMPT_DIR"] + "/test-results/said", "w") as file:
    file.write("it is " + said)
sys.exit(1)
"""
LEAVES = """
import os, sys
from pathlib import Path
token = os.environ["API_TOKEN"]
for end in ("x", token):
    directory = Path(os.environ["QGJET_ATTEMPT_DIR"], "test-results", "login-" + end)
    directory.mkdir(parents=True)
    for name in ("a.txt", "b.jsonl", "c.properties", "logcat", ".env"):
        (directory / name).write_text(f"x {token} y")
    (directory / "windows.txt").write_text(f"x {token} y", encoding="utf-16")
sys.exit(1)
"""


class Seen(NamedTuple):
    """All that a command has printed, reported and fetched."""

    text: str
    """Of output and reports."""
    files: dict[str, bytes]
    """By `<test>/<path>`."""


def run(directory: Path, script: str, tests: tuple[str, ...], **secrets: str) -> Seen:
    (directory / ".git").mkdir()
    (directory / "job.py").write_text(script)
    names = json.dumps(list(secrets))
    target = f'[targets.t]\nrunner = "command"\ncommand = ["{sys.executable}", "job.py", "{{test}}"]\npass_env = {names}\nredact = {names}\n'
    (directory / "qgjet.toml").write_text(
        'org_id = "acme"\n[job]\nmax_retries = 0\ninfra_retries = 0\n' + target
    )
    words = [word for test in tests for word in ("--test", test)]
    argv = [
        "run",
        "--app-version-id",
        "1",
        "--target",
        "t",
        *words,
        "--artifacts-dir",
        "art",
        "--report-json",
        "out.json",
    ]
    environ = {name: value for name, value in os.environ.items() if not is_ours(name)} | secrets
    done = subprocess.run(
        [QGJET, *argv],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=patience(50),
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    report = (directory / "out.json").read_text()
    by_id = {job["job_id"]: job["test"] for job in json.loads(report)["jobs"]}
    art = directory / "art"
    files = {
        path.relative_to(art).as_posix(): path.read_bytes()
        for path in art.rglob("*")
        if path.is_file()
    }
    return Seen(
        done.stdout + done.stderr + report,
        {
            f"{by_id[name.split('/')[0]]}/{name.split('/', 2)[2]}": data
            for name, data in files.items()
        },
    )


def test_no_line_of_a_key_leaves_the_agent_however_it_is_printed(tmp_path: Path) -> None:
    seen = run(tmp_path, SAYS, FORMS, KEY=KEY)
    assert sorted(seen.files) == sorted(
        f"{form}/{name}" for form in FORMS for name in ("output.log", "test-results/said")
    )
    for name, data in [("output and reports", seen.text.encode()), *seen.files.items()]:
        for line in KEY.splitlines():
            assert line.encode() not in data, name
            assert line.replace("/", "\\/").encode() not in data, name
    assert all(b"it is " in data and b"***" in data for data in seen.files.values())
    assert seen.files["block/output.log"] == b"it is ***\n"


def test_no_name_and_no_text_file_takes_a_secret_along(tmp_path: Path) -> None:
    seen = run(tmp_path, LEAVES, ("a",), API_TOKEN=TOKEN)
    assert TOKEN not in seen.text
    files = ("a.txt", "b.jsonl", "c.properties", "logcat", ".env", "windows.txt")
    assert seen.files.pop("a/output.log") == b""
    assert sorted(seen.files) == sorted(
        [f"a/test-results/login-{end}/{file}" for end in ("x", "***") for file in files]
    )
    for name, data in seen.files.items():
        assert data.decode("utf-16" if name.endswith("windows.txt") else "utf-8") == "x *** y", name
