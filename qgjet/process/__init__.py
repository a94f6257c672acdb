"""Process trees that end with their owner. Knows no job and no NATS."""
