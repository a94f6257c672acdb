"""All routes of the dashboard, with errors as pages."""

from __future__ import annotations

from litestar import Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect
from litestar_htmx import HTMXRequest

from qgjet_projections.api.access import READ
from qgjet_projections.web import actions, assets, live, session
from qgjet_projections.web.errors import PAGE_HANDLERS
from qgjet_projections.web.pages import dead, jobs, overview, suites, tests


@get("/ui", opt=READ, include_in_schema=False, sync_to_thread=False)
def beginning() -> Redirect:
    """What is left of any address of a page is one, too."""
    return Redirect("/")


@get("/ui/{rest:path}", opt=READ, include_in_schema=False, sync_to_thread=False)
def nothing(rest: FromPath[str]) -> None:
    """Whoever asks for a page that there is not gets a page that says so."""
    raise NotFoundException


def dashboard() -> Router:
    return Router(
        "/",
        route_handlers=[
            beginning,
            nothing,
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
