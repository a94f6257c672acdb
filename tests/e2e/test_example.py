"""Real AppWright specs through the whole of qgjet: embedded server, API, agents, device double,
verdicts, exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from e2e.conftest import Ended

pytestmark = pytest.mark.timeout(150)
Qgjet = Callable[..., Ended]
RUN = ("run", "--org-id", "shop", "--json")


def by_test(ended: Ended) -> dict[tuple[str, str], dict[str, Any]]:
    return {(job["test"], job["target"]): job for job in ended.document["jobs"]}


def verdicts(ended: Ended) -> dict[tuple[str, str], str]:
    return {key: job["verdict"] for key, job in by_test(ended).items()}


def test_version_1_passes_on_all_three_targets(qgjet: Qgjet) -> None:
    tests = ("--test", "tests/onboarding.spec.js", "--test", "tests/{login,cart}.spec.ts")
    targets = ("--target", "emulator", "--target", "device", "--target", "browserstack")
    ended = qgjet(*RUN, "--app-version-id", "1.0.0", *tests, *targets)
    assert (ended.code, set(verdicts(ended).values())) == (0, {"passed"}), ended.stderr
    specs = ("tests/onboarding.spec.js", "tests/login.spec.ts", "tests/cart.spec.ts")
    assert set(verdicts(ended)) == {
        (test, target) for test in specs for target in ("emulator", "device", "browserstack")
    }


def test_version_2_fails_where_its_description_says(qgjet: Qgjet) -> None:
    ended = qgjet(
        *RUN,
        "--app-version-id",
        "2.0.0",
        "--test",
        "tests/{cart,checkout,login}.spec.ts",
        "--target",
        "emulator",
        "--max-retries",
        "0",
    )
    assert ended.code == 1, ended.stderr
    expected = {
        "tests/cart.spec.ts": "failed",
        "tests/checkout.spec.ts": "failed",
        "tests/login.spec.ts": "passed",
    }
    assert {test: verdict for (test, _), verdict in verdicts(ended).items()} == expected
    assert "Total $39.90" in str(by_test(ended)["tests/cart.spec.ts", "emulator"])
