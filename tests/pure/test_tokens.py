"""Tokens: what is kept of them, and what they allow."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories import NOW
from qgjet.auth import tokens
from qgjet.auth.tokens import Scope, Token
from qgjet.errors import InvalidInput

SECRETS = st.binary(min_size=32, max_size=32).map(
    lambda data: base64.urlsafe_b64encode(data).decode().rstrip("=")
)
IDS = st.binary(min_size=6, max_size=6)


def minted(token_id: bytes = b"\1" * 6, secret: str = "s" * 43, **fields: Any) -> tuple[str, Token]:
    given: dict[str, Any] = {
        "name": "ci",
        "scopes": [Scope.SUBMIT],
        "orgs": ["acme"],
        "now": NOW,
        **fields,
    }
    return tokens.mint(token_id=token_id, secret=secret, **given)


@given(IDS, SECRETS)
def test_a_token_is_found_by_its_text_and_what_is_kept_does_not_hold_it(
    token_id: bytes, secret: str
) -> None:
    text, kept = minted(token_id, secret)
    assert tokens.find({kept.id: kept}, text) == kept
    stored = tokens.text_of([kept])
    assert secret not in stored
    assert tokens.parse(stored, "file") == {kept.id: kept}


@given(IDS, SECRETS, st.integers(0, 61), st.characters())
def test_a_text_that_differs_anywhere_is_no_token(
    token_id: bytes, secret: str, place: int, other: str
) -> None:
    text, kept = minted(token_id, secret)
    changed = text[:place] + other + text[place + 1 :]
    assert (tokens.find({kept.id: kept}, changed) is None) == (changed != text)


@given(st.text(max_size=100))
def test_any_text_is_refused_quietly(text: str) -> None:
    _, kept = minted()
    assert tokens.find({kept.id: kept}, text) is None
    assert tokens.find({}, text) is None
    tokens.bearer(text)


@given(
    st.text(max_size=200)
    | st.sampled_from(
        ['{"tokens":[{}]}', '{"tokens":1}', "[]", "[" * 100_000, '{"tokens":[],"x":1}']
    )
)
def test_a_file_that_is_no_list_of_tokens_is_refused_with_its_name(text: str) -> None:
    if text:
        with pytest.raises(InvalidInput) as caught:
            tokens.parse(text, "the file")
        assert caught.value.field == "the file"


def test_a_token_of_another_id_is_not_found_by_the_hash_alone() -> None:
    text, kept = minted()
    assert tokens.find({"0" * 12: kept}, text) is None


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        ([Scope.READ], {Scope.READ}),
        ([Scope.SUBMIT], {Scope.READ, Scope.SUBMIT}),
        ([Scope.READ, Scope.OPERATE], set(Scope)),
    ],
)
def test_a_scope_includes_those_before_it(scopes: list[Scope], allowed: set[Scope]) -> None:
    _, kept = minted(scopes=scopes)
    assert {scope for scope in Scope if kept.allows(scope)} == allowed


def test_a_star_is_every_org() -> None:
    assert minted(orgs=["acme", "*"])[1].only_orgs is None
    assert minted(orgs=["acme", "globex", "acme"])[1].only_orgs == {"acme", "globex"}


def test_a_token_ends_when_it_expires_or_is_revoked() -> None:
    _, kept = minted(expires_at=NOW + timedelta(days=1))
    assert kept.why_not(NOW) == ""
    assert "expired at 2" in kept.why_not(NOW + timedelta(days=1))
    after = tokens.revoked({kept.id: kept}, kept.id, NOW)
    assert "was revoked at 2" in after[kept.id].why_not(NOW)
    assert tokens.revoked(after, kept.id, NOW + timedelta(1)) == after
    with pytest.raises(InvalidInput, match="qgjet token list"):
        tokens.revoked(after, "nobody", NOW)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": []}, "scope"),
        ({"orgs": []}, "org"),
        ({"orgs": [""]}, "org"),
        ({"orgs": ["\udcff"]}, "org"),
    ],
)
def test_what_makes_no_token_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        minted(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("header", "text"),
    [("Bearer a", "a"), ("bearer  a ", "a"), ("Basic a", ""), ("", ""), ("Bearer", ""), ("a", "")],
)
def test_the_token_is_what_follows_bearer(header: str, text: str) -> None:
    assert tokens.bearer(header) == text
