"""Background work of the server: the janitor, and retention."""
