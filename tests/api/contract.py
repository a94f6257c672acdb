"""The API against its own OpenAPI document: Schemathesis makes requests that fit it and requests that do not, a real server answers, and the answers are
held against the document. Half of the ids are real ones, so that more is seen than 404."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_headers_conformance, response_schema_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
TIMEOUT_S = 20.0

Headers = Mapping[str, str]


def examine(url: str, *, ids: Mapping[str, Sequence[str]], callers: Sequence[Headers], cases: int, number: int = 0) -> Counter[tuple[str, int]]:
    """Ask every route at least `cases` times altogether, as each of `callers` in turn; gives how often (route, status) was seen.

    Raises Schemathesis' failure for a 5xx, an undocumented status, or a body that is not what the document says. `number` seeds the choice.
    """
    document = requests.get(f"{url}/docs/openapi.json", timeout=TIMEOUT_S).json()
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    seen: Counter[tuple[str, int]] = Counter()
    with requests.Session() as session:
        for operation in operations:
            each = -(-cases // len(operations))
            strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE) | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

            @seed(number)
            @settings(max_examples=each, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
            @given(case=strategy, caller=st.sampled_from(callers), real=st.data())
            def ask(case: Case, caller: Headers, real: st.DataObject) -> None:
                for name, known in ids.items():
                    if name in case.path_parameters and real.draw(st.booleans()):
                        case.path_parameters[name] = real.draw(st.sampled_from(known))
                if isinstance(case.query.get("min_seq"), int):  # of a far future it is a 503 after 2 s, as it should be
                    case.query["min_seq"] = min(case.query["min_seq"], 5)
                seen[f"{case.method} {case.operation.path}", _ask(case, caller, url, session)] += 1

            ask()
    return seen


def _ask(case: Case, caller: Headers, url: str, session: requests.Session) -> int:
    if "text/event-stream" in case.operation.definition.raw["responses"]["200"].get("content", {}):
        return _begin(case, caller, url, session)
    answer = case.call(base_url=url, session=session, headers=dict(caller), timeout=TIMEOUT_S)
    case.validate_response(answer, checks=CHECKS)
    _check_headers(answer.headers)
    return answer.status_code


def _begin(case: Case, caller: Headers, url: str, session: requests.Session) -> int:
    """A stream has no end to wait for: its beginning has to do."""
    with session.request(**case.as_transport_kwargs(base_url=url, headers=dict(caller)), stream=True, timeout=TIMEOUT_S) as answer:
        assert str(answer.status_code) in case.operation.definition.raw["responses"], (answer.status_code, case)
        assert answer.headers["content-type"].startswith("text/event-stream" if answer.ok else "application/problem+json")
        return answer.status_code


def _check_headers(headers: Mapping[str, Any]) -> None:
    names = {name.lower() for name in headers}
    assert {"x-content-type-options", "content-security-policy", "referrer-policy", "cache-control"} <= names, names
