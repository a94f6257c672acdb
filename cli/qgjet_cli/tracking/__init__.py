"""Jobs that a command follows: their state, their progress on the terminal, and the result."""
