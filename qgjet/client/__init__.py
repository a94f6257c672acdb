"""Submits jobs, follows them and asks about them: straight to NATS, or through the HTTP API."""
