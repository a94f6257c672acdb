"""What a developer, or a CI around the tests, has set for qgjet: kept from commands under test."""

from __future__ import annotations

CI = frozenset({"GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "JENKINS_URL"})
"""By these qgjet knows where it is."""


def is_ours(name: str) -> bool:
    """Whether a variable of that name changes what a command does."""
    return name.startswith("QGJET_") or name in CI
