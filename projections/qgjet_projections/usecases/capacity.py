"""How many partitions an org may have in the queue at a time: each has a consumer of its own, and
those of all orgs share the stream's limit.
"""

from __future__ import annotations

from collections.abc import Iterable

from qgjet.domain.events import JobSpec, Partition
from qgjet_projections.service import Service
from qgjet_projections.usecases.errors import TooManyRequests

RETRY_AFTER_S = 30


def check_partitions(service: Service, specs: Iterable[JobSpec]) -> None:
    """Raises TooManyRequests if the jobs would give their org more active partitions than
    `api.max_partitions_per_org`.

    By this replica's read model: submissions at the same moment may exceed the limit by what they
    bring. Partitions that are active already add none.
    """
    limit = service.settings.api.max_partitions_per_org
    wanted: dict[str, set[Partition]] = {}
    for spec in specs:
        wanted.setdefault(spec.org_id, set()).add(spec.partition)
    for org_id, partitions in wanted.items() if limit else ():
        new = {one for one in partitions if not service.read_model.is_active(one)}
        if (
            new
            and (used := len(service.read_model.active_partitions(org_id, limit))) + len(new)
            > limit
        ):
            raise TooManyRequests(
                f"org {org_id} has {used} active partitions (app version and target), and {len(new)} more would exceed the limit of {limit}: "
                "wait until jobs of other app versions have finished, or raise api.max_partitions_per_org",
                retry_after_s=RETRY_AFTER_S,
            )
