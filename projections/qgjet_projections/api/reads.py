"""The parameters that reads have in common."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request
from litestar.datastructures import MutableScopeHeaders, State
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter
from litestar.types import Message, Scope

from qgjet_projections.api.access import Caller, TheCaller
from qgjet_projections.readmodel import ReadModel
from qgjet_projections.service import Service
from qgjet_projections.usecases.errors import ReadModelBehind

MIN_SEQ_WAIT_S = 2.0
APPLIED_SEQ, LAG = "Qgjet-Applied-Seq", "Qgjet-Lag-Seconds"
"""Headers: the read model holds the log up to this sequence, and held all of it for certain so many
seconds ago.
"""

TheService = NamedDependency[Service]
Reads = NamedDependency[ReadModel]
MinSeq = Annotated[
    int | None,
    QueryParameter(
        ge=0,
        description="Answer only when the read model has got this far: the `seq` that a submission answered with. Waits 2 s, then 503.",
    ),
]
Limit = Annotated[int, QueryParameter(ge=1, le=500, description="Most items of one page.")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before.")]
OrgId = Annotated[str | None, QueryParameter(description="Of this org only.")]


def give_service(state: State) -> Service:
    service: Service = state.service
    return service


def give_caller(request: Request[Any, Any, Any]) -> Caller:
    """Whom `admit` has let in."""
    caller: Caller = request.auth
    return caller


async def fresh(service: TheService, caller: TheCaller, min_seq: MinSeq = None) -> ReadModel:
    """What the caller may see of the read model, once it holds the log up to `min_seq`. Raises
    ReadModelBehind.
    """
    if min_seq is not None and not await service.applied(min_seq, MIN_SEQ_WAIT_S):
        raise ReadModelBehind(
            f"the read model has applied {service.applied_seq} events, not yet {min_seq}; try again"
        )
    return service.read_model.seen_by(caller.orgs)


async def mark_lag(message: Message, scope: Scope) -> None:
    """Mark every answer to a read with how old it may be. Litestar calls it with every message of
    every response.
    """
    if message["type"] != "http.response.start" or scope.get("method") not in ("GET", "HEAD"):
        return
    caller = scope.get("auth")
    if isinstance(caller, Caller) and caller.known:
        service: Service = scope["litestar_app"].state.service
        headers = MutableScopeHeaders.from_message(message)
        headers.setdefault(APPLIED_SEQ, str(service.applied_seq))
        headers.setdefault(LAG, "unknown" if service.lag_s is None else f"{service.lag_s:.1f}")


PROVIDERS = {
    "service": Provide(give_service, sync_to_thread=False),
    "caller": Provide(give_caller, sync_to_thread=False),
    "reads": Provide(fresh),
}
