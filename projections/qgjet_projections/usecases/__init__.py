"""What the API and the dashboard do to the queue. Knows no HTTP."""
