"""What the pages' forms do: the commands of the API, and back to the page with a line that says
what was done.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from litestar import post
from litestar.enums import RequestEncodingType
from litestar.params import Body, FromPath
from litestar.response import Redirect

from qgjet.errors import InvalidInput, QgjetError
from qgjet_projections.api.access import OPERATE, SUBMIT, TheCaller
from qgjet_projections.api.reads import Reads, TheService
from qgjet_projections.api.routes.queue import LONGEST_PAUSE_S
from qgjet_projections.usecases import commands, decisions
from qgjet_projections.web.page import AnyRequest, done, query, segment
from qgjet_projections.web.pages.dead import FILTERS, query_of

Form = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]
_POST: dict[str, Any] = {"status_code": 303, "include_in_schema": False}


def _back(form: dict[str, str], otherwise: str) -> str:
    return form.get("back") or otherwise


@post("/ui/queue/pause", opt=OPERATE, **_POST)
async def pause(
    request: AnyRequest, service: TheService, caller: TheCaller, data: Form
) -> Redirect:
    scope = decisions.scope_of(data.get("target", ""), data.get("org_id", ""))
    until = _until(service.clock(), data)
    await decisions.pause(service, caller, scope, until=until, reason=data.get("reason", ""))
    return done(request, f"Paused {scope.kind} {scope.name}.", _back(data, "/"))


def _until(now: datetime, form: dict[str, str]) -> datetime | None:
    seconds, at = form.get("for_s", ""), form.get("until", "")
    if seconds and at:
        raise InvalidInput("until", "say how long, or until when, not both")
    if at:
        try:
            until = datetime.fromisoformat(at)
        except ValueError:
            raise InvalidInput("until", f"{at} is not a time such as 2026-01-31T18:00") from None
        return (
            until if until.tzinfo else until.replace(tzinfo=UTC)
        )  # without scripts nobody knows the reader's zone: the form says UTC
    if seconds and not (
        seconds.isascii() and seconds.isdecimal() and 0 < int(seconds) <= LONGEST_PAUSE_S
    ):
        raise InvalidInput("for_s", "must be a number of seconds, a year at most")
    return now + timedelta(seconds=int(seconds)) if seconds else None


@post("/ui/queue/resume", opt=OPERATE, **_POST)
async def resume(
    request: AnyRequest, service: TheService, caller: TheCaller, data: Form
) -> Redirect:
    scope = decisions.scope_of(data.get("target", ""), data.get("org_id", ""))
    await decisions.resume(service, caller, scope, reason=data.get("reason", ""))
    return done(request, f"Resumed {scope.kind} {scope.name}.", _back(data, "/"))


@post("/ui/agents/drain", opt=OPERATE, **_POST)
async def drain(
    request: AnyRequest, service: TheService, caller: TheCaller, data: Form
) -> Redirect:
    await decisions.drain(service, caller, data.get("agent", ""), reason=data.get("reason", ""))
    return done(request, f"Asked {data.get('agent', '')} to drain.", _back(data, "/"))


@post("/ui/jobs/{job_id:str}/cancel", opt=SUBMIT, **_POST)
async def cancel(
    request: AnyRequest, service: TheService, caller: TheCaller, job_id: FromPath[str], data: Form
) -> Redirect:
    answer = await commands.cancel(service, caller, job_id, data.get("reason", ""))
    said = (
        "The job is cancelled."
        if answer.status == "cancelled"
        else "Its agent was asked to stop the job."
    )
    await decisions.shown(service, answer.seq)
    return done(request, said, _back(data, f"/ui/jobs/{segment(job_id)}"))


@post("/ui/jobs/{job_id:str}/rerun", opt=SUBMIT, **_POST)
async def rerun(
    request: AnyRequest, service: TheService, caller: TheCaller, job_id: FromPath[str], data: Form
) -> Redirect:
    answer = await commands.rerun(service, caller, job_id, priority=None, suite_id="")
    await decisions.shown(service, answer.seq)
    return done(request, "This is the new job.", f"/ui/jobs/{segment(answer.job_id)}")


@post("/ui/jobs/{job_id:str}/priority", opt=OPERATE, **_POST)
async def priority(
    request: AnyRequest, service: TheService, caller: TheCaller, job_id: FromPath[str], data: Form
) -> Redirect:
    text = data.get("priority", "")
    before, _ = await decisions.reprioritize(
        service,
        caller,
        job_id,
        int(text) if text.isascii() and text.isdecimal() and len(text) == 1 else -1,
    )
    return done(
        request,
        f"Its priority is {text} now; it was {before.priority}.",
        _back(data, f"/ui/jobs/{segment(job_id)}"),
    )


@post("/ui/suites/{suite_id:str}/cancel", opt=SUBMIT, **_POST)
async def cancel_suite(
    request: AnyRequest,
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    suite_id: FromPath[str],
    data: Form,
) -> Redirect:
    found = await commands.known_suite(service, reads, suite_id, data.get("org_id") or None)
    ended = await commands.cancel_suite(service, caller, found, data.get("reason", ""))
    await decisions.shown(service, max((one.seq for one in ended), default=0))
    kept = sum(not one.cancel_requested for one in ended)
    others = f" {kept} go on: others wait for them." if kept else ""
    return done(
        request,
        f"Cancelled {len(ended) - kept} jobs.{others}",
        _back(data, f"/ui/suites/{segment(suite_id)}"),
    )


@post("/ui/suites/{suite_id:str}/rerun", opt=SUBMIT, **_POST)
async def rerun_suite(
    request: AnyRequest,
    service: TheService,
    caller: TheCaller,
    reads: Reads,
    suite_id: FromPath[str],
    data: Form,
) -> Redirect:
    found = await commands.known_suite(service, reads, suite_id, data.get("org_id") or None)
    new_id, results = await commands.rerun_suite(
        service, caller, found, only_failed=not data.get("everything"), suite_id=""
    )
    refused = [answer for _, answer in results if isinstance(answer, QgjetError)]
    if len(refused) == len(results):
        raise refused[0]
    await decisions.shown(
        service, max(answer.seq for _, answer in results if not isinstance(answer, QgjetError))
    )
    return done(
        request,
        f"This is the new suite, of {len(results)} jobs.",
        f"/ui/suites/{segment(new_id)}{query({'org_id': found.org_id})}",
    )


@post("/ui/dead/{job_id:str}/redrive", opt=OPERATE, **_POST)
async def redrive(
    request: AnyRequest, service: TheService, caller: TheCaller, job_id: FromPath[str], data: Form
) -> Redirect:
    settled = await decisions.redrive(service, caller, job_id)
    return done(request, f"Redriven as job {settled.new_job_id}.", _back(data, "/ui/dead"))


@post("/ui/dead/{job_id:str}/discard", opt=OPERATE, **_POST)
async def discard(
    request: AnyRequest, service: TheService, caller: TheCaller, job_id: FromPath[str], data: Form
) -> Redirect:
    await decisions.discard(service, caller, job_id, data.get("reason", ""))
    return done(request, "Discarded.", _back(data, "/ui/dead"))


@post("/ui/dead/redrive", opt=OPERATE, **_POST)
async def redrive_all(
    request: AnyRequest, service: TheService, caller: TheCaller, data: Form
) -> Redirect:
    settled, left = await decisions.redrive_all(
        service, caller, query_of({name: data[name] for name in FILTERS if data.get(name)})
    )
    return done(request, _counted("Redriven", settled, left), "/ui/dead")


@post("/ui/dead/discard", opt=OPERATE, **_POST)
async def discard_all(
    request: AnyRequest, service: TheService, caller: TheCaller, data: Form
) -> Redirect:
    wanted = query_of({name: data[name] for name in FILTERS if data.get(name)})
    settled, left = await decisions.discard_all(service, caller, wanted, data.get("because", ""))
    return done(request, _counted("Discarded", settled, left), "/ui/dead")


def _counted(what: str, settled: list[decisions.Settled], left: int) -> str:
    refused = [one.error for one in settled if one.error is not None]
    more = f" {len(refused)} not: {refused[0]}." if refused else ""
    return f"{what}: {len(settled) - len(refused)}.{more}" + (f" {left} are left." if left else "")
