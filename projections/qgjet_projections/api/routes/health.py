"""Routes for probes and for Prometheus."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import HttpMethod, Request, Response, get, route
from litestar.openapi.datastructures import ResponseSpec

from qgjet.domain.subjects import STREAM
from qgjet.errors import QgjetError
from qgjet.store import streams
from qgjet_projections.api import metrics
from qgjet_projections.api.access import PUBLIC, READ_EVERY_ORG, UNPROTECTED
from qgjet_projections.api.answers import Health
from qgjet_projections.api.problems import Problem, documented, documented_public, problem
from qgjet_projections.api.reads import TheService
from qgjet_projections.service import UNHEALTHY_AFTER_S, Service

PROBE_S = 1.0
PROBE_METHODS = [HttpMethod.GET, HttpMethod.HEAD]
"""HEAD is what `wget --spider` sends, the probe of many containers."""


@route(
    "/livez",
    http_method=PROBE_METHODS,
    status_code=200,
    summary="Is the process alive?",
    opt=PUBLIC,
    security=UNPROTECTED,
    tags=["health"],
)
async def livez() -> Health:
    return Health("ok")


@route(
    "/healthz",
    http_method=PROBE_METHODS,
    status_code=200,
    summary="Does it serve?",
    description="503 when the projection has stopped or NATS has been out of reach for 5 s.",
    responses={
        200: ResponseSpec(Health, generate_examples=False, description="It does"),
        **documented_public(503),
    },
    opt=PUBLIC,
    security=UNPROTECTED,
    tags=["health"],
)
async def healthz(
    request: Request[Any, Any, Any], service: TheService
) -> Response[Health] | Response[Problem]:
    found = service.ailments(patience_s=UNHEALTHY_AFTER_S)
    return _unwell(request, found) if found else Response(Health("ok"))


@route(
    "/readyz",
    http_method=PROBE_METHODS,
    status_code=200,
    summary="Should it get traffic?",
    description="503 with `reasons` unless NATS is connected, the log is there and has room, and the read model is not far behind (`api.max_lag_events`). "
    "`warnings` says what will become a problem, such as partition queues near the limit of the stream.",
    responses={
        200: ResponseSpec(Health, generate_examples=False, description="It should"),
        **documented_public(503),
    },
    opt=PUBLIC,
    security=UNPROTECTED,
    tags=["health"],
)
async def readyz(
    request: Request[Any, Any, Any], service: TheService
) -> Response[Health] | Response[Problem]:
    found = service.ailments() or await _missing(service) or _behind(service)
    return (
        _unwell(request, found)
        if found
        else Response(Health("ok", _nearly_full(service) if request.auth.known else ()))
    )


async def _missing(service: Service) -> list[str]:
    try:
        async with asyncio.timeout(PROBE_S):
            config = await streams.stream_config(service.log.connection, STREAM)
            full = "" if config is None else await streams.why_full(service.log.connection)
    except (QgjetError, TimeoutError) as error:
        return [f"NATS does not answer: {error or 'no reply in time'}"]
    if config is None:
        return [f"the stream {STREAM} is missing"]
    return [full] if full else []


def _behind(service: Service) -> list[str]:
    lag = service.lag
    if lag is None:
        return ["the read model has not seen the log yet"]
    limit = service.settings.api.max_lag_events
    return (
        [f"the read model is {lag.events} events behind, more than {limit}"]
        if lag.events > limit
        else []
    )


def _nearly_full(service: Service) -> tuple[str, ...]:
    """Partition queues and readers that use up the stream's consumers: at the limit, jobs of other
    partitions wait until some have finished.
    """
    state = service.projector.log_state if service.projector is not None else None
    if state is None or not state.is_crowded:
        return ()
    return (
        f"{state.consumers} of {state.max_consumers} consumers of {STREAM} are in use: at the limit, jobs of new app versions wait for others to finish",
    )


def _unwell(request: Request[Any, Any, Any], reasons: list[str]) -> Response[Problem]:
    """Reasons name servers and streams: they are for those who have a token."""
    if not request.auth.known:
        return problem(
            request, 503, "not ready; the reasons are told to those who send a token", "unavailable"
        )
    return problem(request, 503, "; ".join(reasons), "unavailable", reasons=tuple(reasons))


@get(
    "/metrics",
    summary="Metrics for Prometheus",
    media_type=metrics.CONTENT_TYPE,
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            description="Prometheus text format",
            media_type="text/plain",
        ),
        **documented(),
    },
    opt=READ_EVERY_ORG,
    tags=["health"],
)
async def prometheus(service: TheService) -> Response[bytes]:
    agents = await service.agents_if_known()
    return Response(await metrics.render(service, agents), media_type=metrics.CONTENT_TYPE)
