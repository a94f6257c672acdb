"""Real AppWright specs through the whole of qgjet: embedded server, API, agents, device double, verdicts, exit code."""

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
    assert set(verdicts(ended)) == {(test, target) for test in specs for target in ("emulator", "device", "browserstack")}


def test_version_2_fails_where_its_description_says(qgjet: Qgjet) -> None:
    ended = qgjet(*RUN, "--app-version-id", "2.0.0", "--test", "tests/{cart,checkout,login}.spec.ts", "--target", "emulator", "--max-retries", "0")
    assert ended.code == 1, ended.stderr
    expected = {"tests/cart.spec.ts": "failed", "tests/checkout.spec.ts": "failed", "tests/login.spec.ts": "passed"}
    assert {test: verdict for (test, _), verdict in verdicts(ended).items()} == expected
    assert "Total $39.90" in str(by_test(ended)["tests/cart.spec.ts", "emulator"])


def test_a_test_that_passes_at_the_second_attempt_is_flaky(qgjet: Qgjet) -> None:
    flaky = (*RUN, "--app-version-id", "flaky", "--test", "tests/checkout.spec.ts", "--target", "emulator", "--max-retries", "1")
    ended = qgjet(*flaky, QGJET_QUEUE_RETRY_BASE="100ms")
    assert (ended.code, set(verdicts(ended).values())) == (0, {"flaky"}), ended.stderr
    strict = qgjet(*flaky, "--fail-on-flaky", QGJET_QUEUE_RETRY_BASE="100ms")
    assert (strict.code, set(verdicts(strict).values())) == (1, {"flaky"})


def test_a_device_that_goes_away_is_no_verdict_on_the_app(qgjet: Qgjet) -> None:
    ended = qgjet(*RUN, "--app-version-id", "unplug", "--test", "tests/cart.spec.ts", "--target", "device", QGJET_JOB_INFRA_RETRIES="0")
    assert (ended.code, set(verdicts(ended).values())) == (3, {"infra_error"}), ended.stderr


def test_a_device_that_is_not_there_is_no_verdict_on_the_app(qgjet: Qgjet) -> None:
    missing = {"FARM_NO_DEVICE": "1", "QGJET_JOB_INFRA_RETRIES": "0"}
    ended = qgjet(*RUN, "--app-version-id", "1.0.0", "--test", "tests/cart.spec.ts", "--target", "emulator", **missing)
    assert (ended.code, set(verdicts(ended).values())) == (3, {"infra_error"}), ended.stderr


def test_a_test_that_hangs_is_stopped_at_its_deadline(qgjet: Qgjet) -> None:
    hang = ("--app-version-id", "hang", "--test", "tests/profile.spec.ts", "--target", "emulator")
    ended = qgjet(*RUN, *hang, "--max-retries", "0", "--execution-timeout", "5s")
    assert (ended.code, set(verdicts(ended).values())) == (1, {"timed_out"}), ended.stderr


def test_a_spec_that_does_not_exist_is_a_config_error(qgjet: Qgjet) -> None:
    ended = qgjet(*RUN, "--app-version-id", "1.0.0", "--test", "tests/nothing.spec.ts", "--target", "emulator")
    assert (ended.code, set(verdicts(ended).values())) == (3, {"config_error"}), ended.stderr
