"""How commands run: event loop, signals, exit codes, and the services of one machine."""
