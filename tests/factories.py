"""Values for tests: a job specification with everything filled in."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

from qgjet.domain.events import JobSpec

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def spec(**fields: Any) -> JobSpec:
    given: dict[str, Any] = {
        "job_id": str(uuid.uuid4()),
        "org_id": "acme",
        "app_version_id": "1.0.0",
        "target": "emulator",
        "test": "tests/onboarding.spec.js",
        "submitted_at": NOW,
    }
    return JobSpec(**{**given, **fields})
