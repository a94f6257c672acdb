"""qgjet queues AppWright test jobs on NATS JetStream and runs them on emulators, devices and BrowserStack."""

from qgjet.version import __version__

__all__ = ["__version__"]
