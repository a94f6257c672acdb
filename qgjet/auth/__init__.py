"""API tokens: what they allow, and the file that keeps their hashes."""
