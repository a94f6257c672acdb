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

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.types import ControllerRouterHandler

from qgjet.config.settings import ApiSettings, Settings
from qgjet_projections.api.access import Access, access_of, admit, close_streams
from qgjet_projections.api.bodies import MAX_BODY_BYTES, JsonRequest
from qgjet_projections.api.headers import protect
from qgjet_projections.api.problems import HANDLERS
from qgjet_projections.api.reads import APPLIED_SEQ, LAG, PROVIDERS, mark_lag
from qgjet_projections.api.routes import artifacts, dead, events, health, jobs, logs, queue, statistics, submissions, suite_reports, suites
from qgjet_projections.api.routes.docs import openapi_config
from qgjet_projections.service import Service, open_service
from qgjet_projections.web.page import template_config
from qgjet_projections.web.routes import dashboard

ROUTES: list[ControllerRouterHandler] = [
    submissions.submit,
    submissions.submit_suite,
    submissions.rerun_suite,
    jobs.status,
    jobs.jobs,
    jobs.job,
    logs.log,
    artifacts.artifacts,
    artifacts.artifact,
    jobs.cancel,
    jobs.rerun,
    suites.suites,
    suites.suite,
    suites.cancel_suite,
    suite_reports.junit_xml,
    suite_reports.ctrf_json,
    suite_reports.report_json,
    suite_reports.report_html,
    suites.partitions,
    suites.agents,
    statistics.hours,
    statistics.list_tests,
    statistics.history_of_test,
    dead.dead_letters,
    dead.dead_letter,
    dead.redrive,
    dead.discard,
    dead.redrive_all,
    dead.discard_all,
    queue.pauses,
    queue.pause,
    queue.resume,
    queue.drain,
    queue.priority,
    events.events,
    events.job_events,
    health.livez,
    health.healthz,
    health.readyz,
    health.prometheus,
]


def create_app(settings: Settings) -> Litestar:
    """An application that opens its service when it starts and closes it when it ends, for any ASGI server.

    Nobody knows where that listens: raises InvalidSettings unless there is a token, or `api.auth` is off.
    """
    access = access_of(settings.api, everywhere=True)

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Service]:
        async with open_service(settings) as service:
            with _closing_on_signals(service):
                yield service

    return app_over(opened, access, settings.api)


def app_over(opened: Callable[[], AbstractAsyncContextManager[Service]], access: Access, api: ApiSettings) -> Litestar:
    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with opened() as service:
            app.state.service = service
            yield

    return Litestar(
        [*ROUTES, dashboard()],
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
        openapi_config=openapi_config(),
        logging_config=None,
    )


def _cors(api: ApiSettings) -> CORSConfig | None:
    """None: a browser lets pages of no other site read what is answered."""
    if not api.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(api.cors_origins),
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Range"],
        expose_headers=["Content-Disposition", "ETag", "Idempotency-Replayed", "Location", APPLIED_SEQ, LAG, "Retry-After"],
        max_age=600,
    )


@contextlib.contextmanager
def _closing_on_signals(service: Service) -> Iterator[None]:
    """Tell the streams that the process is about to end.

    An ASGI server says so only after the last response is complete, which a stream never is by itself; so the signal is heard on its way to the server.
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
