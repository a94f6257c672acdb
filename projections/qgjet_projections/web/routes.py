"""All routes of the dashboard, with errors as pages."""

from __future__ import annotations

from litestar import Router
from litestar_htmx import HTMXRequest

from qgjet_projections.web import actions, assets, dead, jobs, live, overview, session, suites, tests
from qgjet_projections.web.errors import PAGE_HANDLERS


def dashboard() -> Router:
    return Router(
        "/",
        route_handlers=[
            assets.asset,
            overview.overview,
            live.live,
            jobs.jobs,
            jobs.job,
            suites.suites,
            suites.suite,
            tests.tests,
            tests.history,
            dead.dead,
            actions.pause,
            actions.resume,
            actions.drain,
            actions.cancel,
            actions.rerun,
            actions.priority,
            actions.cancel_suite,
            actions.rerun_suite,
            actions.redrive,
            actions.discard,
            actions.redrive_all,
            actions.discard_all,
            session.login,
            session.sign_in,
            session.sign_out,
        ],
        exception_handlers=PAGE_HANDLERS,
        request_class=HTMXRequest,
    )
