"""CI systems: what they tell about a run, and what they are told."""
