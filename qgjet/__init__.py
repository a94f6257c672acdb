"""qgjet queues AppWright test jobs on NATS JetStream and runs them on emulators, devices and
BrowserStack.

The library submits jobs, follows them and reads their report:

    async with qgjet.connect("nats://127.0.0.1:4222") as client:
        suite = await client.submit([qgjet.Job(app_version_id="1.0.0", target="emulator", test="tests/login.spec.ts")])
        report = await suite.wait(timeout=600)

`connect_sync` is the same for code without an event loop. Everything that is raised on purpose is a
`QgjetError`; `qgjet.errors` has the tree.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qgjet.version import __version__

if TYPE_CHECKING:
    from qgjet.client.library import Client, Job, Report, Suite, connect
    from qgjet.client.sync import SyncClient, SyncSuite, connect_sync
    from qgjet.client.tracker import JobUpdate, TrackedJob
    from qgjet.domain.decide import OnDuplicate
    from qgjet.domain.events import Outcome, Status, Verdict
    from qgjet.errors import QgjetError
    from qgjet.reporting.model import JobReport
    from qgjet.runners.base import Attempt, Runner, Session

__all__ = [
    "Attempt",
    "Client",
    "Job",
    "JobReport",
    "JobUpdate",
    "OnDuplicate",
    "Outcome",
    "QgjetError",
    "Report",
    "Runner",
    "Session",
    "Status",
    "Suite",
    "SyncClient",
    "SyncSuite",
    "TrackedJob",
    "Verdict",
    "__version__",
    "connect",
    "connect_sync",
]

_HOMES = {
    "qgjet.client.library": ("Client", "Job", "Report", "Suite", "connect"),
    "qgjet.client.sync": ("SyncClient", "SyncSuite", "connect_sync"),
    "qgjet.client.tracker": ("JobUpdate", "TrackedJob"),
    "qgjet.domain.decide": ("OnDuplicate",),
    "qgjet.domain.events": ("Outcome", "Status", "Verdict"),
    "qgjet.errors": ("QgjetError",),
    "qgjet.reporting.model": ("JobReport",),
    "qgjet.runners.base": ("Attempt", "Runner", "Session"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is used first: an agent has no use for the client, nor a client for
    runners.
    """
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qgjet' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
