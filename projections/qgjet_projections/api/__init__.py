"""The HTTP API: routes, and what they need to know whom they answer."""
