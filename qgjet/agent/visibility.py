"""The visibility timeout that an agent goes by. It is agreed with everyone on the server, and may
change while the agent runs.
"""

from __future__ import annotations

import logging

from qgjet.config.settings import QueueSettings
from qgjet.domain.subjects import STREAM
from qgjet.errors import IncompatibleServer
from qgjet.jetstream.connection import Connection
from qgjet.store import streams
from qgjet.support.clock import lease_time
from qgjet.support.log_limiter import LogLimiter

log = logging.getLogger(__name__)


class VisibilityTimeout:
    """What the log's stream says, as last read.

    `streams.adoption_time_s` rests on two rules: a lease is begun and confirmed only with a value
    that is fresh (`lease_s`), and the value only ever gets shorter. A longer one is adopted by the
    next start; until then this agent sends more heartbeats than it has to.
    """

    def __init__(self, connection: Connection, settings: QueueSettings) -> None:
        self._connection = connection
        self.settings = settings
        """With what is in force for consumers."""
        self.shortest_s = settings.visibility_timeout_s
        self._read_at = float("-inf")
        self._complaints = LogLimiter(log)

    @property
    def redelivery_s(self) -> float:
        """How long consumers wait before they give a job to another agent."""
        return self.settings.visibility_timeout_s

    async def read(self) -> None:
        """Adopt what is in force. Raises NatsUnavailable."""
        asked_at = lease_time()
        config = await streams.stream_config(self._connection, STREAM)
        try:
            deployment = None if config is None else streams.deployment_of(config)
        except IncompatibleServer as error:  # as little can be read by who would shorten it
            self._complaints.warn(f"the visibility timeout stays at {self.shortest_s:g}s: {error}")
            deployment = None
        if deployment is not None:
            self.settings = self.settings.agreed(deployment)
            self.shortest_s = min(self.shortest_s, deployment.lease_timeout_s)
        self._read_at = asked_at

    async def lease_s(self, at: float) -> float:
        """The timeout for a lease that counts from `at`, a reading of `lease_time()`. Raises
        NatsUnavailable.
        """
        if self._read_at < at - streams.VALUE_FRESH_S:
            await self.read()
        return self.shortest_s
