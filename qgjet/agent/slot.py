"""A slot of an agent: one job at a time, and one partition kept warm."""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from pathlib import Path

from qgjet.agent.cleanup import remove
from qgjet.domain.events import Partition
from qgjet.errors import HostFailed, PrepareFailed
from qgjet.runners.base import Runner, Session

log = logging.getLogger(__name__)


class AgentSlot:
    """Owns at most one session. Used by one task at a time."""

    _numbers = itertools.count(1)

    def __init__(self, target: str, runner: Runner, work_dir: Path) -> None:
        self.target = target
        self.busy = False
        self.run_in_a_row = 0
        self.idle_since = 0.0
        self.partition: Partition | None = None
        """What is prepared, or being prepared."""
        self._runner = runner
        self._work_dir = work_dir
        self._session: Session | None = None
        self._directory: Path | None = None
        self._releasing: asyncio.Future[None] | None = None

    async def session(self, partition: Partition) -> tuple[Session, bool]:
        """A healthy session of `partition`, and whether it was warm already.

        A session of another partition is released first; one that is not healthy any more is
        prepared anew, once. Raises PrepareFailed.
        """
        if (
            self._session is not None
            and self.partition == partition
            and self._is_complete()
            and await self._session.healthy()
        ):
            return self._session, True
        await self.release()
        self.partition = partition
        try:
            self._session = await self._prepare(partition)
        except BaseException:
            await self.release()
            raise
        return self._session, False

    def _is_complete(self) -> bool:
        """Whether the session's directory is still there."""
        return self._directory is not None and self._directory.is_dir()

    async def _prepare(self, partition: Partition) -> Session:
        try:
            self._directory = Path(
                tempfile.mkdtemp(prefix=f"session-{next(self._numbers)}-", dir=self._work_dir)
            )
            session = await self._runner.prepare(partition, self._directory)
        except PrepareFailed:
            raise
        except OSError as error:
            raise HostFailed(
                f"{self.target} cannot be prepared: {error.strerror or error}"
            ) from error
        except Exception as defect:
            log.exception("%s: the runner failed to prepare", partition)
            raise PrepareFailed(
                f"the runner of {self.target} failed: {type(defect).__name__}: {defect}"
            ) from defect
        try:
            healthy = await session.healthy()
        except BaseException:
            await session.release()
            raise
        if healthy:
            return session
        await session.release()
        raise PrepareFailed(
            f"{self.target} was prepared for {partition.app_version_id}, but is not healthy"
        )

    async def release(self) -> None:
        """Let go of what is warm, to the end, even if the caller is cancelled meanwhile: half a
        release leaves a device where nobody finds it.

        A second call waits for the first.
        """
        session, self._session = self._session, None
        directory, self._directory = self._directory, None
        self.partition, self.run_in_a_row = None, 0
        if session is not None or directory is not None:
            self._releasing = asyncio.ensure_future(self._let_go(session, directory))
        if self._releasing is not None:
            await asyncio.shield(self._releasing)

    async def _let_go(self, session: Session | None, directory: Path | None) -> None:
        try:
            if session is not None:
                await session.release()
        except Exception:
            log.exception("a session of %s could not be released properly", self.target)
        finally:
            if directory is not None:
                await remove(directory)
