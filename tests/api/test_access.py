"""Tokens, scopes, orgs and limits of the API, over real connections."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.routes import HTTPRoute
from msgspec.structs import replace

from factories import NOW
from patience import patience
from qgjet.auth import token_file, tokens
from qgjet.auth.tokens import Scope
from qgjet.config.settings import ApiSettings, Settings
from qgjet.domain.events import Verdict
from qgjet.errors import InvalidSettings
from qgjet.jetstream.connection import Connection
from qgjet.jetstream.server import NatsServer
from qgjet.store import agent_registry
from qgjet.store.agent_registry import AgentInfo, TargetSlots
from qgjet.support.clock import utc_now
from qgjet_projections.api import access
from qgjet_projections.api.headers import source_hash
from qgjet_projections.api.routes import events
from qgjet_projections.serving.app import API, ROUTES, create_app
from qgjet_projections.serving.server import serve

Json = dict[str, Any]
RunApi = Callable[[Settings], AbstractAsyncContextManager[httpx.AsyncClient]]
Ask = Callable[..., Awaitable[httpx.Response]]

_made = iter(range(1, 1_000))


def make_token(
    file: Path,
    *scopes: Scope,
    orgs: tuple[str, ...] = ("*",),
    name: str = "test",
    ends_in_s: float | None = None,
) -> str:
    now = utc_now()
    end = None if ends_in_s is None else now + timedelta(seconds=ends_in_s)
    text, kept = tokens.mint(
        token_id=next(_made).to_bytes(6),
        secret="A" * 43,
        name=name,
        scopes=scopes or [Scope.READ],
        orgs=orgs,
        now=now,
        expires_at=end,
    )
    token_file.change(file, lambda before: {**before, kept.id: kept})
    return text


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def guarded(settings: Settings, file: Path) -> Settings:
    return replace(settings, api=replace(settings.api, tokens_file=str(file)))


@pytest.fixture
async def api(guarded: Settings, run_api: RunApi, file: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An API that asks for tokens; its client sends the one of somebody who may do everything."""
    operator = make_token(file, Scope.OPERATE, name="operator")
    async with run_api(guarded) as client:
        client.headers.update(bearing(operator))
        yield client


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def submit(api: httpx.AsyncClient, token: str | None = None, **fields: Any) -> httpx.Response:
    body = {
        "org_id": "acme",
        "app_version_id": "1",
        "target": "emulator",
        "test": "tests/a.spec.js",
        **fields,
    }
    return await api.post("/submit", json=body, headers=bearing(token) if token else {})


# -- routes and their scopes ---------------------------------------------------------------------------------------------


def handlers() -> list[tuple[str, str, Any]]:
    app = create_app(Settings(api=ApiSettings(auth=False)))
    found = [
        (route.path, method, handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
    ]
    return [(path, method, handler) for path, method, handler in found if method != "OPTIONS"]


def test_every_route_says_what_it_needs() -> None:
    needs = {
        (method, path): handler.resolve_opts() or handler.opt.get(access.NEEDS, "nothing")
        for path, method, handler in handlers()
    }
    assert len(needs) >= len(ROUTES)
    assert {route: scope for route, scope in needs.items() if scope not in (None, *Scope)} == {}
    public = {path for (_, path), scope in needs.items() if scope is None}
    api = {
        "/livez",
        "/healthz",
        "/readyz",
        "/docs",
        "/docs/openapi.json",
        "/docs/openapi.yaml",
        "/docs/openapi.yml",
        "/docs/{path:str}",
    }
    assert public == api | {"/ui/login", "/ui/logout", "/ui/assets/{name:str}"}
    assert {
        scope for (method, path), scope in needs.items() if method == "POST" and path not in public
    } <= {Scope.SUBMIT, Scope.OPERATE}


def test_what_version_0_1_had_is_there_with_and_without_the_version() -> None:
    by_path = {(method, path): handler.fn for path, method, handler in handlers()}
    versioned = {key: handler for key, handler in by_path.items() if key[1].startswith("/v1/")}
    assert len(versioned) >= len(API)
    assert {
        (method, path.removeprefix("/v1")): handler for (method, path), handler in versioned.items()
    }.items() <= by_path.items()


async def test_every_protected_route_documents_it_and_asks_for_a_token(
    guarded: Settings, run_api: RunApi, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "FAILURES", 1_000)
    make_token(file)
    async with run_api(guarded) as api:
        await _look_at_each(api)


async def _look_at_each(api: httpx.AsyncClient) -> None:
    schema = (await api.get("/docs/openapi.json")).json()
    assert schema["components"]["securitySchemes"]["bearerAuth"]["scheme"] == "bearer"
    assert schema["security"] == [{"bearerAuth": []}]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            public = operation.get("security") == [{}]
            assert public == (path in ("/livez", "/healthz", "/readyz"))
            assert ({"401", "403", "429"} <= operation["responses"].keys()) != public, path
            if not public:
                refused = await api.request(method, path.replace("{attempt}", "1"))
                assert refused.status_code == 401, (method, path)


async def test_a_route_that_says_nothing_is_refused_to_everybody(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "NEEDS", "something that no route says")
    answer = await api.get("/jobs")
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:qgjet:problem:scope")


async def test_without_a_good_token_nothing_is_told(api: httpx.AsyncClient, file: Path) -> None:
    job_id = (await submit(api)).json()["job_id"]
    good = make_token(file)
    expired = make_token(file, ends_in_s=-1.0)
    revoked = make_token(file)
    token_file.change(file, lambda before: tokens.revoked(before, revoked.split("_")[1], utc_now()))
    cases = {
        "": "is needed",
        "Basic x": "is needed",
        "Bearer x": "not known",
        f"Bearer {good[:-1]}B": "not known",
    }
    cases |= {f"Bearer {expired}": "expired at", f"Bearer {revoked}": "was revoked at"}
    for header, says in cases.items():
        for path in (f"/jobs/{job_id}", "/jobs/nobody"):
            answer = await api.get(path, headers={"Authorization": header})
            assert (answer.status_code, answer.headers["www-authenticate"]) == (
                401,
                'Bearer realm="qgjet"',
            )
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["type"] == "urn:qgjet:problem:unauthenticated"
            assert says in answer.json()["detail"]
            assert good not in answer.text
    assert (await api.get(f"/jobs/{job_id}", headers=bearing(good))).status_code == 200


async def test_scopes_are_a_ladder_and_a_refusal_names_the_one_that_is_missing(
    api: httpx.AsyncClient, file: Path
) -> None:
    reader, submitter = make_token(file, Scope.READ), make_token(file, Scope.SUBMIT, name="ci")
    refused = await submit(api, reader)
    assert (refused.status_code, refused.json()["type"], refused.json()["scope"]) == (
        403,
        "urn:qgjet:problem:scope",
        "submit",
    )
    accepted = await submit(api, submitter)
    assert accepted.status_code == 202
    job = (await api.get(f"/jobs/{accepted.json()['job_id']}", headers=bearing(submitter))).json()
    assert job["submitted_by"] == "api:ci"
    for path in (
        f"/jobs/{job['job_id']}/cancel",
        f"/jobs/{job['job_id']}/rerun",
        "/suites",
        "/suites/x/cancel",
        "/suites/x/rerun",
    ):
        assert (await api.post(path, headers=bearing(reader))).status_code == 403


async def test_probes_need_no_token_and_tell_reasons_only_to_those_who_have_one(
    api: httpx.AsyncClient, server: NatsServer, eventually: Any
) -> None:
    nobody = {"Authorization": "Bearer wrong"}
    for path in ("/livez", "/healthz", "/docs", "/docs/openapi.json"):
        assert (await api.get(path, headers=nobody, follow_redirects=True)).status_code == 200
    server.kill()

    async def unready() -> bool:
        return (await api.get("/readyz")).status_code == 503

    await eventually(unready)
    assert "NATS" in (await api.get("/readyz")).text
    told = await api.get("/readyz", headers=nobody)
    assert (told.status_code, "NATS" in told.text, "reasons" in told.json()) == (503, False, False)


async def test_reasons_hold_no_password(
    guarded: Settings, run_api: RunApi, file: Path, unused_port: int
) -> None:
    async with run_api(
        replace(guarded, nats_url=f"nats://qgjet:hunter2@127.0.0.1:{unused_port}")
    ) as api:
        for path in ("/readyz", "/healthz", "/agents", "/jobs/x"):
            answer = await api.get(path)
            assert (answer.status_code in (200, 503), "hunter2" in answer.text) == (True, False), (
                path
            )
        assert f"127.0.0.1:{unused_port}" in (await api.get("/readyz")).text


# -- orgs ----------------------------------------------------------------------------------------------------------------


class Two:
    """Jobs of two orgs, and a token for one of them."""

    def __init__(self, api: httpx.AsyncClient, token: str, own: Json, foreign: Json) -> None:
        self.api, self.headers, self.own, self.foreign = api, bearing(token), own, foreign

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.api.request(
            method, path, headers={**self.headers, **more.pop("headers", {})}, **more
        )


@pytest.fixture
async def two(api: httpx.AsyncClient, file: Path, agent: Any) -> Two:
    """Each org has a job `own.spec.js` in the suite `ci`, and one that failed and left a file."""
    found = []
    left = {
        "artifacts": [
            {"name": "output.log", "content_type": "text/plain", "size": 1, "sha256": "0" * 64}
        ]
    }
    seq = 0
    for org in ("acme", "globex"):
        suite = (
            await api.post(
                "/suites",
                json={
                    "org_id": org,
                    "app_version_id": "1",
                    "target": "emulator",
                    "tests": ["a.js"],
                    "suite_id": "ci",
                },
            )
        ).json()
        done = (await submit(api, org_id=org, test="done.js")).json()
        slot = {"org_id": org, "app_version_id": "1", "test_path": "done.js"}
        await agent.start(**slot)
        seq = await agent.end(Verdict.FAILED, outcome=left, **slot)
        found.append({"live": suite["jobs"][0]["job_id"], "done": done["job_id"], "org": org})
    await api.get("/jobs", params={"min_seq": seq})
    return Two(api, make_token(file, Scope.SUBMIT, orgs=("acme",)), found[0], found[1])


async def test_another_orgs_job_is_not_there(two: Two) -> None:
    """Every route by id answers as it does for an id that never was: status, body and headers."""
    routes = [
        *(
            ("GET", f"{path}")
            for path in (
                "/status/{id}",
                "/jobs/{id}",
                "/jobs/{id}/events",
                "/jobs/{id}/log",
                "/jobs/{id}/artifacts",
            )
        ),
        ("GET", "/jobs/{id}/artifacts/1/output.log"),
        ("HEAD", "/jobs/{id}/artifacts/1/output.log"),
        ("POST", "/jobs/{id}/cancel"),
        ("POST", "/jobs/{id}/rerun"),
    ]
    never = "00000000-0000-4000-8000-000000000000"
    for method, path in routes:
        for accept in (
            ({}, {"Accept": "text/event-stream"}) if path.endswith(("events", "log")) else ({},)
        ):
            foreign = await two.ask(method, path.format(id=two.foreign["done"]), headers=accept)
            unknown = await two.ask(method, path.format(id=never), headers=accept)
            assert (foreign.status_code, unknown.status_code) == (404, 404), path
            assert foreign.text.replace(two.foreign["done"], never) == unknown.text
            same = [
                {k: v for k, v in answer.headers.items() if k not in ("date", "qgjet-lag-seconds")}
                for answer in (foreign, unknown)
            ]
            assert same[0] == same[1], "but for what changes with the moment"
    for method, path in routes[:5]:
        assert (await two.ask(method, path.format(id=two.own["done"]))).status_code == 200
    assert (await two.api.get(f"/jobs/{two.foreign['live']}")).json()["status"] == "queued"


async def test_an_operator_of_one_org_steers_that_one_alone(
    two: Two, file: Path, agent: Any
) -> None:
    operator = Two(
        two.api, make_token(file, Scope.OPERATE, name="op", orgs=("acme",)), two.own, two.foreign
    )
    letters = {}
    for org in ("acme", "globex"):
        job = (await submit(two.api, org_id=org, test="dead.js", infra_retries=0)).json()
        slot = {"org_id": org, "app_version_id": "1", "test_path": "dead.js"}
        await agent.start(**slot)
        seq = await agent.end(Verdict.INFRA_ERROR, **slot)
        await two.api.get("/jobs", params={"min_seq": seq})
        letters[org] = job["job_id"]
    never = "00000000-0000-4000-8000-000000000000"
    for method, path, body in (
        ("GET", "/dead/{id}", None),
        ("POST", "/dead/{id}/redrive", {}),
        ("POST", "/dead/{id}/discard", {}),
        ("POST", "/jobs/{id}/priority", {"priority": 1}),
    ):
        foreign, unknown = [
            await operator.ask(method, path.format(id=one), json=body)
            for one in (letters["globex"], never)
        ]
        assert (foreign.status_code, foreign.text.replace(letters["globex"], never)) == (
            404,
            unknown.text,
        ), path
        assert (
            method == "GET"
            or (await two.ask(method, path.format(id=letters["acme"]), json=body)).status_code
            == 403
        ), "that takes the scope operate"
    assert [one["job_id"] for one in (await two.ask("GET", "/dead")).json()["dead_letters"]] == [
        letters["acme"]
    ]
    done = (await operator.ask("POST", "/dead/discard", json={"all": True})).json()
    assert [one["job_id"] for one in done["dead_letters"]] == [letters["acme"]]
    for path, body in (
        ("/queue/pause", {"org_id": "globex"}),
        ("/queue/resume", {"org_id": "globex"}),
        ("/queue/pause", {"target": "emulator"}),
        ("/agents/mac/drain", {}),
    ):
        refused = await operator.ask("POST", path, json=body)
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:qgjet:problem:org"), path
    for org in ("acme", "globex"):
        await two.api.post("/queue/pause", json={"org_id": org})
    assert (
        await operator.ask("POST", "/queue/pause", json={"org_id": "acme", "reason": "ours"})
    ).json()["by"] == "api:op"
    assert [one["name"] for one in (await two.ask("GET", "/queue/pauses")).json()["pauses"]] == [
        "acme"
    ]


async def test_lists_hold_nothing_of_other_orgs(
    two: Two, connection: Connection, eventually: Any
) -> None:
    running = AgentInfo(
        instance="i", name="m", host="h", pid=1, version="1", targets=(TargetSlots(target="emulator", slots=2),), slots=2, since=NOW,
        running=(two.own["live"], two.foreign["live"]), warm=("acme/1/emulator", "globex/1/emulator", "acme/x/1/emulator"),
    )  # fmt: skip
    await agent_registry.announce(connection, running)

    async def ask(path: str, **params: Any) -> Json:
        answer = await two.ask("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    own = {two.own["live"], two.own["done"]}
    assert {job["job_id"] for job in (await ask("/jobs"))["jobs"]} == own
    for filters in (
        {"status": "queued"},
        {"verdict": "failed"},
        {"suite_id": "ci"},
        {"target": "emulator"},
        {"app_version_id": "1"},
    ):
        assert {job["job_id"] for job in (await ask("/jobs", **filters))["jobs"]} <= own
    first = await ask("/jobs", limit=1)
    assert {
        job["job_id"] for job in (await ask("/jobs", limit=1, cursor=first["next_cursor"]))["jobs"]
    } <= own
    assert (await ask("/jobs", org_id="globex"))["jobs"] == []
    assert [suite["org_id"] for suite in (await ask("/suites"))["suites"]] == ["acme"]
    assert (await ask("/suites", org_id="globex"))["suites"] == []
    assert [one["org_id"] for one in (await ask("/partitions"))["partitions"]] == ["acme"]

    async def known() -> Any:  # the API knows agents for a second
        return (await ask("/agents"))["agents"]

    (seen,) = await eventually(known)
    assert (seen["running"], seen["warm"]) == ([two.own["live"]], ["acme/1/emulator"])
    assert len((await two.api.get("/jobs")).json()["jobs"]) == 4
    (all_of_it,) = (await two.api.get("/agents")).json()["agents"]
    assert len(all_of_it["running"]) == 2
    assert (await two.ask("GET", "/metrics")).status_code == 403


async def test_statistics_count_nothing_of_other_orgs(two: Two, agent: Any) -> None:
    for org in ("acme", "globex"):
        await submit(two.api, org_id=org, test="over.js", max_retries=0)
        slot = {"org_id": org, "app_version_id": "1", "test_path": "over.js"}
        await agent.start(**slot)
        await two.api.get("/jobs", params={"min_seq": await agent.end(Verdict.FAILED, **slot)})
    for path, name in (
        ("/stats/hours", "hours"),
        ("/tests", "tests"),
        ("/tests/history?test=over.js", "days"),
    ):
        (seen,) = (await two.ask("GET", path)).json()[name]
        assert seen["verdicts"] == {"failed": 1}, path
        assert "globex" not in str(seen)
        everything = (await two.api.get(path)).json()[name]
        assert sum(one["verdicts"]["failed"] for one in everything) == 2
        joined = f"{path}{'&' if '?' in path else '?'}org_id=globex"
        assert (await two.ask("GET", joined)).json()[name] == []
        assert len((await two.api.get(joined)).json()[name]) == 1


async def test_a_suite_of_the_same_id_is_ones_own(two: Two) -> None:
    for path in ("", "/report.json", "/junit.xml", "/ctrf.json", "/report.html"):
        answer = await two.ask("GET", f"/suites/ci{path}")
        assert answer.status_code == 200
        assert two.foreign["live"] not in answer.text
        assert (
            await two.ask("GET", f"/suites/ci{path}", params={"org_id": "globex"})
        ).status_code == 404
    assert (
        await two.ask("POST", "/suites/ci/cancel", params={"org_id": "globex"})
    ).status_code == 404
    assert (await two.ask("POST", "/suites/ci/cancel")).json()["cancelled"] == 1
    assert (await two.api.get(f"/jobs/{two.foreign['live']}")).json()["status"] == "queued"


async def test_events_of_other_orgs_are_not_sent(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEP_ALIVE_S", 0.3)

    async def heard(headers: dict[str, str], **params: Any) -> str:
        """All there is up to now: what comes before a silence."""
        text = ""
        async with (
            asyncio.timeout(patience(10)),
            two.api.stream(
                "GET", "/events", params={"after": 0, **params}, headers=headers
            ) as answer,
        ):
            async for piece in answer.aiter_text():
                if piece.startswith(":"):
                    return text
                text += piece
        raise AssertionError(text)

    assert two.foreign["live"] in await heard({}, org_id="globex")
    told = await heard(two.headers)
    assert two.own["live"] in told
    assert "globex" not in told
    assert two.foreign["live"] not in told
    for params in ({"org_id": "globex"}, {"job_id": two.foreign["done"]}):
        assert await heard(two.headers, **params) == "retry: 1000\n\n"
    assert "globex" not in await heard(two.headers, suite_id="ci")


async def test_a_body_that_names_another_org_is_refused_and_writes_nothing(two: Two) -> None:
    body = {"org_id": "globex", "app_version_id": "1", "target": "emulator", "test": "new.js"}
    before = len((await two.api.get("/jobs")).json()["jobs"])
    suite = {"org_id": "globex", "app_version_id": "1", "target": "emulator", "tests": ["new.js"]}
    mixed = {"jobs": [{**body, "org_id": "acme"}, body], "atomic": False}
    for path, data in (
        ("/submit", body),
        ("/jobs", {**body, "on_duplicate": "replace", "test": "a.js"}),
        ("/suites", suite),
        ("/suites", mixed),
    ):
        refused = await two.ask("POST", path, json=data, headers={"Idempotency-Key": "k"})
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:qgjet:problem:org")
    assert len((await two.api.get("/jobs")).json()["jobs"]) == before
    assert (await two.ask("POST", "/submit", json={**body, "org_id": ""})).status_code == 400


async def test_a_key_of_one_org_means_nothing_in_another(two: Two, file: Path) -> None:
    globex = make_token(file, Scope.SUBMIT, orgs=("globex",))
    jobs = [
        {"org_id": org, "app_version_id": "1", "target": "emulator", "test": "key.js"}
        for org in ("acme", "globex")
    ]
    ids = set()
    for job, token in zip(jobs, (two.headers, bearing(globex)), strict=True):
        for path, body in (("/submit", job), ("/suites", {"jobs": [job]})):
            answer = await two.api.post(
                path, json=body, headers={**token, "Idempotency-Key": "same"}
            )
            assert answer.status_code in (200, 202), answer.text
            ids.add(answer.json().get("job_id") or answer.json()["jobs"][0]["job_id"])
    assert len(ids) == 2


# -- limits, and tokens that end -----------------------------------------------------------------------------------------


async def test_a_token_that_asks_too_often_has_to_wait_and_others_do_not(
    guarded: Settings, run_api: RunApi, file: Path
) -> None:
    one, other = make_token(file), make_token(file)
    async with run_api(
        replace(guarded, api=replace(guarded.api, rate_limit=1, rate_burst=5))
    ) as api:
        answers = [await api.get("/partitions", headers=bearing(one)) for _ in range(9)]
        assert [answer.status_code for answer in answers[:5]] == [200] * 5
        refused = answers[-1]
        assert (refused.status_code, refused.headers["content-type"]) == (
            429,
            "application/problem+json",
        )
        assert refused.json()["type"] == "urn:qgjet:problem:too-many-requests"
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert (await api.get("/partitions", headers=bearing(other))).status_code == 200
        assert (await api.get("/livez", headers=bearing(one))).status_code == 200


async def test_guessing_is_slowed_down_and_harms_nobody_at_the_same_address(
    api: httpx.AsyncClient,
) -> None:
    statuses = [
        (await api.get("/jobs", headers=bearing("guess"))).status_code
        for _ in range(access.FAILURES + 5)
    ]
    assert statuses[: access.FAILURES] == [401] * access.FAILURES
    assert statuses[-1] == 429
    assert (await api.get("/jobs")).status_code == 200


async def test_a_stream_ends_with_its_token(api: httpx.AsyncClient, file: Path) -> None:
    token = make_token(file)
    async with (
        asyncio.timeout(patience(10)),
        api.stream("GET", "/events", headers=bearing(token)) as answer,
    ):
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"retry: 1000\n\n"
        token_file.change(
            file, lambda before: tokens.revoked(before, token.split("_")[1], utc_now())
        )
        await submit(api)  # wakes the stream; without that it looks every 15 s
        assert b"".join([piece async for piece in pieces]) in (b"", b": still here\n\n")


async def test_what_was_open_to_all_ends_with_the_first_token(
    guarded: Settings, run_api: RunApi, file: Path
) -> None:
    async with (
        run_api(guarded) as api,
        asyncio.timeout(patience(10)),
        api.stream("GET", "/events") as answer,
    ):
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"retry: 1000\n\n"
        await submit(api, make_token(file, Scope.SUBMIT))
        assert b"".join([piece async for piece in pieces]) in (b"", b": still here\n\n")


# -- where no token is asked for -----------------------------------------------------------------------------------------


async def test_on_loopback_it_is_open_until_there_is_a_token_and_then_never_again(
    guarded: Settings, run_api: RunApi, file: Path
) -> None:
    async with run_api(guarded) as api:
        assert (await api.get("/jobs")).status_code == 200
        token = make_token(file)
        assert (await api.get("/jobs")).status_code == 401
        assert (await api.get("/jobs", headers=bearing(token))).status_code == 200
        file.unlink()
        assert (await api.get("/jobs")).status_code == 401
        assert (await api.get("/jobs", headers=bearing(token))).status_code == 401


@pytest.mark.parametrize(
    ("host", "auth"),
    [
        ("0.0.0.0", True),
        ("::", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("build.example", True),
        ("", True),
    ],
)
async def test_where_others_could_reach_it_a_server_without_tokens_does_not_start(
    guarded: Settings, host: str, auth: bool
) -> None:
    with pytest.raises(InvalidSettings, match=r"qgjet token create|--no-auth"):
        await serve(replace(guarded, api=replace(guarded.api, host=host, auth=auth)), ready=print)


async def test_without_authentication_pages_of_other_sites_are_kept_out(
    guarded: Settings, run_api: RunApi
) -> None:
    """What a page in somebody's browser may send to loopback without asking: requests with its
    Origin, or to a name of its own that means 127.0.0.1.
    """
    open_to_all = replace(
        guarded, api=replace(guarded.api, auth=False, cors_origins=("https://ci.example",))
    )
    async with run_api(open_to_all) as api:
        host = str(api.base_url).removeprefix("http://")
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://["},
            {"Host": "evil.example"},
            {"Host": f"evil.example:{api.base_url.port}"},
        ):
            refused = await api.post("/suites/x/cancel", headers=headers)
            assert (refused.status_code, refused.json()["type"]) == (
                403,
                "urn:qgjet:problem:page",
            ), headers
            assert (await api.get("/livez", headers=headers)).status_code == 200
        for headers in (
            {},
            {"Origin": f"http://{host}"},
            {"Origin": "https://ci.example"},
            {"Host": f"localhost:{api.base_url.port}"},
            {"Host": "[::1]"},
        ):
            assert (await api.post("/suites/x/cancel", headers=headers)).status_code == 404, headers


# -- headers, CORS and bodies --------------------------------------------------------------------------------------------


async def test_every_response_has_security_headers(two: Two) -> None:
    paths = (
        "/jobs",
        "/jobs/x",
        "/nothing",
        "/livez",
        "/metrics",
        "/suites/ci/junit.xml",
        f"/jobs/{two.own['live']}/log",
    )
    answers = [await two.api.get(path) for path in paths] + [
        await two.api.delete("/jobs"),
        await two.api.get("/jobs", headers={"Authorization": ""}),
    ]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert (
            answer.headers["content-security-policy"]
            == "default-src 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["cache-control"].startswith("no-store")
        assert (
            not {"server", "strict-transport-security", "access-control-allow-origin"}
            & answer.headers.keys()
        )
    page = await two.api.get("/suites/ci/report.html")
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith(
        "default-src 'none'; style-src 'unsafe-inline'"
    )
    file = await two.api.head(f"/jobs/{two.own['done']}/artifacts/1/output.log")
    assert (
        file.status_code == 410
    )  # the test's agent has stored nothing; headers of files: test_artifacts.py
    assert (await two.api.options("/jobs", headers={"Authorization": ""})).status_code == 204


async def test_over_tls_browsers_are_told_to_stay_there(api: httpx.AsyncClient) -> None:
    """Of a proxy on this host the scheme is believed."""
    answer = await api.get("/livez", headers={"X-Forwarded-Proto": "https"})
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_pages_of_other_sites_may_ask_only_where_they_are_named(
    api: httpx.AsyncClient, guarded: Settings, run_api: RunApi, tmp_path: Path
) -> None:
    preflight = {
        "Origin": "https://ci.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    assert (
        "access-control-allow-origin"
        not in (await api.options("/submit", headers=preflight)).headers
    )
    named = replace(
        guarded,
        api=replace(
            guarded.api,
            cors_origins=("https://ci.example",),
            database=str(tmp_path / "other.sqlite"),
        ),
    )
    async with run_api(named) as other:
        allowed = await other.options("/submit", headers=preflight)
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == "https://ci.example"
        assert "access-control-allow-credentials" not in allowed.headers
        assert (
            await other.options("/submit", headers={**preflight, "Origin": "https://evil.example"})
        ).status_code == 400
        read = await other.get("/livez", headers={"Origin": "https://evil.example"})
        assert read.headers.get("access-control-allow-origin") != "https://evil.example"


@pytest.mark.parametrize("chunked", [False, True])
async def test_no_route_takes_a_large_body(api: httpx.AsyncClient, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"reason": "'
        for _ in range(20):
            yield b"x" * 64 * 1024

    job_id = (await submit(api)).json()["job_id"]
    await api.post(
        "/suites",
        json={
            "org_id": "acme",
            "app_version_id": "1",
            "target": "emulator",
            "tests": ["b.js"],
            "suite_id": "s",
        },
    )
    ids = {"{job_id:str}": job_id, "{suite_id:str}": "s", "{agent:str}": "a"}
    posts = {
        re.sub(r"{.*?}", lambda match: ids[match[0]], path)
        for path, method, _ in handlers()
        if method == "POST" and path != "/ui/logout"
    }  # reads none
    assert len(posts) >= 15
    for path in posts:
        body = pieces() if chunked else b"".join([piece async for piece in pieces()])
        answer = await api.post(path, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.headers["content-type"]) == (
            413,
            "text/html; charset=utf-8" if path.startswith("/ui/") else "application/problem+json",
        ), path


async def test_the_documentation_runs_one_script_of_ours_and_one_from_the_cdn_with_its_hash(
    api: httpx.AsyncClient,
) -> None:
    page = await api.get("/docs", follow_redirects=True)
    policy = page.headers["content-security-policy"]
    (own,) = re.findall(r"<script>(.*?)</script>", page.text, re.S)
    assert (
        f"script-src '{source_hash(own)}' https://cdn.jsdelivr.net/npm/swagger-ui-dist@" in policy
    )
    assert policy.startswith("default-src 'none'")
    assert re.findall(r"<script [^>]*>", page.text) == [
        tag for tag in re.findall(r"<script [^>]*>", page.text) if ' integrity="sha384-' in tag
    ]
    assert " on" not in re.sub(
        r">[^<]*<", "><", page.text.split("<div id")[1].split("<script>")[0]
    )  # no handler in an attribute
