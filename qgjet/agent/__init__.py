"""The agent: pulls jobs, keeps their leases, runs them in its slots and reports their outcomes."""
