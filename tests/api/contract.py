"""The API against its own OpenAPI document: Schemathesis makes requests that fit it and requests
that do not, a real server answers, and the answers are held against the document. Half of the ids
are real ones, so that more is seen than 404.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from patience import patience

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TIMEOUT_S = 20.0

Headers = Mapping[str, str]


def examine(
    url: str,
    *,
    ids: Mapping[str, Sequence[str]],
    callers: Sequence[Headers],
    cases: int,
    number: int = 0,
) -> Counter[tuple[str, int]]:
    """Ask every route at least `cases` times altogether, as each of `callers` in turn; gives how
    often (route, status) was seen.

    Raises Schemathesis' failure for a 5xx, an undocumented status, or a body that is not what the
    document says. `number` seeds the choice.
    """
    document = requests.get(f"{url}/docs/openapi.json", timeout=patience(TIMEOUT_S)).json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    seen: Counter[tuple[str, int]] = Counter()

    def examine_one(operation: Any, examples: int) -> None:
        strategy = operation.as_strategy(
            generation_mode=GenerationMode.POSITIVE
        ) | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @seed(number + seen.total())
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            case=strategy,
            caller=st.sampled_from(callers),
            real=st.fixed_dictionaries(
                {name: st.sampled_from([None, *known]) for name, known in ids.items()}
            ),
        )
        def ask(case: Case, caller: Headers, real: Mapping[str, str | None]) -> None:
            _mend(case, real)
            seen[f"{case.method} {case.operation.path}", _ask(case, caller, url, session)] += 1

        ask()

    with requests.Session() as session:
        while seen.total() < cases:  # a route without parameters has no second case
            for operation in operations:
                examine_one(operation, -(-(cases - seen.total()) // len(operations)) or 1)
    return seen


def _mend(case: Case, real: Mapping[str, str | None]) -> None:
    """Put real ids and acceptable jobs in the place of what chance would hardly make."""
    for name, known in real.items():
        if known is not None and name in case.path_parameters:
            case.path_parameters[name] = known
    if re.fullmatch(
        r"[\d.eE+\[\]'\" ]+", str(case.query.get("min_seq", ""))
    ):  # of a far future it is a 503 after 2 s, as it should be
        case.query["min_seq"] = 1
    if real["job_id"] and isinstance(case.body, dict) and "app_version_id" in case.body:
        needed = (
            {"tests": ["x.js"], "jobs": [], "target": "emulator", "targets": []}
            if "/suites" in case.path
            else {"test": "x.js", "test_path": "", "target": "emulator"}
        )
        kept = {name: case.body[name] for name in ("on_duplicate", "atomic") if name in case.body}
        case.body = {**kept, "org_id": "acme", "app_version_id": "1", **needed}


def _ask(case: Case, caller: Headers, url: str, session: requests.Session) -> int:
    if "text/event-stream" in case.operation.definition.raw["responses"].get("200", {}).get(
        "content", {}
    ):
        return _begin(case, caller, url, session)
    answer = case.call(
        base_url=url, session=session, headers=dict(caller), timeout=patience(TIMEOUT_S)
    )
    case.validate_response(answer, checks=CHECKS)
    _check_headers(answer.headers)
    return answer.status_code


def _begin(case: Case, caller: Headers, url: str, session: requests.Session) -> int:
    """A stream has no end to wait for: its beginning has to do."""
    with session.request(
        **case.as_transport_kwargs(base_url=url, headers=dict(caller)),
        stream=True,
        timeout=patience(TIMEOUT_S),
    ) as answer:
        assert str(answer.status_code) in case.operation.definition.raw["responses"], (
            answer.status_code,
            case,
        )
        assert answer.headers["content-type"].startswith(
            "text/event-stream" if answer.ok else "application/problem+json"
        )
        return answer.status_code


def _check_headers(headers: Mapping[str, Any]) -> None:
    names = {name.lower() for name in headers}
    assert {
        "x-content-type-options",
        "content-security-policy",
        "referrer-policy",
        "cache-control",
    } <= names, names
