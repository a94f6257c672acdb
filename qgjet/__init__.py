"""qgjet queues AppWright test jobs on NATS JetStream and runs them on emulators, devices and BrowserStack."""

__version__ = "0.1.0"
