"""How often and how soon a job is tried again. Pure: the randomness is passed in."""

from __future__ import annotations

from msgspec import Struct

from qgjet.domain.events import Verdict

MAX_RETRIES = 10
SPENDS_USER_RETRY = frozenset({Verdict.FAILED, Verdict.TIMED_OUT})
SPENDS_INFRA_RETRY = frozenset({Verdict.INFRA_ERROR})


class Backoff(Struct, frozen=True, kw_only=True):
    """Exponential delay with jitter, in seconds."""

    base_s: float = 1.0
    cap_s: float = 60.0

    def delay_s(self, failures: int, jitter: float) -> float:
        """Wait before the next try after `failures` (from 1) bad ones.

        `jitter` in [0, 1) spreads the delay over the upper half of the step, so that jobs which
        failed together do not come back together.
        """
        step = min(self.cap_s, self.base_s * 2.0 ** min(max(failures, 1) - 1, 30))
        return step * (0.5 + jitter / 2)
