"""The reason codes of outcomes; `docs/verdicts.md` explains each."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a verdict is what it is. A passed attempt has none."""

    FLAKY = "flaky"
    ALL_SKIPPED = "all_skipped"

    TESTS_FAILED = "tests_failed"
    TEST_TIMEOUT = "test_timeout"
    FLAKY_NOT_ALLOWED = "flaky_not_allowed"
    COMMAND_FAILED = "command_failed"
    NOT_PASSED_AGAIN = "not_passed_again"

    DEADLINE = "deadline"
    GLOBAL_TIMEOUT = "global_timeout"
    CANCELLED = "cancelled"

    NO_TESTS = "no_tests"
    SYNTAX_ERROR = "syntax_error"
    MODULE_NOT_FOUND = "module_not_found"
    LOAD_ERROR = "load_error"
    UNKNOWN_PROJECT = "unknown_project"
    BAD_CONFIG = "bad_config"
    BAD_OPTION = "bad_option"
    SHARDED = "sharded"
    COMMAND_NOT_FOUND = "command_not_found"
    INCOMPATIBLE_PLAYWRIGHT = "incompatible_playwright"
    SETTING_MISSING = "setting_missing"
    CREDENTIALS_REFUSED = "credentials_refused"
    UPLOAD_REFUSED = "upload_refused"
    APP_MISSING = "app_missing"
    APP_INVALID = "app_invalid"
    SDK_INCOMPLETE = "sdk_incomplete"
    INVALID_INPUT = "invalid_input"

    DEVICE_UNAVAILABLE = "device_unavailable"
    SESSION_LOST = "session_lost"
    PORT_IN_USE = "port_in_use"
    NETWORK = "network"
    KNOWN_INFRA = "known_infra"
    WORKER_CRASHED = "worker_crashed"
    SETUP_FAILED = "setup_failed"
    TEARDOWN_FAILED = "teardown_failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    TESTS_NOT_RUN = "tests_not_run"
    EXIT_CODE_UNEXPLAINED = "exit_code_unexplained"
    REPORT_MISSING = "report_missing"
    REPORT_UNREADABLE = "report_unreadable"
    REPORT_INCOMPLETE = "report_incomplete"
    REPORT_MISMATCH = "report_mismatch"
    LEASE_LOST = "lease_lost"
    DRAINED = "drained"
    AGENT_IO = "agent_io"
    RUNNER_FAILED = "runner_failed"
