"""Documents that somebody has tampered with: what a parser gets from a foreign writer, a broken
disk or a hostile test.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

DEEP = "[" * 20_000 + "]" * 20_000
RAW = [
    "null", "true", "0", "-1", "1e308", "1e999", "NaN", "-Infinity", "9" * 30, "9" * 5000, "18446744073709551616",
    "9223372036854775808", "-9223372036854775809",
    '""', '"x"', r'"\ud800"', r'"\u0000"', r'"\u001b[2J"', '"../../x"', '"' + "y" * 3000 + '"', "[]", "{}", "[[]]", '{"a":1,"a":2}', DEEP,
    '"0001-01-01T00:00:00+14:00"', '"9999-12-31T23:59:59.999999-14:00"', '"2026-01-01T00:00:00"', '"queued"', '"running"', '"done"', '"passed"', '"flaky"',
]  # fmt: skip
"""JSON, or nearly, to stand in for a value."""
_PLACE = "\ue000%d\ue000"


@st.composite
def tampered(draw: st.DrawFn, document: Any) -> bytes:
    """`document` as JSON with one to three of its values replaced, removed or doubled; now and then
    its bytes are damaged too.
    """
    document = json.loads(json.dumps(document))
    stand_ins: dict[str, str] = {}
    for number in range(draw(st.integers(1, 3))):
        _change(draw, document, _PLACE % number, stand_ins)
    text = json.dumps(document, ensure_ascii=False)
    for place, raw in stand_ins.items():
        text = text.replace(f'"{place}"', raw)
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data


def _change(draw: st.DrawFn, document: Any, place: str, stand_ins: dict[str, str]) -> None:
    holder = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 3)):
            holder = holder[key]
            continue
        break
    match draw(st.sampled_from(["replace", "replace", "replace", "remove", "double"])):
        case "replace":
            holder[key] = place
            stand_ins[place] = draw(st.sampled_from(RAW))
        case "remove":
            del holder[key]
        case _ if isinstance(holder, list):
            holder.append(holder[key])
        case _:
            holder[place] = holder[key]
            stand_ins[place] = json.dumps(key)  # the same key twice


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bytes changed, cut out or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.sampled_from(["put", "cut", "end"])):
            case "put":
                changed[at : at + draw(st.integers(0, 2))] = draw(
                    st.binary(max_size=3)
                    | st.sampled_from([b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b'"', b"}", b"\\"])
                )
            case "cut":
                del changed[at : at + draw(st.integers(1, 20))]
            case _:
                del changed[at:]
    return bytes(changed)
