"""Artifacts and logs over HTTP: what is sent, in which headers it is wrapped, and how both end."""

from __future__ import annotations

import asyncio
import base64
import io
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from qgjet.domain.events import Verdict
from qgjet.domain.subjects import log_subject
from qgjet.jetstream.connection import Connection
from qgjet.store.artifacts import CHUNK_BYTES, STREAM, ArtifactStore, object_name
from qgjet_projections.api.routes.artifacts import disposition
from qgjet_projections.api.routes.logs import Position, Splitter

Json = dict[str, Any]
Submit = Callable[..., Awaitable[Json]]
DATA = random.Random(1).randbytes(3 * CHUNK_BYTES + 77)


class Left:
    """A job whose only attempt left files behind."""

    def __init__(self, api: httpx.AsyncClient, connection: Connection, job_id: str) -> None:
        self.api, self.connection, self.job_id = api, connection, job_id
        self.entries: list[Json] = []

    async def file(
        self, name: str, data: bytes, content_type: str = "application/octet-stream"
    ) -> Json:
        info = await ArtifactStore(self.connection).put(
            object_name(self.job_id, 1, name), io.BytesIO(data)
        )
        self.entries.append(
            {"name": name, "content_type": content_type, "size": info.size, "sha256": info.sha256}
        )
        return self.entries[-1]

    def url(self, name: str) -> str:
        return f"/jobs/{self.job_id}/artifacts/1/{name}"


@pytest.fixture
async def left(api: httpx.AsyncClient, connection: Connection, submit: Submit, agent: Any) -> Left:
    job_id = (await submit())["job_id"]
    await agent.start()
    return Left(api, connection, job_id)


@pytest.fixture
def ends(left: Left, agent: Any) -> Callable[[], Awaitable[None]]:
    async def ends() -> None:
        seq = await agent.end(Verdict.PASSED, outcome={"artifacts": left.entries})
        assert (
            await left.api.get(f"/status/{left.job_id}", params={"min_seq": seq})
        ).status_code == 200

    return ends


Ends = Callable[[], Awaitable[None]]


class TestDownload:
    async def test_they_are_listed_and_downloaded(self, left: Left, ends: Ends) -> None:
        shot = await left.file("test-results/a/home screen.png", DATA, "image/png")
        left.entries.append(
            {
                "name": "v.webm",
                "content_type": "video/webm",
                "size": 9,
                "sha256": "",
                "note": "left out: larger than max_file",
            }
        )
        await ends()
        found = (await left.api.get(f"/jobs/{left.job_id}/artifacts")).json()["artifacts"]
        assert found == [
            {**shot, "attempt": 1, "url": left.url("test-results/a/home%20screen.png")},
            {**left.entries[1], "attempt": 1, "url": left.url("v.webm")},
        ]
        got = await left.api.get(found[0]["url"])
        assert got.status_code == 200
        assert got.content == DATA
        headers = got.headers
        assert headers["content-type"] == "image/png"
        assert headers["content-length"] == str(len(DATA))
        assert headers["etag"] == f'"{shot["sha256"]}"'
        assert headers["content-disposition"] == 'inline; filename="home screen.png"'
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        missing = await left.api.get(left.url("nothing.png"))
        assert (missing.status_code, "nothing.png" in missing.json()["detail"]) == (404, True)
        left_out = await left.api.get(found[1]["url"])
        assert (left_out.status_code, "max_file" in left_out.json()["detail"]) == (410, True)

    @pytest.mark.parametrize(
        ("name", "content_type", "how"),
        [
            ("x.html", "text/html", "attachment"),
            ("x.svg", "image/svg+xml", "attachment"),
            ("junit.xml", "application/xml", "attachment"),
            ("x.pdf", "application/pdf", "attachment"),
            ("t.zip", "application/zip", "attachment"),
            ("v.webm", "video/webm", "inline"),
            ("output.log", "text/plain", "inline"),
            ("odd", "text/html\r\nX-Bad: 1", "attachment"),
        ],
    )
    async def test_nothing_active_is_shown(
        self, left: Left, ends: Ends, name: str, content_type: str, how: str
    ) -> None:
        await left.file(name, b"<script>", content_type)
        await ends()
        headers = (await left.api.get(left.url(name))).headers
        assert headers["content-disposition"].startswith(how)
        assert "x-bad" not in headers
        assert headers["content-type"].startswith(
            content_type if name != "odd" else "application/octet-stream"
        )

    async def test_an_empty_file_is_a_file(self, left: Left, ends: Ends) -> None:
        await left.file("output.log", b"", "text/plain")
        await ends()
        got = await left.api.get(left.url("output.log"))
        assert (got.status_code, got.content, got.headers["content-length"]) == (200, b"", "0")
        assert (
            await left.api.get(left.url("output.log"), headers={"Range": "bytes=0-"})
        ).status_code == 416

    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=5-9", 5, 10),
            (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", CHUNK_BYTES - 1, CHUNK_BYTES + 1),
            ("bytes=-7", len(DATA) - 7, len(DATA)),
            (f"bytes=-{len(DATA) * 2}", 0, len(DATA)),
            ("bytes=100-", 100, len(DATA)),
            (f"bytes=3-{len(DATA) * 9}", 3, len(DATA)),
        ],
    )
    async def test_a_part_can_be_asked_for(
        self, left: Left, ends: Ends, asked: str, start: int, end: int
    ) -> None:
        await left.file("v.webm", DATA, "video/webm")
        await ends()
        got = await left.api.get(left.url("v.webm"), headers={"Range": asked})
        assert (got.status_code, got.content) == (206, DATA[start:end])
        assert got.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        assert got.headers["content-length"] == str(end - start)

    async def test_a_part_that_is_not_there_is_refused_and_what_is_not_understood_gets_the_whole(
        self, left: Left, ends: Ends
    ) -> None:
        entry = await left.file("v.webm", DATA, "video/webm")
        await ends()
        for asked in (f"bytes={len(DATA)}-", "bytes=-0"):
            got = await left.api.get(left.url("v.webm"), headers={"Range": asked})
            assert (got.status_code, got.headers["content-range"]) == (416, f"bytes */{len(DATA)}")
        for asked in ("bytes=9-3", "bytes=0-1,4-5", "bytes=-", "lines=1-2", "bytes=٣-"):
            got = await left.api.get(left.url("v.webm"), headers={"Range": asked.encode()})  # type: ignore[dict-item]
            assert (got.status_code, len(got.content)) == (200, len(DATA)), asked
        other = await left.api.get(
            left.url("v.webm"), headers={"Range": "bytes=0-1", "If-Range": '"other"'}
        )
        assert (other.status_code, len(other.content)) == (200, len(DATA))
        same = await left.api.get(
            left.url("v.webm"), headers={"Range": "bytes=0-1", "If-Range": f'"{entry["sha256"]}"'}
        )
        assert same.status_code == 206

    async def test_head_and_if_none_match_send_no_content(self, left: Left, ends: Ends) -> None:
        entry = await left.file("v.webm", DATA, "video/webm")
        await ends()
        head = await left.api.head(left.url("v.webm"))
        assert (head.status_code, head.content, head.headers["content-length"]) == (
            200,
            b"",
            str(len(DATA)),
        )
        for tag in (f'"{entry["sha256"]}"', f'"x", W/"{entry["sha256"]}"', "*"):
            known = await left.api.get(left.url("v.webm"), headers={"If-None-Match": tag})
            assert (known.status_code, known.content) == (304, b"")
        assert (
            await left.api.get(left.url("v.webm"), headers={"If-None-Match": '"x"'})
        ).status_code == 200

    async def test_what_retention_has_taken_is_gone(self, left: Left, ends: Ends) -> None:
        await left.file("v.webm", DATA, "video/webm")
        await left.file("w.webm", DATA, "video/webm")
        await ends()
        info = await ArtifactStore(left.connection).stat(object_name(left.job_id, 1, "w.webm"))
        assert info is not None
        await left.connection.api(
            f"STREAM.PURGE.{STREAM}", {"filter": f"$O.qg-artifacts.C.{info.nuid}"}
        )
        assert (await left.api.get(left.url("w.webm"))).status_code == 410
        await left.connection.api(f"STREAM.PURGE.{STREAM}")
        gone = await left.api.get(left.url("v.webm"))
        assert (gone.status_code, gone.json()["type"]) == (410, "urn:qgjet:problem:artifact-gone")

    async def test_paths_lead_nowhere_else(self, left: Left, ends: Ends) -> None:
        await left.file("report.json", b"{}", "application/json")
        await ends()
        for path in (
            "..%2Freport.json",
            "x/..%2f..%2freport.json",
            "%2e%2e/report.json",
            "report.json/",
            "//report.json",
        ):
            assert (await left.api.get(left.url(path))).status_code in (200, 404)


def test_a_file_name_is_quoted_for_old_clients_and_new_ones() -> None:
    assert disposition("inline", "a b.png") == 'inline; filename="a b.png"'
    assert (
        disposition("attachment", 'é"\\%41.png')
        == "attachment; filename=\"____41.png\"; filename*=UTF-8''%C3%A9%22%5C%2541.png"
    )


class TestWholeLog:
    async def test_an_ended_attempt_gives_its_whole_log(self, left: Left, ends: Ends) -> None:
        await left.connection.request(log_subject(left.job_id, 1), b"only a part\n")
        await left.file("output.log", b"\xff the whole\n" * 30_000, "text/plain")
        assert (await left.api.get(f"/jobs/{left.job_id}/log")).content == b"only a part\n"
        await ends()
        got = await left.api.get(f"/jobs/{left.job_id}/log")
        assert got.content == b"\xff the whole\n" * 30_000
        assert got.headers["content-type"] == "text/plain; charset=utf-8"
        await left.connection.api(f"STREAM.PURGE.{STREAM}")
        assert (await left.api.get(f"/jobs/{left.job_id}/log")).content == b"only a part\n"


class Events:
    """Reads server-sent events until `end`."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.data = b""
        self.ended = False

    async def read(self, answer: httpx.Response, *, at_most: int = 10**9) -> None:
        event, count = "", 0
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                event = value
            elif field == "id":
                self.ids.append(value)
            elif field == "data":
                if event in ("live", "end"):
                    self.ended = event == "end"
                else:
                    self.data += (
                        base64.b64decode(value) if event == "bytes" else value.encode() + b"\n"
                    )
                event, count = "", count + 1
                if count == at_most:
                    return


SSE = {"Accept": "text/event-stream"}


class TestEvents:
    async def test_lines_come_as_events_until_the_attempt_ends(
        self, left: Left, agent: Any
    ) -> None:
        pieces = [
            b"one\ntw",
            b"o\n\n",
            b"\xff\xfe\x1b[31mred\r\n",
            b"caf\xc3",
            b"\xa9\n",
            b"x" * 150_000 + b"\nlast",
        ]
        for piece in pieces:
            await left.connection.request(log_subject(left.job_id, 1), piece)
        events = Events()
        async with left.api.stream("GET", f"/jobs/{left.job_id}/log", headers=SSE) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            reading = asyncio.create_task(events.read(answer))
            await agent.end(Verdict.PASSED)
            await reading
        assert events.ended
        assert events.data == b"".join(pieces)

    async def test_they_resume_after_any_event(self, left: Left, agent: Any) -> None:
        pieces = [b"one\ntw", b"o\nthree\n\nfo", b"ur\r\nfive\n", b"six"]
        for piece in pieces:
            await left.connection.request(log_subject(left.job_id, 1), piece)
        await agent.end(Verdict.PASSED)
        for count in range(1, 7):
            events = Events()
            async with left.api.stream("GET", f"/jobs/{left.job_id}/log", headers=SSE) as answer:
                await events.read(answer, at_most=count)
            again = {**SSE, "Last-Event-ID": events.ids[-1]}
            async with left.api.stream("GET", f"/jobs/{left.job_id}/log", headers=again) as answer:
                await events.read(answer)
            assert events.data == b"".join(pieces), count

    async def test_a_bad_id_is_refused(self, left: Left) -> None:
        got = await left.api.get(
            f"/jobs/{left.job_id}/log", headers={**SSE, "Last-Event-ID": "1.2.3"}
        )
        assert got.status_code == 400

    async def test_a_queued_job_is_waited_for(
        self, api: httpx.AsyncClient, submit: Submit, agent: Any, connection: Connection
    ) -> None:
        job_id = (await submit())["job_id"]
        events = Events()
        async with api.stream("GET", f"/jobs/{job_id}/log", headers=SSE) as answer:
            reading = asyncio.create_task(events.read(answer))
            await agent.start()
            await connection.request(log_subject(job_id, 1), b"here\n")
            await agent.end(Verdict.PASSED)
            await reading
        assert (events.data, events.ended) == (b"here\n", True)


def test_any_cut_of_messages_gives_the_same_lines_and_resumes_anywhere() -> None:
    rng = random.Random(3)
    for _ in range(200):
        messages = [(seq, bytes(rng.choices(b"ab\n", k=rng.randint(1, 8)))) for seq in range(1, 6)]
        whole = b"".join(text for _, text in messages)
        splitter = Splitter(Position())
        found = [
            line for seq, text in messages for line in splitter.feed(seq, text)
        ] + splitter.rest()
        assert b"".join(line for _, line in found) == whole
        assert all(b"\n" not in line[:-1] for _, line in found)
        for number, (position, _) in enumerate(found):
            again = Splitter(position)
            rest = [
                line
                for seq, text in messages
                if seq > again.after
                for line in again.feed(seq, text)
            ] + again.rest()
            assert [line for _, line in rest] == [line for _, line in found[number + 1 :]]
