"""Agents: processes that lease jobs and execute them through runners."""
