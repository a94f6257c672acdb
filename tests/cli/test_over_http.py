"""The HTTP client against servers that misbehave: busy, restarting, too old, or none of ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from factories import NOW, spec
from patience import patience
from qgjet.client import follow, transport
from qgjet.client.base import Batch
from qgjet.client.http import ApiClient, api_client
from qgjet.client.sse import Message, Parser
from qgjet.client.tracker import JobTracker, TrackedJob
from qgjet.domain import codec
from qgjet.domain.decide import EndAttempt, Start, Submit, decide
from qgjet.domain.events import Outcome, Slot, Verdict
from qgjet.domain.job import fold
from qgjet.domain.submission import SubmitRequest
from qgjet.errors import CannotReach, InvalidSettings, NotAccepted
from qgjet_cli.exits import Exit, of_error
from qgjet_cli.tracking.progress import Lines
from qgjet_cli.tracking.watch import watch

JSON = "application/json"
REQUEST = SubmitRequest(
    org_id="acme", app_version_id="1", target="emulator", test="tests/a.spec.js"
)
ACCEPTED = {"job_id": "j1", "status": "queued", "seq": 7, "attached": False, "replaced": None}


class Asked:
    """One request as it came."""

    def __init__(self, head: str, body: bytes) -> None:
        first, *lines = head.split("\r\n")
        self.method, self.path, _ = first.split(" ")
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        self.body = body


Handler = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def served(
    handler: Handler, *, patience_s: float = 5.0
) -> AsyncIterator[tuple[ApiClient, list[Asked], list[str]]]:
    """A client of a server that answers with `handler`, what the server was asked, and what the
    client has said.
    """
    asked: list[Asked] = []
    said: list[str] = []

    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip()
            one = Asked(head, b"")
            one.body = await reader.readexactly(int(one.headers.get("content-length", "0")))
            asked.append(one)
            await handler(one, writer)
            await writer.drain()
        serving.discard(task)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        api_client(f"127.0.0.1:{port}", patience_s=patience_s, notice=said.append) as client,
    ):
        yield client, asked, said
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)


def answer(
    writer: asyncio.StreamWriter, status: int, body: Any, kind: str = JSON, **headers: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} Words",
        f"Content-Type: {kind}",
        f"Content-Length: {len(data)}",
        "Connection: close",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)


def begin_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\nretry: 1000\n\n"
    )


def problem(status: int, detail: str, kind: str = "unavailable") -> dict[str, Any]:
    return {
        "type": f"urn:qgjet:problem:{kind}" if kind else "about:blank",
        "title": "",
        "status": status,
        "detail": detail,
        "instance": "/",
    }


def in_turn(*answers: tuple[Any, ...]) -> Handler:
    """Each request gets the next answer, the last one again and again."""
    turn = iter(answers)
    last = answers[-1]

    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        status, body, *headers = next(turn, last)
        answer(writer, status, body, **(headers[0] if headers else {}))

    return handler


# -- requests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_busy_server_is_asked_again(status: int) -> None:
    async with served(in_turn((status, b"busy", {"Retry_After": "0"}), (200, ACCEPTED))) as (
        client,
        asked,
        _,
    ):
        (placed,) = await client.submit(Batch(requests=(REQUEST,), suite_id=""))
    assert (placed.job_id, placed.seq) == ("j1", 7)
    assert len({one.headers["idempotency-key"] for one in asked}) == 1
    assert len(asked) == 2


async def test_a_server_that_stays_busy_is_given_up_with_its_own_reason() -> None:
    async with served(in_turn((503, problem(503, "no NATS server yet"))), patience_s=0.8) as (
        client,
        _,
        _,
    ):
        with pytest.raises(CannotReach, match="no NATS server yet") as raised:
            await client.job("1")
    assert of_error(raised.value) is Exit.UNREACHABLE


async def test_a_lost_answer_does_not_submit_twice() -> None:
    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        if len(asked) == 2:
            return  # it was done, and nobody hears of it
        answer(writer, 200, ACCEPTED if len(asked) > 2 else {"jobs": [], "next_cursor": None})

    async with served(handler) as (client, asked, _):
        await client.jobs({}, 1)
        (placed,) = await client.submit(Batch(requests=(REQUEST,), suite_id="", key="mine"))
    assert placed.job_id == "j1"
    assert [one.headers.get("idempotency-key") for one in asked] == [None, "mine", "mine"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>hello</html>", "not qgjet's API, or too old"),
        (404, b"<html>not found</html>", "not qgjet's API, or too old"),
        (
            404,
            problem(404, "there is nothing at /submit; /docs lists what there is", ""),
            "not qgjet's API, or too old",
        ),
        (405, problem(405, "method not allowed", ""), "not qgjet's API, or too old"),
        (401, b"who are you?", "not qgjet's API"),
        (
            500,
            problem(500, "the server failed on this request", "internal"),
            "the server failed on this request",
        ),
        (200, b"[" * 100_000, "not qgjet's API"),
        (200, {"id": 1, "name": "another service"}, "not qgjet's API"),
    ],
)
async def test_what_is_no_server_of_this_version_is_said_to_be_none(
    status: int, body: Any, says: str
) -> None:
    async with served(in_turn((status, body))) as (client, _, _):
        with pytest.raises(CannotReach, match=says):
            await client.submit(Batch(requests=(REQUEST,), suite_id=""))


async def test_a_redirect_is_told_and_not_followed() -> None:
    async with served(in_turn((301, b"", {"Location": "https://queue.example/"}))) as (
        client,
        asked,
        _,
    ):
        with pytest.raises(CannotReach, match=r"https://queue\.example/"):
            await client.job("1")
    assert len(asked) == 1


async def test_a_refusal_is_not_tried_again() -> None:
    async with served(
        in_turn((400, problem(400, "target: must not be empty", "invalid-request")))
    ) as (client, asked, _):
        with pytest.raises(NotAccepted, match="target: must not be empty") as raised:
            await client.submit(Batch(requests=(REQUEST,), suite_id=""))
    assert (of_error(raised.value), len(asked)) == (Exit.USAGE, 1)


async def test_the_jobs_of_a_suite_that_could_not_be_written_are_tried_again() -> None:
    lost = {
        "job_id": None,
        "status": None,
        "seq": None,
        "attached": False,
        "replaced": None,
        "error": {"status": 503, "detail": "no answer"},
    }
    good = {**ACCEPTED, "error": None}
    suites = ({"jobs": [good, lost]}, {"jobs": [good, {**good, "job_id": "j2"}]})
    async with served(in_turn(*((202, suite) for suite in suites))) as (client, asked, _):
        placed = await client.submit(Batch(requests=(REQUEST, REQUEST), suite_id="s"))
    assert [one.job_id for one in placed] == ["j1", "j2"]
    assert len({one.headers["idempotency-key"] for one in asked}) == 1


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("https://h/q/", "https://h/q"),
        ("http://user:secret@h", "http://h"),
    ],
)
async def test_addresses_are_taken_as_people_write_them_and_shown_without_passwords(
    url: str, base: str
) -> None:
    async with api_client(url, patience_s=1, notice=print) as client:
        assert client.where == f"the API at {base}"


# -- following -----------------------------------------------------------------------------------------------------------


def story() -> list[tuple[int, Any]]:
    """submitted, started, finished at 10, 20 and 30."""
    job = spec(job_id="j1")
    events: list[tuple[int, Any]] = []
    for seq, command in (
        (10, Submit(job)),
        (20, Start(10, "agent-1")),
        (
            30,
            EndAttempt(
                agent="agent-1",
                attempt=1,
                outcome=Outcome(verdict=Verdict.FLAKY, message="a\u2028b\x85c"),
            ),
        ),
    ):
        events.append((seq, decide(command, fold(events), NOW)))
    return events


def tracker() -> JobTracker:
    return JobTracker(
        [
            TrackedJob(
                job_id="j1",
                slot=Slot("acme", "1.0.0", "emulator", "tests/onboarding.spec.js"),
                seq=9,
            )
        ]
    )


def sse(seq: int, event: Any) -> bytes:
    return b"id: %d\nevent: x\ndata: %s\n\n" % (seq, codec.encode(event))


def page(after: int) -> dict[str, Any]:
    return {
        "events": [
            {"seq": seq, "event": json.loads(codec.encode(event))}
            for seq, event in story()
            if seq > after
        ],
        "next_after": None,
    }


async def followed(
    handler: Handler, *, patience_s: float = 5.0
) -> tuple[JobTracker, list[Asked], list[str]]:
    async with (
        served(handler, patience_s=patience_s) as (client, asked, said),
        asyncio.timeout(patience(10)),
    ):
        watched = tracker()
        await watch(client, watched, Lines())
        return watched, asked, said


async def test_events_come_over_one_stream() -> None:
    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        begin_stream(writer)
        for seq, event in story():
            writer.write(sse(seq, event))

    watched, asked, said = await followed(handler)
    assert watched.tracks["j1"].verdict is Verdict.FLAKY
    assert [one.path for one in asked] == ["/events?job_id=j1&after=9"]
    assert said == []


async def test_a_stream_that_breaks_is_resumed_after_the_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "PAUSE_S", 0.05)

    async def handler(one: Asked, writer: asyncio.StreamWriter) -> None:
        if "/jobs/" in one.path:
            answer(writer, 503, b"", Retry_After="0")
        elif "after=9" in one.path:
            begin_stream(writer)
            writer.write(sse(*story()[0]) + sse(*story()[1])[:20])  # cut in the middle
        else:
            begin_stream(writer)
            writer.write(b"".join(sse(*one) for one in story()[1:]))

    watched, asked, said = await followed(handler)
    assert watched.tracks["j1"].verdict is Verdict.FLAKY
    assert [one.path for one in asked if one.path.startswith("/events")] == [
        "/events?job_id=j1&after=9",
        "/events?job_id=j1&after=10",
    ]
    assert said == []


@pytest.mark.parametrize("refusal", ["404", "json", "silent"])
async def test_without_a_stream_it_polls(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    monkeypatch.setattr(transport, "FIRST_BYTE_S", 0.1)
    monkeypatch.setattr(follow, "POLL_S", 0.05)
    told = 9

    async def handler(one: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal told
        if one.path.startswith("/jobs/j1/events"):
            found = page(told)
            found["events"] = found["events"][:1]
            answer(writer, 200, found)
            told = found["events"][0]["seq"] if found["events"] else told
        elif refusal == "silent":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.5)
        else:
            answer(writer, 404 if refusal == "404" else 200, b"{}")

    watched, asked, _ = await followed(handler)
    assert watched.tracks["j1"].verdict is Verdict.FLAKY
    assert sum(one.path.startswith("/events") for one in asked) == 1
    assert sum("/jobs/" in one.path for one in asked) == 3


async def test_a_server_that_is_gone_for_good_ends_the_wait() -> None:
    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        answer(writer, 503, problem(503, "no NATS server yet"), Retry_After="0")

    with pytest.raises(CannotReach, match="has been away for 1 s"):
        await followed(handler, patience_s=1.0)


async def test_streams_that_break_at_once_are_made_up_for_by_polling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "PAUSE_S", 0.05)

    async def handler(one: Asked, writer: asyncio.StreamWriter) -> None:
        if one.path.startswith("/jobs/j1/events"):
            answer(writer, 200, page(9))
        else:
            begin_stream(writer)

    watched, _, said = await followed(handler)
    assert watched.tracks["j1"].verdict is Verdict.FLAKY
    assert said == []


async def test_a_token_with_all_its_streams_open_polls_and_reports_no_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.05)
    pages = iter([page(99), page(9)])

    async def handler(one: Asked, writer: asyncio.StreamWriter) -> None:
        if one.path.startswith("/jobs/j1/events"):
            answer(writer, 200, next(pages))
        else:
            answer(
                writer,
                429,
                problem(429, "100 streams are open", "too-many-requests"),
                Retry_After="5",
            )

    watched, asked, said = await followed(handler)
    assert watched.tracks["j1"].verdict is Verdict.FLAKY
    assert sum(one.path.startswith("/events") for one in asked) == 2
    assert said == []


async def test_an_outage_is_told_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE_S", 0.05)
    turns = iter([503] * 6)

    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        if next(turns, 200) == 503:
            answer(writer, 503, problem(503, "restarting"), Retry_After="0")
        else:
            begin_stream(writer)
            writer.write(b"".join(sse(*one) for one in story()))

    _, _, said = await followed(handler)
    assert len(said) == 2
    assert "restarting; trying again for 5 s" in said[0]
    assert "answers again" in said[1]


async def test_an_event_of_a_newer_version_is_passed_over() -> None:
    async def handler(_: Asked, writer: asyncio.StreamWriter) -> None:
        begin_stream(writer)
        writer.write(b'id: 15\nevent: y\ndata: {"type":"from_the_future"}\n\n')
        for seq, event in story():
            writer.write(sse(seq, event))

    watched, _, _ = await followed(handler)
    assert watched.tracks["j1"].verdict is Verdict.FLAKY


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_are_read_however_the_bytes_are_cut(size: int) -> None:
    data = b': hello\n\nid: 5\r\nevent: x\r\ndata: {"a":\ndata: \xe2\x80\xa8\x85}\r\n\r\nretry: 5\n\nid:6\ndata:x\n\nid: 7\ndata: unfinished'
    parser = Parser()
    found = [
        message
        for start in range(0, len(data), size)
        for message in parser.feed(data[start : start + size])
    ]
    assert found == [Message("5", b'{"a":\n\xe2\x80\xa8\x85}', "x"), Message("6", b"x")]


# -- proxies and certificates ----------------------------------------------------------------------------------------------

BAD_VARIABLES = [
    ("HTTP_PROXY", "http://127.0.0.1:port"),
    ("https_proxy", "http://127.0.0.1:port"),
    ("ALL_PROXY", "socks5://127.0.0.1:1"),
    ("ALL_PROXY", "gopher://127.0.0.1:1"),
    ("NO_PROXY", "localhost,fd07:b51a:cc66:f0::/64"),
    ("no_proxy", "[::1]"),
    ("SSL_CERT_FILE", "/nowhere/ca.pem"),
    ("SSL_CERT_FILE", __file__),
]


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "ssl_cert_file",
        "ssl_cert_dir",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(("name", "value"), BAD_VARIABLES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1.2.3", "api.localhost"])
async def test_a_local_address_needs_no_proxy(
    no_proxies: pytest.MonkeyPatch, name: str, value: str, host: str
) -> None:
    no_proxies.setenv(name, value)
    async with transport.open_http(f"http://{host}:1", patience_s=0) as http:
        assert http.where.startswith("the API at ")


@pytest.mark.parametrize(("name", "value"), BAD_VARIABLES)
async def test_a_variable_that_cannot_be_used_is_named(
    no_proxies: pytest.MonkeyPatch, name: str, value: str
) -> None:
    no_proxies.setenv(name, value)
    with pytest.raises(InvalidSettings, match="cannot be used") as raised:
        async with transport.open_http("https://queue.example", patience_s=0):
            pass
    assert raised.value.field == name


async def test_a_certificate_file_counts_for_a_local_address_with_tls(
    no_proxies: pytest.MonkeyPatch,
) -> None:
    no_proxies.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(InvalidSettings, match="SSL_CERT_FILE"):
        async with transport.open_http("https://localhost:1", patience_s=0):
            pass


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_that_does_not_answer_is_named(
    no_proxies: pytest.MonkeyPatch, name: str
) -> None:
    no_proxies.setenv(name, "http://user:secret@127.0.0.1:1")
    async with transport.open_http("http://queue.example", patience_s=0) as http:
        with pytest.raises(CannotReach, match=f"through the proxy of {name}") as raised:
            await http.ask("GET", "/jobs", dict)
    assert "secret" not in str(raised.value)
