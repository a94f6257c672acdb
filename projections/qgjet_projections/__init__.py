"""The read model of the event log, the janitor, and the HTTP API over them."""
