"""Runners execute jobs on a target: AppWright, a command, or a script of outcomes. They know no NATS subject, no lease and no retry."""
