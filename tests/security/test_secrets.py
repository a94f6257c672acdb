"""What settings hold that nobody else may read: it is in no error, no log line and no answer, whatever goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.commands import qgjet
from qgjet.settings import without_password
from surroundings import is_ours

QGJET = Path(sys.executable).with_name("qgjet")
SECRET = "s3cr3t"
passwords = st.text("/,@:#?%[]. ab\\\n", max_size=6).map(lambda text: f"{text}{SECRET}{text}")


@given(passwords, st.sampled_from(["nats://", "tls://", "http://", ""]), st.sampled_from(["h:4222", "[::1]:1", "h/path"]), st.booleans())
def test_no_password_is_left_in_an_address(password: str, scheme: str, host: str, several: bool) -> None:
    url = f"{scheme}user:{password}@{host}"
    shown = without_password(f"nats://a:{SECRET}@first,{url}" if several and scheme else url)
    assert SECRET not in shown
    assert shown.endswith(host)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "nats://a:1,nats://b:2", "http://api/x@y", "127.0.0.1", ""])
def test_an_address_without_a_password_stays_as_it_is(url: str) -> None:
    assert without_password(url) == url


@pytest.mark.parametrize(
    ("argv", "variables"),
    [
        (["agent"], {"QGJET_NATS_URL": f"nats://u:a,{SECRET}@127.0.0.1:1"}),
        (["doctor"], {"QGJET_NATS_URL": f"nats://u:{SECRET}@127.0.0.1:1", "QGJET_API_URL": f"http://u:{SECRET}@127.0.0.1:1", "API_TOKEN": f"token-{SECRET}"}),
        (["status", "j"], {"QGJET_API_URL": f"http://u:x/{SECRET}@127.0.0.1:1"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_server_that_cannot_be_reached_gives_no_password_away(argv: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    """Tracebacks too: QGJET_DEBUG shows them."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "qgjet.toml").write_text('[targets.e]\nrunner = "command"\ncommand = ["true"]\npass_env = ["API_TOKEN"]\nredact = ["API_TOKEN"]\n')
    environ = {name: value for name, value in os.environ.items() if not is_ours(name)} | variables | {"QGJET_DEBUG": "1"}
    done = subprocess.run([QGJET, *argv], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0, done.stdout
    assert done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


async def test_an_api_that_waits_for_its_server_gives_no_password_away(tmp_path: Path) -> None:
    """Anybody may ask it how it is."""
    async with qgjet("serve", "--port", "0", cwd=tmp_path, QGJET_NATS_URL=f"nats://u:{SECRET}@127.0.0.1:1") as serving:
        url = (await serving.says("API on")).split("API on ")[1].split(",")[0]
        async with httpx.AsyncClient(base_url=url) as client:
            answers = [await client.get("/readyz"), await client.get("/healthz")]
        assert [answer.status_code for answer in answers if "127.0.0.1:1" in answer.text] != []
        assert SECRET not in "".join(answer.text for answer in answers)
