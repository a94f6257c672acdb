"""From flags, environment and settings to what is asked for."""
