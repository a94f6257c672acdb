"""The Litestar application over a `Service`."""

from __future__ import annotations

import contextlib
import signal
import threading
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Any

from litestar import Litestar, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.types import ControllerRouterHandler, Method
from litestar.types.internal_types import PathParameterDefinition

from qgjet.config.settings import ApiSettings, Settings
from qgjet_projections.api.access import Access, access_of, admit, close_streams
from qgjet_projections.api.bodies import MAX_BODY_BYTES, JsonRequest
from qgjet_projections.api.headers import protect
from qgjet_projections.api.problems import HANDLERS
from qgjet_projections.api.reads import APPLIED_SEQ, LAG, PROVIDERS, mark_lag
from qgjet_projections.api.routes import (
    artifacts,
    dead,
    events,
    health,
    jobs,
    logs,
    queue,
    statistics,
    submissions,
    suite_reports,
    suites,
)
from qgjet_projections.api.routes.docs import openapi_config
from qgjet_projections.service import Service, open_service
from qgjet_projections.web.page import template_config
from qgjet_projections.web.routes import dashboard

API: dict[str, ControllerRouterHandler] = {
    "submitJob": submissions.submit,
    "submitSuite": submissions.submit_suite,
    "rerunSuite": submissions.rerun_suite,
    "listJobs": jobs.jobs,
    "getJob": jobs.job,
    "getLog": logs.log,
    "listArtifacts": artifacts.artifacts,
    "getArtifact": artifacts.artifact,
    "cancelJob": jobs.cancel,
    "rerunJob": jobs.rerun,
    "listSuites": suites.suites,
    "getSuite": suites.suite,
    "cancelSuite": suites.cancel_suite,
    "getSuiteJunit": suite_reports.junit_xml,
    "getSuiteCtrf": suite_reports.ctrf_json,
    "getSuiteReport": suite_reports.report_json,
    "getSuiteReportPage": suite_reports.report_html,
    "listPartitions": suites.partitions,
    "listAgents": suites.agents,
    "listHours": statistics.hours,
    "listTests": statistics.list_tests,
    "getTestHistory": statistics.history_of_test,
    "listDeadLetters": dead.dead_letters,
    "getDeadLetter": dead.dead_letter,
    "redriveDeadLetter": dead.redrive,
    "discardDeadLetter": dead.discard,
    "redriveDeadLetters": dead.redrive_all,
    "discardDeadLetters": dead.discard_all,
    "listPauses": queue.pauses,
    "pauseQueue": queue.pause,
    "resumeQueue": queue.resume,
    "drainAgent": queue.drain,
    "setPriority": queue.priority,
    "streamEvents": events.events,
    "streamJobEvents": events.job_events,
}
"""By operation id. Below `/v1`, and below `/` for clients of version 0.1."""
OTHERS: dict[str, ControllerRouterHandler] = {
    "submitJobUnversioned": submissions.submit_unversioned,
    "getStatus": jobs.status,
    "getJobStatus": jobs.job_status,
    "livez": health.livez,
    "healthz": health.healthz,
    "readyz": health.readyz,
    "metrics": health.prometheus,
}
"""Without a version: what other programs call by these very paths, and probes."""
ROUTES = [*API.values(), *OTHERS.values()]


def operation_id(
    handler: HTTPRouteHandler, method: Method, _: list[str | PathParameterDefinition]
) -> str:
    """Of a handler by one of its methods. A HEAD has the name of its GET behind it."""
    name = next(
        name
        for name, one in (API | OTHERS).items()
        if isinstance(one, HTTPRouteHandler) and one.fn is handler.fn
    )
    return name if method != "HEAD" else f"head{name[0].upper()}{name[1:]}"


def create_app(settings: Settings) -> Litestar:
    """An application that opens its service when it starts and closes it when it ends, for any ASGI
    server.

    Nobody knows where that listens: raises InvalidSettings unless there is a token, or `api.auth`
    is off.
    """
    access = access_of(settings.api, everywhere=True)

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Service]:
        async with open_service(settings) as service:
            with _closing_on_signals(service):
                yield service

    return app_over(opened, access, settings.api)


def app_over(
    opened: Callable[[], AbstractAsyncContextManager[Service]], access: Access, api: ApiSettings
) -> Litestar:
    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with opened() as service:
            app.state.service = service
            yield

    return Litestar(
        [
            Router("/v1", route_handlers=list(API.values())),
            Router("/", route_handlers=list(API.values()), include_in_schema=False),
            *OTHERS.values(),
            dashboard(),
        ],
        lifespan=[lifespan],
        state=State({"access": access}),
        guards=[admit],
        middleware=[close_streams],
        before_send=[protect, mark_lag],
        cors_config=_cors(api),
        dependencies=PROVIDERS,
        exception_handlers=HANDLERS,
        request_class=JsonRequest,
        request_max_body_size=MAX_BODY_BYTES,
        template_config=template_config(),
        openapi_config=openapi_config(operation_id),
        logging_config=None,
    )


def _cors(api: ApiSettings) -> CORSConfig | None:
    """None: a browser lets pages of no other site read what is answered."""
    if not api.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(api.cors_origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "If-None-Match",
            "Last-Event-ID",
            "Range",
        ],
        expose_headers=[
            "Content-Disposition",
            "ETag",
            "Idempotency-Replayed",
            "Location",
            APPLIED_SEQ,
            LAG,
            "Retry-After",
        ],
        max_age=600,
    )


@contextlib.contextmanager
def _closing_on_signals(service: Service) -> Iterator[None]:
    """Tell the streams that the process is about to end.

    An ASGI server says so only after the last response is complete, which a stream never is by
    itself; so the signal is heard on its way to the server.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = get_running_loop()
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def close(number: int, frame: FrameType | None) -> Any:
        loop.call_soon_threadsafe(service.closing.set)
        then = heard[signal.Signals(number)]
        return then(number, frame) if callable(then) else None

    own = {number: handler for number, handler in heard.items() if callable(handler)}
    for number in own:
        signal.signal(number, close)
    try:
        yield
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)
