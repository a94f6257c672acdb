"""The client: one protocol, straight to NATS or through the HTTP API."""
