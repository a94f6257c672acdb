"""The embedded NATS server: its start in any directory, and the reason when it does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgjet.errors import NatsUnavailable
from qgjet.jetstream.connection import connect
from qgjet.jetstream.server import NatsServer, nats_server


@pytest.mark.parametrize(
    "name",
    [
        "sp ace",
        "it's",
        '"quoted"',
        "[ab]",
        "back\\slash",
        "{a}",
        "$HOME",
        "#1",
        "1k",
        "l\nf",
        "ümläut",
    ],
)
async def test_it_starts_in_a_directory_of_any_name(tmp_path: Path, name: str) -> None:
    async with nats_server(tmp_path / name) as server, connect(server.url, name="test"):
        assert (tmp_path / name / "jetstream").is_dir()


async def test_a_configuration_that_cannot_be_used_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "nats.conf").write_text("listen: $QGJET_NOT_SET\n")
    server = NatsServer(tmp_path / "store", config=tmp_path / "nats.conf")
    with pytest.raises(
        NatsUnavailable,
        match=r"^nats-server did not start: .*'QGJET_NOT_SET' on line 1 can not be found$",
    ):
        await server.start()


async def test_the_reason_is_the_last_line_of_the_log_of_this_start(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, flags=["--no_such_flag"])
    server.log_file.write_text("an older line\n")
    with pytest.raises(NatsUnavailable, match=r"^nats-server did not start: ") as raised:
        await server.start()
    assert "older" not in str(raised.value)
    assert "\n" not in str(raised.value)
