"""Ways in which a test can go, each with the verdict that a person gives it. Run live by
test_live_verdicts.py, and all of them by `make soak`.
"""

from __future__ import annotations

from msgspec import Struct

DEVICE = 'import { test, expect } from "./shop";\n'
PLAIN = 'import { test, expect } from "appwright";\n'
GONE = 'await device["webdriverClient"].deleteSession();'


class Kind(Struct, frozen=True, kw_only=True):
    """One run of `qgjet run`, and what it must come to."""

    name: str
    spec: str = ""
    """Text of the test file."""
    verdict: str
    reason: str
    code: int
    """Exit code of `qgjet run`."""
    junit: str
    """What the JUnit report says of the job: passed, failure, error, skipped or flakyFailure."""
    says: str = ""
    """Stands in the JUnit report."""
    config: str = ""
    """Lines for the configuration of AppWright, before its last one."""
    max_retries: int = 0
    absent: str = ""
    """A file that must not be in the project afterwards."""


def failed(name: str, spec: str, **more: object) -> Kind:
    return Kind(
        **{
            "name": name,
            "spec": spec,
            "verdict": "failed",
            "reason": "tests_failed",
            "code": 1,
            "junit": "failure",
            **more,
        }
    )  # type: ignore[arg-type]


def infra(name: str, spec: str, reason: str, **more: object) -> Kind:
    return Kind(
        **{
            "name": name,
            "spec": spec,
            "verdict": "infra_error",
            "reason": reason,
            "code": 3,
            "junit": "error",
            **more,
        }
    )  # type: ignore[arg-type]


def config(name: str, spec: str, reason: str, **more: object) -> Kind:
    return Kind(
        **{
            "name": name,
            "spec": spec,
            "verdict": "config_error",
            "reason": reason,
            "code": 3,
            "junit": "error",
            **more,
        }
    )  # type: ignore[arg-type]


def green(name: str, spec: str, **more: object) -> Kind:
    return Kind(
        **{
            "name": name,
            "spec": spec,
            "verdict": "passed",
            "reason": "",
            "code": 0,
            "junit": "passed",
            **more,
        }
    )  # type: ignore[arg-type]


APPWRIGHT = (
    failed(
        "an-assertion-about-the-words-of-a-network-error",
        PLAIN
        + 'test("banner", () => { expect("connect ECONNREFUSED 127.0.0.1:4723", "connect ECONNREFUSED 127.0.0.1:4723").toBe("Connected"); });\n',
        says="Connected",
    ),
    infra(
        "not-visible-on-a-session-that-is-gone",
        DEVICE
        + f'test("no error is shown", async ({{ device }}) => {{ {GONE} await expect(device.getByText("Oops")).not.toBeVisible({{ timeout: 2000 }}); }});\n',
        "session_lost",
    ),
    infra(
        "a-tap-on-a-session-that-is-gone",
        DEVICE
        + f'test("pays", async ({{ device }}) => {{ {GONE} await device.getByText("Pay").tap({{ timeout: 2000 }}); }});\n',
        "session_lost",
    ),
    infra(
        "a-known-bug-without-a-session",
        DEVICE
        + f'test.fail("cart counts (known bug)", async ({{ device }}) => {{ {GONE} await device.getByText("Cart").tap({{ timeout: 2000 }}); }});\n',
        "session_lost",
    ),
    failed(
        "a-wrong-total-and-a-clean-up-that-fails",
        PLAIN
        + 'test.afterEach(() => { throw new Error("read ECONNRESET"); });\ntest("total", () => { expect("Total $44.40").toBe("Total $39.90"); });\n',
        says="39.9",
    ),
    failed(
        "an-assertion-that-nothing-waited-for",
        'import assert from "node:assert";\n'
        + PLAIN
        + "const slow = test.extend<{}, { slow: number }>({ slow: [async ({}, use) => { await use(1); await new Promise((done) => setTimeout(done, 1500)); },"
        + ' { scope: "worker" }] });\n'
        + 'slow("total", ({ slow }) => { setTimeout(() => assert.equal("Total $44.40", "Total $39.90"), 300); });\n',
        says="44.40",
    ),
    failed(
        "a-missing-snapshot",
        PLAIN + 'test("menu", () => { expect("Soup\\nBread\\n").toMatchSnapshot("menu.txt"); });\n',
        max_retries=2,
        absent="tests/a-missing-snapshot.spec.ts-snapshots",
        says="snapshot",
    ),
    failed(
        "failed-and-then-skipped-in-the-next-attempt",
        PLAIN
        + 'test("pays", () => { test.skip(process.env.QGJET_ATTEMPT === "2"); expect(1).toBe(2); });\ntest("opens", () => {});\n',
        reason="not_passed_again",
        max_retries=1,
        says="Expected",
    ),
    failed(
        "a-shard-in-the-configuration",
        PLAIN
        + "for (const n of [1, 2, 3, 4, 5, 6]) test(`t${n}`, () => { expect(n).not.toBe(5); });\n",
        config="config.shard = { total: 3, current: 1 };",
    ),
    config(
        "only-one-test-in-ci",
        PLAIN + 'test.only("a", () => {});\ntest("b", () => {});\n',
        "load_error",
        config="config.forbidOnly = !!process.env.CI;",
    ),
    # -- those above in `make test`, all of them in `make soak`
    failed(
        "node-assert",
        'import assert from "node:assert";\n'
        + PLAIN
        + 'test("banner", () => { assert.equal("ECONNREFUSED", "Connected"); });\n',
    ),
    failed(
        "own-throw",
        PLAIN
        + 'test("banner", () => { throw new Error("banner shows Session is either terminated or not started"); });\n',
    ),
    failed(
        "own-matcher",
        PLAIN
        + "const shop = expect.extend({ toShow(shown: string, wanted: string) {\n"
        + "  return { pass: shown === wanted, message: () => `${shown} is not ${wanted}` }; } });\n"
        + 'test("page", () => { (shop("socket hang up") as any).toShow("Thank you"); });\n',
    ),
    failed(
        "to-pass",
        PLAIN
        + 'test("banner", async () => { await expect(async () => { throw new Error("the app says ECONNRESET"); }).toPass({ timeout: 300 }); });\n',
    ),
    failed(
        "poll",
        PLAIN
        + 'test("banner", async () => { await expect.poll(() => "ECONNREFUSED", { timeout: 300 }).toBe("Connected"); });\n',
    ),
    failed(
        "soft-assertion-and-a-session-that-is-gone",
        DEVICE
        + f'test("pays", async ({{ device }}) => {{ expect.soft(1).toBe(2); {GONE} await device.getByText("Pay").tap({{ timeout: 2000 }}); }});\n',
    ),
    green(
        "known-bug",
        PLAIN
        + 'test.fail("cart counts (known bug)", () => { expect("2 items").toBe("3 items"); });\n',
    ),
    infra(
        "a-known-bug-in-a-worker-that-dies",
        PLAIN + 'test.fail("cart counts (known bug)", () => { process.exit(7); });\n',
        "worker_crashed",
    ),
    green(
        "prints-70-mb",
        PLAIN
        + 'test("a", () => { const line = "x".repeat(1023) + "\\n"; for (let i = 0; i < 70 * 1024; i++) process.stdout.write(line); });\n',
    ),
    green(
        "attaches-60-mb",
        PLAIN
        + 'test("a", async () => { await test.info().attach("dump", { body: Buffer.alloc(60 * 1024 * 1024), contentType: "application/octet-stream" }); });\n',
    ),
    infra(
        "a-set-up-that-reads-html",
        PLAIN + 'test("a", () => {});\n',
        "setup_failed",
        config='config.globalSetup = require.resolve("./reads-html.cjs");',
    ),
    infra(
        "a-backend-that-refuses",
        PLAIN + 'test("a", async () => { await fetch("http://127.0.0.1:9/seed"); });\n',
        "network",
    ),
    config("a-syntax-error", PLAIN + 'test("a", async () => { await ( });\n', "syntax_error"),
    config(
        "a-missing-import",
        'import { pages } from "./no-such-file";\n' + PLAIN + 'test("a", () => { pages(); });\n',
        "module_not_found",
    ),
)
IN_EVERY_RUN = APPWRIGHT[:10]

PYTEST = (
    failed(
        "pytest-assertion",
        "def test_banner():\n    shown = 'ECONNREFUSED'\n    assert shown == 'Connected'\n",
        says="Connected",
    ),
    config(
        "pytest-missing-import",
        "import no_such_shop_pages\n\n\ndef test_pays():\n    pass\n",
        "module_not_found",
    ),
    infra(
        "pytest-device-refuses",
        "import socket\n\nimport pytest\n\n\n@pytest.fixture\ndef driver():\n    return socket.create_connection(('127.0.0.1', 9))\n\n\n"
        "def test_pays(driver):\n    pass\n",
        "network",
    ),
    failed(
        "pytest-assertion-and-a-clean-up-that-is-refused",
        "import socket\n\nimport pytest\n\n\n@pytest.fixture\ndef driver():\n    yield 1\n    socket.create_connection(('127.0.0.1', 9))\n\n\n"
        "def test_total(driver):\n    assert '44.40' == '39.90'\n",
        says="39.90",
    ),
    green("pytest-passes", "def test_a():\n    print('adb: device offline')\n"),
)
"""With the pytest of this environment."""


class Replay(Struct, frozen=True, kw_only=True):
    """A report that a tool wrote, copied to where the command's is due."""

    recorded: str
    """Directory in tests/data/junit-tools."""
    verdict: str
    reason: str
    code: int
    junit: str


REPLAYS = (
    Replay(
        recorded="robot-appium-refused",
        verdict="infra_error",
        reason="network",
        code=3,
        junit="error",
    ),
    Replay(
        recorded="robot-assert-words",
        verdict="failed",
        reason="tests_failed",
        code=1,
        junit="failure",
    ),
    Replay(
        recorded="jest-assert-words",
        verdict="failed",
        reason="tests_failed",
        code=1,
        junit="failure",
    ),
    Replay(
        recorded="mocha-assert-words",
        verdict="failed",
        reason="tests_failed",
        code=1,
        junit="failure",
    ),
    Replay(
        recorded="maestro-grpc-unavailable",
        verdict="infra_error",
        reason="session_lost",
        code=3,
        junit="error",
    ),
    Replay(
        recorded="maestro-canceled-exit-0",
        verdict="infra_error",
        reason="interrupted",
        code=3,
        junit="error",
    ),
    Replay(
        recorded="gradle-retry-passes",
        verdict="flaky",
        reason="flaky",
        code=0,
        junit="flakyFailure",
    ),
)
